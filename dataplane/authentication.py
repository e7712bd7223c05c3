"""Who asks: whoever shows an API key, the token of a runner in the place of one, or that of an eval.

Keys are known by their digests to the release that is being served, so only an eval, which may bring a release of its
own, is ever waited for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from dataplane.access import ApiKey, Tenant, key_digest
from dataplane.cursors import CursorKeys
from dataplane.errors.admission import NoRelease
from dataplane.errors.jobs import JobTokenRefused
from dataplane.errors.requests import Unauthorized
from dataplane.eval_tokens import PREFIX, is_eval_token
from dataplane.job_tokens import is_job_token, read_token
from dataplane.journey import Journey
from dataplane.quota import BATCH
from dataplane.release import Release
from dataplane.request_headers import check_queue, read_workload
from dataplane.request_parser import CHAT_PATH, EMBEDDINGS_PATH
from dataplane.sandboxes import Sandboxes


class ReleaseSource(Protocol):
    """Who knows the release being served, such as `ReleaseWatcher`."""

    @property
    def current(self) -> Release | None:
        """The verified release, or None before the first."""


class Authentication:
    """See the module. One per process."""

    def __init__(
        self,
        *,
        releases: ReleaseSource,
        job_keys: CursorKeys | None,
        sandboxes: Sandboxes | None,
        wall: Callable[[], float],
    ) -> None:
        """`wall` is epoch seconds. Without `job_keys`, which read their tokens, runners are refused, and without
        `sandboxes`, which let them in, evals are.
        """
        self._releases = releases
        self._job_keys = job_keys
        self._sandboxes = sandboxes
        self._wall = wall
        # Whom the latest request came from, by its header and the release: it is asked twice, before its body is read
        # and after that, with nothing in between as a rule.
        self._latest: tuple[str, Release, ApiKey] | None = None

    def may_be_eval(self, journey: Journey) -> bool:
        """Whether an eval may be asking, which `admit_eval` finds out; as good as never."""
        authorization = journey.inbound.authorization
        return authorization is not None and PREFIX in authorization

    async def admit_eval(self, journey: Journey) -> None:
        """Let an eval in, if it is one: what it brings along has to be read first.

        Raises:
            NoRelease, Unauthorized, InvalidRequest: see `Sandboxes.admit`.
        """
        authorization = journey.inbound.authorization
        if authorization is None or self._sandboxes is None:
            return
        token = _key_shown(authorization)
        if token is None or not is_eval_token(token):
            return
        journey.admission = admission = await self._sandboxes.admit(
            journey.inbound, token, live=self._releases.current, now=self._wall()
        )
        journey.inbound = admission.inbound

    def admit(self, journey: Journey) -> tuple[Release, Tenant]:
        """Note who asks, and as what; returns the release that serves the request, and whose it is.

        Raises:
            NoRelease, Unauthorized, JobTokenRefused, InvalidRequest.
        """
        authorization, job = journey.inbound.authorization, journey.inbound.idempotency_key
        admission = journey.admission
        if admission is None:
            release, key = self.authenticate(authorization, job=job)
            journey.is_job = job is not None and is_job_token(_key_shown(authorization) or "")
        else:
            release, key = admission.release, admission.key
        journey.release = release
        journey.tenant = key.tenant
        journey.key_id = key.id
        journey.workload = read_workload(journey.inbound.workload) if admission is None else BATCH
        check_queue(journey.inbound.queue)
        journey.stage = "reading the request"
        return release, key.tenant

    def refuse_stranger(self, authorization: str | None, *, job: str | None) -> None:
        """Return unless it is plain from the key alone that nothing of the request need be read: an eval brings what it
        is judged by along.

        Raises:
            NoRelease, Unauthorized, JobTokenRefused: as `authenticate`.
        """
        if authorization is not None and PREFIX in authorization and is_eval_token(_key_shown(authorization) or ""):
            return
        self.authenticate(authorization, job=job)

    def authenticate(self, authorization: str | None, *, job: str | None = None) -> tuple[Release, ApiKey]:
        """Return the release being served and the key that was shown, which knows whose it is.

        Args:
            job: The idempotency key of the request, where a runner may ask in the place of whoever handed in that job.
        Raises:
            NoRelease, Unauthorized, JobTokenRefused.
        """
        release = self._releases.current
        if release is None:
            raise NoRelease
        latest, self._latest = self._latest, None
        if latest is not None and latest[0] is authorization and latest[1] is release:
            return release, latest[2]
        key = _key_shown(authorization)
        if key is None:
            raise Unauthorized("no API key; send 'Authorization: Bearer <key>'")
        if is_eval_token(key):
            raise Unauthorized(f"an eval token is good for {CHAT_PATH} and {EMBEDDINGS_PATH}, where evals are let in")
        if is_job_token(key) and job is not None:
            known = self._key_of_job(release, key, job=job)
        else:
            known = self._key(release, key)
            if known is not None and authorization is not None:
                self._latest = authorization, release, known
        if known is None:
            raise Unauthorized("the API key is unknown or revoked")
        return release, known

    def _key(self, release: Release, secret: str) -> ApiKey | None:
        """The API key of this secret, as long as it is admitted.

        Raises:
            Unauthorized: its time is over. The release says when that is, so it needs no other release to be refused.
        """
        known = release.api_key(key_digest(secret))
        if known is not None and known.expires_at != math.inf and known.expires_at <= self._wall():
            ended = datetime.fromtimestamp(known.expires_at, UTC)
            raise Unauthorized(f"the API key ended at {ended:%Y-%m-%d %H:%M:%S} UTC; use the one that took its place")
        return known

    def _key_of_job(self, release: Release, token: str, *, job: str) -> ApiKey | None:
        """The API key that a job was handed in with, or the one that took its place, as long as it is admitted: one
        whose time is over handed it in before that.
        """
        if self._job_keys is None:
            raise JobTokenRefused
        shown = read_token(self._job_keys, token, job=job, now=self._wall())
        known = (key for key in release.access.keys.values() if key.speaks_for(shown.key_id))
        return next((key for key in known if key.tenant.slug == shown.tenant), None)


def _key_shown(authorization: str | None) -> str | None:
    """What a caller shows as its key, or in the place of one."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None
