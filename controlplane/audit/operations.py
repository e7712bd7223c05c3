"""Write the audit record, and find out whether anybody changed it."""

import functools
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from controlplane.audit.models import GENESIS, AuditEvent, event_hash

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[[], object])

# Any constant would do; it only has to be the same in every process of this deployment.
CHAIN_LOCK = 0x0BA11A57


@dataclass(eq=False, slots=True)
class _Scope:
    """The operation under way: the connection whose transaction it is, and what still runs before its commit."""

    connection: BaseDatabaseWrapper
    finishers: dict[str, Callable[[], object]] = field(default_factory=dict)
    is_open: bool = True


_scope: ContextVar[_Scope | None] = ContextVar("ballast_operation", default=None)


def _current_scope() -> _Scope | None:
    """The operation that this code runs in.

    A context is copied into threads and asyncio tasks, a transaction is not: what another connection or a finished
    operation left in the context does not count.
    """
    scope = _scope.get()
    return scope if scope is not None and scope.is_open and scope.connection is connections["default"] else None


class Named(Protocol):
    """What can stand in the record: a row with a text name of its own, such as 'prompt:support-answer'."""

    @property
    def audit_name(self) -> str: ...


def operation(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` as one transaction that holds the audit chain from its first statement to its commit.

    Operations of people are a few per second at most, so they are simply taken one at a time: a check made inside one
    (are the sign-offs still good? is the canary still running?) cannot be overtaken by another, and the events of the
    chain have one order. What serves traffic never takes this lock. An operation inside another is a savepoint of it:
    if it raises, nothing of it remains, whatever its caller makes of the exception.

    Raises:
        django.db.utils.OperationalError: the chain was held by somebody else for over 10 s; nothing was changed.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if _current_scope() is not None:
            with transaction.atomic():
                return function(*args, **kwargs)
        with transaction.atomic():
            hold_chain()
            scope = _Scope(connections["default"])
            token = _scope.set(scope)
            try:
                result = function(*args, **kwargs)
                while scope.finishers:  # one may ask for another
                    scope.finishers.pop(next(iter(scope.finishers)))()
            finally:
                scope.is_open = False
                _scope.reset(token)
            return result

    return run


def require_operation() -> None:
    """Refuse to go on outside an operation: for steps that are only sound under its lock and in its transaction.

    Raises:
        RuntimeError: no operation is under way.
    """
    if _current_scope() is None:
        raise RuntimeError("this is a step of an operation and changes nothing by itself; call the operation")


def before_commit(key: str, finish: F) -> F:
    """Have `finish` run once at the end of the outermost operation, inside its transaction; return the one for `key`.

    Raises:
        RuntimeError: no operation is under way.
    """
    scope = _current_scope()
    if scope is None:
        raise RuntimeError(f"{key!r} was asked for outside an operation: nothing would ever finish it")
    return cast(F, scope.finishers.setdefault(key, finish))


def cancel_before_commit(key: str) -> None:
    """Take back what `before_commit` would have run: it has been done by hand."""
    scope = _current_scope()
    if scope is not None:
        scope.finishers.pop(key, None)


def hold_chain() -> None:
    """Wait for the chain's lock and keep it until the surrounding transaction ends; an operation holds it already."""
    if _current_scope() is not None:
        return
    with connections["default"].cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '10s'")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [CHAIN_LOCK])


def record(
    action: str, *, actor: Named | str, target: Named | str, at: datetime, data: dict[str, Any] | None = None
) -> AuditEvent:
    """Append one event to the chain, inside the caller's transaction.

    Args:
        data: JSON values only; what changed, from what, to what. Never a secret, never a prompt's variables.
    """
    if not connections["default"].in_atomic_block:
        raise RuntimeError(f"audit event {action!r} recorded outside a transaction: it could outlive a failed change")
    hold_chain()
    last = AuditEvent.objects.order_by("-seq").values_list("seq", "hash").first()
    seq, previous_hash = (last[0] + 1, last[1]) if last else (1, GENESIS)
    fields: dict[str, Any] = {
        "seq": seq,
        "at": at,
        "actor": name_of(actor),
        "action": action,
        "target": name_of(target),
        "data": data or {},
        "previous_hash": previous_hash,
    }
    return AuditEvent.objects.create(**fields, hash=event_hash(**fields))


def name_of(thing: Named | str) -> str:
    """The text by which the record knows an actor or a target."""
    return thing if isinstance(thing, str) else thing.audit_name


def head() -> tuple[int, str]:
    """Return (seq, hash) of the newest event; (0, 64 zeros) when there is none yet."""
    last = AuditEvent.objects.order_by("-seq").values_list("seq", "hash").first()
    return (last[0], last[1]) if last else (0, GENESIS)


def _gives_its_hash(event: AuditEvent) -> bool:
    try:
        return event.computed_hash() == event.hash
    except ValueError:  # a number that canonical JSON cannot carry: no operation wrote it
        return False


@dataclass(frozen=True, slots=True)
class Finding:
    """One place where the record is not what it was: the sequence number and what is wrong there."""

    seq: int
    problem: str


@dataclass(frozen=True, slots=True)
class Anchor:
    """The head of the chain as somebody outside the table knows it, such as a signed release on a worker's disk."""

    seq: int
    hash: str
    source: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What a walk over the whole chain found. `findings` empty and `anchors` > 0 is the only clean bill."""

    events: int
    anchors: int
    head_seq: int
    head_hash: str
    findings: tuple[Finding, ...]


def verify(anchors: Iterable[Anchor] = ()) -> Verification:
    """Walk the chain from its first event and report every altered, missing, reordered or truncated one.

    A chain alone cannot show that its tail was cut off; `anchors` can, since releases carry the head and workers keep
    the signed release on disk. Memory is constant; one sequential read.
    """
    findings: list[Finding] = []
    expected: dict[int, list[Anchor]] = {}
    for anchor in anchors:
        expected.setdefault(anchor.seq, []).append(anchor)
    total_anchors = sum(len(group) for group in expected.values())
    previous_seq, previous_hash, count = 0, GENESIS, 0
    for event in AuditEvent.objects.order_by("seq").iterator(chunk_size=1000):
        count += 1
        if event.seq != previous_seq + 1:
            missing = f"{previous_seq + 1}..{event.seq - 1}" if event.seq > previous_seq + 2 else str(previous_seq + 1)
            findings.append(Finding(event.seq, f"event {missing} is missing before this one"))
        elif event.previous_hash != previous_hash:
            findings.append(Finding(event.seq, "does not follow from the event before it (altered or reordered)"))
        if not _gives_its_hash(event):
            findings.append(Finding(event.seq, "its fields do not give its hash (altered)"))
        findings.extend(
            Finding(event.seq, f"{anchor.source} knows this event with another hash (history rewritten)")
            for anchor in expected.pop(event.seq, [])
            if anchor.hash != event.hash
        )
        previous_seq, previous_hash = event.seq, event.hash
    expected.pop(0, None)
    for seq, group in sorted(expected.items()):
        findings.extend(
            Finding(seq, f"{anchor.source} knows this event, the table does not (truncated)") for anchor in group
        )
    return Verification(count, total_anchors, previous_seq, previous_hash, tuple(findings))
