from django.apps import AppConfig


class PromptsConfig(AppConfig):
    name = "controlplane.prompts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.approvals.kinds import register
        from controlplane.prompts import operations
        from controlplane.releases.sections import Section
        from controlplane.releases.sections import register as register_section

        register(operations.KIND)
        register_section(Section("prompts", operations.compile_prompts, operations.restore_prompts))
