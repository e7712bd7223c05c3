from django.apps import AppConfig


class LadderConfig(AppConfig):
    name = "controlplane.ladder"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.approvals.kinds import register
        from controlplane.ladder import operations
        from controlplane.releases.sections import Section
        from controlplane.releases.sections import register as register_section

        register(operations.KIND)
        register_section(Section("copy", operations.compile_copy, operations.restore_copy))
