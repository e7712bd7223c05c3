from django.apps import AppConfig


class ShadowsConfig(AppConfig):
    name = "controlplane.shadows"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.alerts import kinds
        from controlplane.approvals import preparations
        from controlplane.releases.sections import Section
        from controlplane.releases.sections import register as register_section
        from controlplane.routing.operations import KIND_NAME as ROUTING
        from controlplane.shadows import operations, promotion

        kinds.register(operations.KILLED, "A shadow was killed")
        # Without a way back: rolling a release back is no reason to ask a killed candidate again.
        register_section(Section("shadow_holds", operations.compile_holds))
        preparations.register(ROUTING, promotion.PREPARATION)
