from django.apps import AppConfig


class RoutingConfig(AppConfig):
    name = "controlplane.routing"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.approvals.kinds import register
        from controlplane.releases.sections import Section, register_check
        from controlplane.releases.sections import register as register_section
        from controlplane.routing import holds, matrix, operations

        register(operations.KIND)
        register_section(Section("routing", operations.routing_tables.compile, operations.routing_tables.restore))
        # Without a way back: rolling a release back is no reason to hold a lane again, or to let one go.
        register_section(Section("lane_overrides", holds.compile_overrides))
        register_check(matrix.release_errors)
