from django.apps import AppConfig


class LadderConfig(AppConfig):
    name = "controlplane.ladder"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.approvals.kinds import register
        from controlplane.ladder import checks, emergency, operations, policies, standing
        from controlplane.releases.sections import Section, register_check
        from controlplane.releases.sections import register as register_section

        register(operations.KIND)
        register(policies.KIND)
        register_section(Section("copy", operations.compile_copy, operations.restore_copy))
        register_section(Section("ladder", policies.ladder_policies.compile, policies.ladder_policies.restore))
        # Without a way back: rolling a release back is no reason to engage a rung again, or to stand one down.
        register_section(Section("activations", standing.compile_activations))
        register_section(Section("emergency", emergency.compile_emergency))
        register_check(checks.release_errors)
