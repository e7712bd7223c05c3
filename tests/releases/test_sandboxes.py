"""What evals are given at the control plane: a token, and a release of their own that no worker takes for one."""

import json
from datetime import timedelta

import pytest
from django.conf import settings

from controlplane.releases.errors import UnservableRelease
from controlplane.releases.models import Release
from controlplane.releases.operations import current_release, sandbox_document
from controlplane.releases.signing import mint_eval_token, sign_sandbox
from dataplane.eval_tokens import EvalClaims, read
from dataplane.release import BadSignature, digest_of, parse_trusted_keys, verify, verify_sandbox
from tests.corpora.kept_corpora import make_corpus
from tests.factories import EVERYBODY, NOW, run_canary

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def trusted():
    return parse_trusted_keys((settings.DATA_DIR / "keys" / "trusted-keys.json").read_bytes())


def live():
    return verify(current_release().envelope(), trusted=trusted(), current=None)


def prompts_with_a_version_more():
    """The section of prompts as it is, with a version that nobody has approved."""
    prompts = json.loads(json.dumps(current_release().content["sections"]["prompts"]))
    versions = prompts["support-answer"]["versions"]
    versions["99"] = versions["1"] | {"messages": [{"role": "user", "content": "Be brief."}], "digest": "9" * 64}
    return prompts


def test_gateways_read_what_the_control_plane_mints():
    """With the very key that signs releases."""
    until = NOW + timedelta(minutes=30)

    token = mint_eval_token(run="run-7", residency=["eu"], until=until, sandbox="5" * 64)

    claims = read(token, trusted(), now=NOW.timestamp())
    assert claims == EvalClaims("run-7", frozenset({"eu"}), int(until.timestamp()), "5" * 64)


def test_sandbox_carries_what_is_live_with_sections_replaced():
    """Gateways read it, for evals alone; nothing is stored, and customers and canaries are left out."""
    run_canary(EVERYBODY)
    before = Release.objects.count()

    envelope = sign_sandbox(sandbox_document({"prompts": prompts_with_a_version_more()}))

    sandbox = verify_sandbox(envelope, trusted=trusted(), current=live())
    assert sandbox.prompt("support-answer").versions[99].number == 99
    assert sandbox.routing == live().routing
    assert (sandbox.access.keys, sandbox.canaries) == ({}, {})
    assert Release.objects.count() == before


def test_sandbox_that_is_sent_as_a_release_is_refused():
    """A worker that serves customers believes no word of it."""
    envelope = sign_sandbox(sandbox_document({}))

    with pytest.raises(BadSignature):
        verify(envelope, trusted=trusted(), current=live())


def test_same_sections_give_the_same_digest():
    """Whenever it is asked for: what was tried is named by it, and gateways read it once."""
    first = sign_sandbox(sandbox_document({}))
    run_canary(EVERYBODY)
    prompts = current_release().content["sections"]["prompts"]
    second, third = (sign_sandbox(sandbox_document({"prompts": prompts})) for _ in range(2))

    assert second.digest == third.digest == digest_of(second.document.encode())
    assert first.digest != second.digest


def test_sandbox_that_no_gateway_would_read_is_refused_here():
    """With the path, before a run begins."""
    routing = json.loads(json.dumps(current_release().content["sections"]["routing"]))
    next(iter(routing["routes"].values()))["lanes"] = ["gone"]

    with pytest.raises(UnservableRelease, match=r"\$\.sections\.routing\.routes"):
        sandbox_document({"routing": routing})


def test_section_that_no_release_has_is_a_mistake():
    """Rather than one that is left unread."""
    with pytest.raises(ValueError, match="no section of a release is called 'prompt'"):
        sandbox_document({"prompt": {}})


def test_sandbox_of_a_table_that_no_corpus_could_be_embedded_by_is_served():
    """A candidate is tried with one lane, whatever the corpora of the live release are embedded by."""
    make_corpus()
    table = current_release().content["sections"]["routing"]
    alone = table | {"routes": {"chat": table["routes"]["chat"]}}

    envelope = sign_sandbox(sandbox_document({"routing": alone, "prompts": {}}))

    sandbox = verify_sandbox(envelope, trusted=trusted(), current=live())
    assert (list(sandbox.routing.routes), sandbox.corpora) == (["chat"], {})
