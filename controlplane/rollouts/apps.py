from django.apps import AppConfig


class RolloutsConfig(AppConfig):
    name = "controlplane.rollouts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.approvals.kinds import register
        from controlplane.prompts import operations as prompts
        from controlplane.releases.sections import Section
        from controlplane.releases.sections import register as register_section
        from controlplane.rollouts import operations

        register(operations.KIND)
        register_section(Section("canaries", operations.compile_canaries, operations.restore_canaries))
        prompts.also_serve(operations.served_candidates)
        prompts.on_live_change(operations.end_on_live_change)
