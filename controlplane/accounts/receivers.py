"""What allauth tells us happened, each handed to one operation."""

from typing import Any

from allauth.account.internal.flows.login import get_authentication_records
from allauth.account.signals import user_logged_in
from allauth.core import context
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.core.internal.httpkit import get_client_ip
from allauth.mfa.models import Authenticator
from allauth.mfa.signals import authentication_failed
from django.apps import AppConfig, apps
from django.db import connections
from django.db.models.signals import post_delete, post_migrate, post_save
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils import timezone

from controlplane.accounts import lockout, operations
from controlplane.accounts.models import Operator, RoleGrant


@receiver(user_logged_in)
def signed_in(request: HttpRequest, user: Operator, **kwargs: Any) -> None:
    """Somebody is in: with allauth's signal, since Django's own also speaks when a test or a task logs somebody in."""
    records = get_authentication_records(request, user)
    methods = [str(record.get("type") or record["method"]) for record in records]
    operations.record_sign_in(operator=user, methods=methods, address=address_of(request), now=timezone.now())


@receiver(authentication_failed)
def second_factor_failed(request: HttpRequest, user: Operator, **kwargs: Any) -> None:
    """A wrong code. allauth has counted it; the tenth within five minutes closes the door."""
    now = timezone.now()
    until = lockout.lock_if_exhausted(request, lockout.factor_key(user), now=now)
    operations.record_failed_sign_in(
        operator=user, why="second factor", address=address_of(request), locked_until=until, now=now
    )
    if until is not None:
        raise ImmediateHttpResponse(lockout.refusal(request, until, now=now))


# allauth's own signals come after its commit; the rows' come within, so the record cannot miss one.
@receiver(post_save, sender=Authenticator)
def second_factor_added(instance: Authenticator, created: bool, **kwargs: Any) -> None:
    if created and context.request is not None:
        operations.record_factor_added(operator=instance.user, kind=instance.type, now=timezone.now())


@receiver(post_delete, sender=Authenticator)
def second_factor_removed(instance: Authenticator, **kwargs: Any) -> None:
    if context.request is not None:  # otherwise it is `reset_sign_in`, which has its own event
        operations.record_factor_removed(operator=instance.user, kind=instance.type, now=timezone.now())


@receiver(post_migrate)
def migrated(sender: AppConfig, using: str, **kwargs: Any) -> None:
    """A newer version may give a role what an older one did not know; by the last app's turn, all permissions exist."""
    *_, last = (app for app in apps.get_app_configs() if app.models_module is not None)
    # On the way back to a state before this app there are no operators.
    if sender.name == last.name and RoleGrant._meta.db_table in connections[using].introspection.table_names():
        operations.renew_permissions()


def address_of(request: HttpRequest) -> str:
    """The caller's address as the rate limits see it."""
    return get_client_ip(request) or ""
