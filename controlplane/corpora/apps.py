from django.apps import AppConfig


class CorporaConfig(AppConfig):
    name = "controlplane.corpora"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.approvals.kinds import register
        from controlplane.corpora import policies
        from controlplane.releases.sections import Section
        from controlplane.releases.sections import register as register_section

        register(policies.KIND)
        register_section(Section("corpora", policies.corpus_policies.compile, policies.corpus_policies.restore))
