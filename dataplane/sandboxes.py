"""Lets evals in: who they ask as, and which release serves them.

An eval may bring a release of its own, a sandbox, to ask what is in no live release yet: a candidate lane, or a further
version of a prompt. It is signed as any release is. Reading one takes tens of milliseconds, so a thread does it, once
for all requests that bring it, and it is kept for those that come after them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dataplane.access import OURSELVES, ApiKey
from dataplane.documents import ReleaseRefused
from dataplane.errors.admission import NoRelease
from dataplane.errors.requests import InvalidRequest, Unauthorized
from dataplane.eval_tokens import RUN, EvalClaims, read
from dataplane.idempotency import HEADER
from dataplane.journey import Admission, Inbound
from dataplane.release import Envelope, Release, verify_sandbox
from dataplane.request_parser import SANDBOX
from dataplane.routing import Lane, RoutingTable

# So many are kept, the one that was asked for last the longest.
KEPT: Final = 8
TrustedKeys = Callable[[], Mapping[str, Ed25519PublicKey]]


class Verify(Protocol):
    """How a sandbox is read: `release.verify_sandbox`."""

    def __call__(self, envelope: Envelope, *, trusted: Mapping[str, Ed25519PublicKey], current: Release) -> Release: ...


class Sandboxes:
    """See the module. Belongs to one event loop."""

    def __init__(self, trusted: TrustedKeys, *, verify: Verify = verify_sandbox) -> None:
        """`trusted` gives the public keys, by their ids, whose holders may start evals; it must not wait."""
        self._trusted = trusted
        self._verify = verify
        # By digest, and by that of the live release whose guards it was given.
        self._kept: OrderedDict[tuple[str, str], Release] = OrderedDict()
        self._reading: dict[tuple[Envelope, str], asyncio.Task[Release]] = {}

    async def admit(self, inbound: Inbound, token: str, *, live: Release | None, now: float) -> Admission:
        """Return as whom the request of an eval is served, and by which release; the request is without its sandbox.

        Args:
            live: What is being served.
            now: Epoch seconds.
        Raises:
            NoRelease, Unauthorized.
            InvalidRequest: it asks for what evals cannot have, or its sandbox is no good.
        """
        if live is None:
            raise NoRelease
        claims = read(token, self._trusted(), now=now)
        if inbound.idempotency_key is not None:
            raise InvalidRequest(f"an eval is asked anew each time; leave {HEADER} out", param=HEADER)
        fields = _fields(inbound.body)
        if fields.get("stream"):
            raise InvalidRequest("an eval is answered in one piece; leave 'stream' out", param="stream")
        release = live
        envelope = _envelope(fields, claims)
        if envelope is not None:
            inbound = replace(inbound, body=orjson.dumps(fields))
            try:
                release = await self.open(envelope, live)
            except ReleaseRefused as exc:
                raise InvalidRequest(f"the sandbox is refused: {exc.code}: {exc}", param=SANDBOX) from exc
        tenant = replace(OURSELVES, residency=claims.residency)
        return Admission(inbound, release, ApiKey(RUN + claims.run, tenant), live)

    async def open(self, envelope: Envelope, live: Release) -> Release:
        """Return a sandbox, verified, parsed, and guarded as `guarded_like` says.

        Raises:
            ReleaseRefused: it is no good.
        """
        kept = self._kept.get((envelope.digest, live.digest))
        if kept is not None:
            self._kept.move_to_end((envelope.digest, live.digest))
            return kept
        # By all that was sent: a broken one that claims the digest of a good one takes nobody with it.
        reading = self._reading.get((envelope, live.digest))
        if reading is None:
            reading = asyncio.create_task(asyncio.to_thread(self._read, envelope, self._trusted(), live))
            self._reading[envelope, live.digest] = reading
            reading.add_done_callback(lambda done: self._keep(envelope, live, done))
        return await asyncio.shield(reading)  # one of those who wait may leave

    def _read(self, envelope: Envelope, trusted: Mapping[str, Ed25519PublicKey], live: Release) -> Release:
        return guarded_like(self._verify(envelope, trusted=trusted, current=live), live)

    def _keep(self, envelope: Envelope, live: Release, done: asyncio.Task[Release]) -> None:
        del self._reading[envelope, live.digest]
        if done.cancelled() or done.exception() is not None:
            return
        self._kept[envelope.digest, live.digest] = done.result()
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)


def guarded_like(sandbox: Release, live: Release) -> Release:
    """Return `sandbox` with each lane guarded by what guards it in the `live` release, and by nothing else.

    What is asked of a lane that customers use counts at its breaker and takes of its account's quota. A lane that only
    the sandbox has, or has otherwise, is another lane under perhaps the same name: how it does must not hold customers
    back from theirs. It has no breaker, and takes of a quota where its account has one that customers share, without
    a word on what the account admits: that may be said of this lane alone.
    """
    table, known = sandbox.routing, live.routing
    if table is known:
        return sandbox
    lanes = {name: _guarded(lane, table, known) for name, lane in table.lanes.items()}
    routes = {
        name: replace(route, lanes=tuple(lanes[lane.id] for lane in route.lanes))
        for name, route in table.routes.items()
    }
    return replace(sandbox, routing=replace(table, lanes=lanes, routes=routes))


def _guarded(lane: Lane, table: RoutingTable, known: RoutingTable) -> Lane:
    same = known.lanes.get(lane.id)
    has_account = known.accounts.get(lane.account) == table.accounts[lane.account] and (
        known.providers.get(lane.provider) == table.providers[lane.provider]
    )
    if (
        same is not None
        and has_account
        and same == replace(lane, breaker=same.breaker, probe=same.probe, quota=same.quota)
    ):
        return same
    quota = None
    if has_account and lane.quota is not None:
        shared = [one for one in known.lanes.values() if one.account == lane.account and one.quota is not None]
        pool = next((one for one in shared if one.quota_pool == lane.quota_pool), shared[0] if shared else None)
        quota = None if pool is None or pool.quota is None else replace(pool.quota, learn=False)
    return replace(lane, breaker=None, probe=None, quota=quota)


def _fields(body: bytes) -> dict[str, Any]:
    """The members of a body; none of what is no object, which is refused where it is read."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _envelope(fields: dict[str, Any], claims: EvalClaims) -> Envelope | None:
    """Take the sandbox out of a body, if it is the one that the token names; None where it names none.

    Raises:
        Unauthorized: the token is not for it.
        InvalidRequest: there is none, or it is no envelope.
    """
    if SANDBOX not in fields:
        if claims.sandbox is not None:
            raise InvalidRequest(
                f"the eval token is for the sandbox {claims.sandbox!r}, and the request brings none", param=SANDBOX
            )
        return None
    try:
        envelope = Envelope.from_mapping(fields.pop(SANDBOX))
    except ReleaseRefused as exc:
        raise InvalidRequest(f"'{SANDBOX}' is no envelope of a release: {exc}", param=SANDBOX) from exc
    if envelope.digest != claims.sandbox:
        named = "no sandbox" if claims.sandbox is None else f"the sandbox {claims.sandbox!r}"
        raise Unauthorized(f"the eval token is for {named}, and the request brings {envelope.digest[:80]!r}")
    return envelope
