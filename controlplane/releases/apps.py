from django.apps import AppConfig


class ReleasesConfig(AppConfig):
    name = "controlplane.releases"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from controlplane.accounts import operations as accounts
        from controlplane.releases import operations, trust
        from controlplane.releases.sections import Section, register

        register(Section("access", accounts.compile_access))
        register(Section("trust", trust.compile_trust))
        accounts.on_access_changed(operations.publish_on_commit)
