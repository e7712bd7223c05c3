from django.apps import AppConfig


class RoutingConfig(AppConfig):
    name = "controlplane.routing"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.approvals.kinds import register
        from controlplane.releases.sections import Section
        from controlplane.releases.sections import register as register_section
        from controlplane.routing import operations

        register(operations.KIND)
        register_section(Section("routing", operations.compile_routing, operations.restore_routing))
