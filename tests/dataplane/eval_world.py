"""What evals show a gateway, and bring along."""

from __future__ import annotations

from dataplane.eval_tokens import EvalClaims, mint
from dataplane.release import SANDBOX_REVISION, sign_sandbox


def sandbox_of(document, key):
    """The envelope of a sandbox that carries what `document` does."""
    return sign_sandbox(document | {"revision": SANDBOX_REVISION}, key)


def token_for(key, *, now, residency=(), sandbox=None, run="run-7"):
    """A token that is good for ten minutes from `now`, epoch seconds; `sandbox` is an envelope."""
    digest = None if sandbox is None else sandbox.digest
    return mint(key, EvalClaims(run, frozenset(residency), int(now) + 600, digest))
