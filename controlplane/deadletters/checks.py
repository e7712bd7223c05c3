"""Whether the work of a letter would run if it were handed in again now: read only, and nothing is sent.

Decided by the code that the gateway decides with, against the release in force. Validators of answers have nothing to
say of a request, so there is nothing of theirs to try beforehand; what they refuse shows in the canary.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from controlplane.deadletters.edits import diff_of, edited
from controlplane.deadletters.errors import PayloadPurged
from controlplane.deadletters.kinds import JOB, MESSAGE
from controlplane.deadletters.models import DeadLetter
from controlplane.deadletters.payloads import payload_of
from controlplane.deadletters.plans import Verdict
from controlplane.ledger.idempotency import IdempotencyRecord
from controlplane.ledger.jobs import Job
from controlplane.releases.operations import current_release
from controlplane.work import arguments, handlers
from controlplane.work.errors import UnknownKind, WorkError
from dataplane.access import Tenant
from dataplane.capabilities import needs_of
from dataplane.deadletters import PayloadState, State, shortened, summary_of
from dataplane.errors import GatewayError
from dataplane.errors.admission import NoEligibleLane
from dataplane.errors.requests import InvalidRequest, UnknownPromptVersion, UnknownRoute
from dataplane.idempotency import State as KeyState
from dataplane.jobs import ENDPOINTS
from dataplane.jobs import State as JobState
from dataplane.json_formats import FORMATS
from dataplane.lane_fit import refuse_unknown_fields
from dataplane.messages import ChatRequest
from dataplane.prompts import merge_parameters, render
from dataplane.release import MalformedRelease, Release, parse_document
from dataplane.request_parser import parse_chat_request, parse_embedding_request
from dataplane.routing import eligible_lanes
from dataplane.stores.payloads import PayloadGone, PayloadStore, PayloadTampered, PayloadUnavailable

_EMBEDDINGS: Final = frozenset({"embeddings"})
_CHAT: Final = ENDPOINTS[0]


class NotNow(Exception):
    """It cannot be said now: what has to be asked is away. The message says what."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a letter's work takes, as it would be handed in.

    Attributes:
        body: The request, or the arguments of a task; edited.
        endpoint, key_id, user: Of a job.
    """

    body: dict[str, Any]
    endpoint: str = ""
    key_id: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said of a letter. `work` only if it would run; `why` only if not."""

    verdict: Verdict
    why: str = ""
    work: Work | None = None
    old_digest: str = ""
    new_digest: str = ""
    diff: str = ""


class Checker:
    """Judges letters, against one release; make a new one when minutes have passed."""

    def __init__(self, store: PayloadStore, *, edit: dict[str, Any] | None, now: datetime) -> None:
        self._store = store
        self._edit = edit
        self._now = now
        self.release = _in_force()

    def check(self, letter: DeadLetter) -> Finding:
        """Say whether the work of a letter would run; the letter must hold its words.

        Raises:
            NotNow: the payload store is away.
        """
        if letter.state in (State.RESOLVED, State.REDRIVEN):
            said = "its work was handed in again" if letter.state == State.REDRIVEN else "somebody resolved it"
            return Finding(Verdict.ALREADY_DONE, said)
        if letter.state == State.DISCARDED:
            return Finding(Verdict.REFUSED, "somebody discarded it")
        if letter.payload_state == PayloadState.PURGED or (
            letter.payload_expires_at <= self._now and not letter.is_held
        ):
            return Finding(Verdict.PAYLOAD_GONE, "its payload's time is over")
        if letter.is_held:
            return Finding(Verdict.REFUSED, "it is on legal hold; release the hold first")
        if done := _is_done(letter):
            return Finding(*done)
        try:
            payload = payload_of(letter, self._store)
        except (PayloadPurged, PayloadGone):
            return Finding(Verdict.PAYLOAD_GONE, "its payload is gone from the store")
        except PayloadTampered:
            return Finding(Verdict.REFUSED, "its payload is not what was stored")
        except PayloadUnavailable as exc:
            raise NotNow(shortened(str(exc))) from exc
        if hashlib.sha256(payload).hexdigest() != letter.payload_sha256:
            return Finding(Verdict.REFUSED, "its payload is not what failed")
        return self._judge(letter, payload)

    def _judge(self, letter: DeadLetter, payload: bytes) -> Finding:
        try:
            before = _read(letter, payload)
            after = Work(edited(before.body, self._edit), before.endpoint, before.key_id, before.user)
            if letter.kind == JOB and after.body.get("user") != before.body.get("user"):
                raise _Refused("the edit changes whose request it is")
            if letter.kind == JOB:
                self._try_job(letter, after)
            else:
                _try_task(letter, after)
        except _Refused as exc:
            return Finding(Verdict.REFUSED, str(exc))
        old, new = orjson.dumps(before.body), orjson.dumps(after.body)
        if self._edit is None:
            return Finding(Verdict.WOULD_RUN, work=after, old_digest=_sha256(old))
        diff = diff_of(before.body, after.body)
        return Finding(Verdict.WOULD_RUN, "", after, _sha256(old), _sha256(new), diff)

    def _try_job(self, letter: DeadLetter, work: Work) -> None:
        """Decide as the gateway would about the request of a job; raises _Refused."""
        release = self.release
        if release is None:
            raise _Refused("no release is in force")
        tenant = release.access.tenants.get(letter.tenant)
        if tenant is None:
            raise _Refused(f"tenant {letter.tenant!r} is no tenant any more")
        known = (key.tenant.slug for key in release.access.keys.values() if key.speaks_for(work.key_id))
        if letter.tenant not in known:
            raise _Refused("the API key that it was handed in with is revoked")
        if work.endpoint not in ENDPOINTS:
            raise _Refused("it was handed in for an address that takes no jobs")
        if work.body.get("stream"):
            raise _Refused("the answer to a job comes whole; leave 'stream' out")
        try:
            _route(release, tenant, work)
        except (NoEligibleLane, UnknownRoute, UnknownPromptVersion) as exc:  # these quote nobody's words
            raise _Refused(f"{exc.code}: {shortened(str(exc))}") from exc
        except InvalidRequest as exc:
            where = f" at {exc.param}" if exc.param else ""
            raise _Refused(f"{exc.code}{where}: {summary_of(str(exc))}") from exc
        except GatewayError as exc:
            raise _Refused(f"{exc.code}: {summary_of(str(exc))}") from exc


