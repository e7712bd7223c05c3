"""Make and change channels, and raise alerts."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from controlplane.accounts.models import Operator
from controlplane.accounts.operations import SYSTEM
from controlplane.alerts import kinds, networks, sealing
from controlplane.alerts.errors import (
    ChannelDisabled,
    ChannelExists,
    DeliveryFailed,
    InvalidChannel,
    NoSecret,
)
from controlplane.alerts.models import Alert, Channel, ChannelKind, Delivery, Severity
from controlplane.alerts.outside import Outside, configured
from controlplane.audit import operations as audit
from controlplane.work import operations as work
from dataplane.deadletters import storable
from dataplane.ids import new_id

DELIVER: Final = "alerts.deliver"
# For so long after a rotation the old secret signs too: receivers change theirs when they get to it.
OVERLAP: Final = timedelta(hours=24)
MAX_MAILBOXES: Final = 20
_KIND: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_GONE: Final = "the receiver answered 410: it is gone for good"


@dataclass(frozen=True, slots=True)
class Issued:
    """A channel, and the secret of a webhook (else ""), which is shown this once."""

    channel: Channel
    secret: str


# --- channels --------------------------------------------------------------------------------------------------------
def create_channel(
    *,
    slug: str,
    kind: ChannelKind,
    url: str = "",
    addresses: Sequence[str] = (),
    events: Sequence[str] = (),
    actor: Operator | str,
    now: datetime,
    outside: Outside | None = None,
) -> Issued:
    """Make a channel; alerts go to it from now on.

    Args:
        url: Of a webhook; its host is looked up.
        addresses: Of e-mail.
        events: The kinds of alerts that it wants; none: all.
    Raises:
        InvalidChannel, AddressRefused: by field.
        ChannelExists: the name is in use.
    """
    _check(kind, url=url, addresses=addresses, events=events, outside=outside or configured())
    return _create(slug, kind, url, list(addresses), list(dict.fromkeys(events)), actor=actor, now=now)


# Checked before the operation: looking a name up can take seconds, and the record's lock is everybody's.
@audit.operation
def _create(
    slug: str,
    kind: ChannelKind,
    url: str,
    addresses: list[str],
    events: list[str],
    *,
    actor: Operator | str,
    now: datetime,
) -> Issued:
    if Channel.objects.filter(slug=slug).exists():
        raise ChannelExists(f"channel {slug!r} exists; choose another name")
    secret = sealing.new_secret() if kind == ChannelKind.WEBHOOK else ""
    channel = Channel.objects.create(
        slug=slug,
        kind=kind,
        url=url,
        addresses=addresses,
        events=events,
        secret=sealing.seal(secret) if secret else "",
        created_by=audit.name_of(actor),
        created_at=now,
    )
    audit.record("alert_channel.created", actor=actor, target=channel, at=now, data=_facts(channel))
    return Issued(channel, secret)


def change_channel(
    *,
    channel: Channel,
    url: str | None = None,
    addresses: Sequence[str] | None = None,
    events: Sequence[str] | None = None,
    actor: Operator | str,
    now: datetime,
    outside: Outside | None = None,
) -> Channel:
    """Change where a channel leads or what it wants; what is under way goes to the new place. None: as it was.

    Raises:
        InvalidChannel, AddressRefused: by field.
    """
    given = {"url": url, "addresses": addresses, "events": events}
    wanted: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    whole = {name: getattr(channel, name) for name in given} | wanted
    _check(ChannelKind(channel.kind), **whole, outside=outside or configured(), looks_up="url" in wanted)
    return _change(channel, wanted, actor=actor, now=now)


@audit.operation
def _change(channel: Channel, wanted: Mapping[str, Any], *, actor: Operator | str, now: datetime) -> Channel:
    changed = Channel.objects.get(pk=channel.pk)
    before = _facts(changed)
    for name, value in wanted.items():
        setattr(changed, name, value if isinstance(value, str) else list(dict.fromkeys(value)))
    changed.save(update_fields=[*wanted])
    data = {"before": before, "after": _facts(changed)}
    audit.record("alert_channel.changed", actor=actor, target=changed, at=now, data=data)
    return changed


@audit.operation
def rotate_secret(*, channel: Channel, actor: Operator | str, now: datetime) -> Issued:
    """Give a webhook another secret. For OVERLAP both sign; one that was rotated out before signs no more.

    Raises:
        NoSecret: it is no webhook.
    """
    rotated = Channel.objects.get(pk=channel.pk)
    if not rotated.is_webhook:
        raise NoSecret(f"channel {rotated.slug!r} is e-mail, which is not signed; there is no secret to rotate")
    secret = sealing.new_secret()
    rotated.secret, rotated.old_secret = sealing.seal(secret), rotated.secret
    rotated.rotated_at, rotated.old_secret_until = now, now + OVERLAP
    rotated.save(update_fields=["secret", "old_secret", "rotated_at", "old_secret_until"])
    data = {"old_signs_until": rotated.old_secret_until.isoformat(timespec="seconds")}
    audit.record("alert_channel.secret_rotated", actor=actor, target=rotated, at=now, data=data)
    return Issued(rotated, secret)


@audit.operation
def set_enabled(*, channel: Channel, enabled: bool, actor: Operator | str, now: datetime) -> None:
    """Send alerts to a channel again, or no more; what is on its way to a disabled one becomes a dead letter."""
    why = "" if enabled else f"{audit.name_of(actor)} disabled it"
    if not _set_enabled(channel, enabled, why):
        return
    action = "alert_channel.enabled" if enabled else "alert_channel.disabled"
    audit.record(action, actor=actor, target=channel, at=now)


@audit.operation
def disable_gone(*, channel: Channel, now: datetime) -> None:
    """Send nothing more to a channel whose receiver says that it is gone, and tell the other channels."""
    if not _set_enabled(channel, False, _GONE):
        return
    audit.record("alert_channel.gone", actor=SYSTEM, target=channel, at=now, data={"host": channel.place})
    raise_alert(
        kind=kinds.CHANNEL_DISABLED,
        severity=Severity.WARN,
        title=f"Channel {channel.slug} is disabled",
        sentence=f"Its receiver at {channel.place} answered 410, so alerts no longer go there. "
        "Give it another address, or enable it again.",
        facts={"channel": channel.slug, "host": channel.place},
        link=channel.get_absolute_url(),
        target=channel,
        dedupe=f"{channel.slug}:{now.isoformat()}",
        now=now,
    )


def _set_enabled(channel: Channel, enabled: bool, why: str) -> bool:
    changed = Channel.objects.filter(pk=channel.pk, enabled=not enabled).update(enabled=enabled, disabled_why=why)
    channel.enabled, channel.disabled_why = enabled, why
    return bool(changed)


def _check(
    kind: ChannelKind,
    *,
    url: str,
    addresses: Sequence[str],
    events: Sequence[str],
    outside: Outside,
    looks_up: bool = True,
) -> None:
    if unknown := sorted(set(events) - set(kinds.known())):
        raise InvalidChannel(
            "events", f"no alert is of the kind {unknown[0]!r}; it is one of {', '.join(kinds.known())}"
        )
    if kind == ChannelKind.EMAIL:
        _check_mailboxes(url, addresses, outside)
        return
    if addresses:
        raise InvalidChannel("addresses", "a webhook has no mailboxes; leave them out")
    if looks_up:
        try:
            networks.look_up(url, reach=outside.reach, resolve=outside.resolve)
        except DeliveryFailed as exc:
            raise InvalidChannel("url", str(exc)) from exc


def _check_mailboxes(url: str, addresses: Sequence[str], outside: Outside) -> None:
    if url:
        raise InvalidChannel("url", "e-mail goes to mailboxes; leave the address of a receiver out")
    if not outside.mails:
        raise InvalidChannel("addresses", "EMAIL_URL is not set, so no e-mail can be sent; .env.example says how")
    if not 0 < len(addresses) <= MAX_MAILBOXES:
        raise InvalidChannel("addresses", f"name 1 to {MAX_MAILBOXES} mailboxes, not {len(addresses)}")
    for address in addresses:
        try:
            validate_email(address)
        except ValidationError as exc:
            raise InvalidChannel("addresses", f"{address!r} is no mailbox; it must look like name@host") from exc


def _facts(channel: Channel) -> dict[str, Any]:
    """What the record keeps of a channel: of a webhook the host only, since the rest may hold a token."""
    return {"kind": channel.kind, "leads_to": channel.place, "events": channel.events}


# --- alerts ----------------------------------------------------------------------------------------------------------
@transaction.atomic
def raise_alert(
    *,
    kind: str,
    severity: Severity,
    title: str,
    sentence: str,
    facts: Mapping[str, Any],
    link: str,
    target: audit.Named | str,
    dedupe: str,
    now: datetime,
) -> Alert:
    """Tell every channel that wants it, once this transaction has committed, and nobody if it does not.

    It never refuses for what it is told: a roll-back must not fail because of its title. What is too long is cut, what
    no JSON can hold is written out as text.

    Args:
        kind: Such as canary.rolled_back; register one of your own with `kinds.register`, so that channels can want it.
        title: One line of up to 200 characters; sentence: what happened, and what to do now.
        facts: {"name": any JSON}: numbers and names of ours. Nobody's prompts or answers, no secret, no user: it
            leaves the house, and is never erased.
        link: A path of the console, "" for none.
        dedupe: Names the occasion: raised again under it, the alert that is there is returned and nobody told.
    Raises:
        ValueError: `kind` is no name such as 'canary.rolled_back', `link` no path, or `dedupe` empty: a fault of the
            caller's, whatever happened.
    """
    if not _KIND.fullmatch(kind) or (link and not re.match(r"/(?!/)", link)) or not dedupe:
        raise ValueError(f"an alert needs a kind, a path and an occasion, not {kind!r}, {link!r} and {dedupe!r}")
    alert, is_new = Alert.objects.get_or_create(
        kind=kind,
        dedupe=_line(dedupe, 200),
        defaults={
            "severity": severity,
            "title": _line(title, 200),
            "sentence": storable(sentence),
            "facts": _storable(dict(facts)),
            "link": link[:300],
            "target": _line(audit.name_of(target), 200),
            "at": now,
        },
    )
    if is_new:
        for channel in Channel.objects.wanting(kind):
            _send(alert, channel, now=now)
    return alert


@audit.operation
def send_test(*, channel: Channel, actor: Operator | str, now: datetime) -> Delivery:
    """Send a test alert to one channel, whatever it wants.

    Raises:
        ChannelDisabled: nothing is sent to it.
    """
    tested = Channel.objects.get(pk=channel.pk)
    if not tested.enabled:
        raise ChannelDisabled(f"channel {tested.slug!r} is disabled: {tested.disabled_why}; enable it first")
    by = audit.name_of(actor)
    alert = Alert.objects.create(
        kind=kinds.CHANNEL_TEST,
        severity=Severity.INFO,
        title=f"Test alert to {tested.slug}",
        sentence=f"{by} asked for this test. Nothing happened, and nothing has to be done.",
        facts={"channel": tested.slug, "asked_by": by},
        link=tested.get_absolute_url(),
        target=tested.audit_name,
        dedupe=new_id(now.timestamp()),
        at=now,
    )
    audit.record("alert_channel.tested", actor=actor, target=tested, at=now)
    return _send(alert, tested, now=now)


def _send(alert: Alert, channel: Channel, *, now: datetime) -> Delivery:
    delivery = Delivery.objects.create(pk=UUID(new_id(now.timestamp())), alert=alert, channel=channel, created_at=now)
    work.enqueue(kind=DELIVER, arguments={"delivery": str(delivery.pk)}, key=str(delivery.pk), now=now)
    return delivery


def _line(text: str, most: int) -> str:
    line = " ".join(storable(text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _storable(value: Any) -> Any:
    """The value as JSON that PostgreSQL takes."""
    if isinstance(value, Mapping):
        return {storable(str(name)): _storable(member) for name, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_storable(item) for item in value]
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return storable(str(value))
