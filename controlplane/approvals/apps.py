from django.apps import AppConfig


class ApprovalsConfig(AppConfig):
    name = "controlplane.approvals"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.approvals import policy_kind
        from controlplane.approvals.kinds import register

        register(policy_kind.KIND)