class _Refused(Exception):
    """The work would not run; the message says why, in nobody's words."""


def _in_force() -> Release | None:
    row = current_release()
    if row is None:
        return None
    try:
        return parse_document(row.content, digest=row.digest)
    except MalformedRelease:  # cut by a newer control plane, say; workers that read it are not here
        return None


def _is_done(letter: DeadLetter) -> tuple[Verdict, str] | None:
    """Whether a job's work was done although nobody wrote it down: its attempts had one idempotency key, and the
    gateway keeps what came of it.
    """
    if letter.kind != JOB:
        return None
    if Job.objects.filter(pk=letter.work_id, state=JobState.COMPLETED.value).exists():
        return Verdict.ALREADY_DONE, "its job was answered"
    records = IdempotencyRecord.objects.filter(
        tenant=letter.tenant, user_hash=letter.user_hash, key=str(letter.work_id), expires_at__gt=letter.created_at
    )
    for state, status in records.values_list("state", "status"):
        if state == KeyState.RUNNING:
            return Verdict.REFUSED, "an attempt at it still runs at a gateway"
        if state == KeyState.DONE and 200 <= status < 300:
            return Verdict.ALREADY_DONE, "a gateway has an answer to it, under its idempotency key"
    return None


def _read(letter: DeadLetter, payload: bytes) -> Work:
    if letter.kind == MESSAGE:
        raise _Refused("nobody could read the message, so nobody can send it again; mend what sends it")
    try:
        read = orjson.loads(payload)
    except orjson.JSONDecodeError as exc:
        raise _Refused("its payload cannot be read") from exc
    if letter.kind != JOB:
        if not isinstance(read, dict):
            raise _Refused("its payload cannot be read")
        return Work(read)
    body = read.get("body") if isinstance(read, dict) else None
    if not isinstance(body, dict):
        raise _Refused("its payload cannot be read")
    return Work(body, *(str(read.get(name) or "") for name in ("endpoint", "key_id", "user")))


def _try_task(letter: DeadLetter, work: Work) -> None:
    try:
        handlers.find(letter.name)
        arguments.write(letter.name, work.body)
    except UnknownKind as exc:
        raise _Refused(f"nobody here does work of kind {letter.name!r}") from exc
    except WorkError as exc:
        raise _Refused(f"{exc.code}: {summary_of(str(exc))}") from exc


def _route(release: Release, tenant: Tenant, work: Work) -> None:
    """As the gateway's pipeline decides before anything is sent: parse, prompt, route, lanes within the pin."""
    body = orjson.dumps(work.body)
    if work.endpoint != _CHAT:
        embedding = parse_embedding_request(body)
        route = release.routing.routes.get(embedding.route)
        eligible_lanes(release.routing, route=embedding.route, residency=tenant.residency, needs=_EMBEDDINGS)
        if route is not None and route.unknown_fields == "refuse":
            refuse_unknown_fields(embedding)
        return
    request = _with_prompt(release, parse_chat_request(body))
    needs = needs_of(request.messages, request.parameters, stream=False)
    route = release.routing.routes.get(request.route)
    if route is not None and route.repair is not None:
        needs -= FORMATS  # such a lane is asked in words
    eligible_lanes(release.routing, route=request.route, residency=tenant.residency, needs=needs)
    if route is not None and route.unknown_fields == "refuse":
        refuse_unknown_fields(request)


def _with_prompt(release: Release, request: ChatRequest) -> ChatRequest:
    reference = request.prompt
    if reference is None:
        return request
    prompt = release.prompt(reference.slug)
    number = reference.version if reference.version is not None else prompt.live
    if reference.version is not None and number not in prompt.pinnable:
        raise UnknownPromptVersion(prompt.slug, number, known=tuple(sorted(prompt.pinnable)))
    version = prompt.versions[number]
    return ChatRequest(
        route=prompt.route,
        messages=render(version, reference.variables) + request.messages,
        parameters=merge_parameters(version, request.parameters),
        stream=False,
        include_usage=False,
        stream_options=None,
        prompt=reference,
        user=request.user,
        tool_effects=request.tool_effects,
        sources=request.sources,
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
