from io import StringIO

import pytest
from django.core.management import call_command

from controlplane.accounts import operations as accounts
from controlplane.api.gitops.document import Configuration, PromptEntry, read_configuration, write_configuration
from controlplane.api.gitops.plan import read_deployment
from tests.factories import NOW, SETUP, make_copy, make_demo_copy, make_deployment, make_prompt, make_tenant
from tests.ladder.ladder_policies import make_ladder, make_words

pytestmark = pytest.mark.django_db


def exported():
    out = StringIO()
    call_command("export_config", stdout=out)
    return out.getvalue()


def test_export_is_the_same_twice_and_reads_back():
    """The same state gives the same bytes, and the bytes give the state."""
    make_deployment()
    make_prompt("never-live")
    make_tenant("acme", residency=["eu", "ch"], tier="vip", idempotency_hours=72)
    make_demo_copy()
    make_copy("without-words", regulated=True)
    make_words(1, 5)
    make_ladder()

    text = exported()

    assert text == exported()
    assert read_configuration(text) == read_deployment()


def test_export_of_nothing_is_a_document():
    """A fresh deployment has no routing, no ladder and no policy to speak of."""
    assert read_configuration(exported()) == Configuration(tenants={}, prompts={}, copy={})


def test_export_carries_no_secret():
    """Neither keys nor their hashes; accounts name their secret by reference."""
    make_deployment()
    key = accounts.issue_key(tenant=make_tenant(), name="production", actor=SETUP, now=NOW)

    text = exported()

    assert key.secret not in text
    assert key.row.secret_hash not in text
    assert key.row.prefix not in text
    assert "env:DEMO_OPENAI_KEY" in text


def test_export_writes_long_texts_as_blocks():
    """A review of the file reads like the prompt."""
    lines = "Dear {{name}},\n\nthank you.\n"
    live = {
        "change_class": "tone",
        "messages": [{"role": "system", "content": lines}],
        "variables_schema": {},
        "parameters": {},
        "sample_variables": {},
    }

    text = write_configuration(Configuration(prompts={"letter": PromptEntry("Letter", "", "chat", live)}))

    assert "content: |\n" in text
    assert read_configuration(text).prompts["letter"].live["messages"][0]["content"] == lines


@pytest.mark.parametrize("content", [" x", "x ", "a: b", "yes", "2024-01-01", "1e3", "\ttab", "é\n\n ", "#no", "{{a}}"])
def test_every_text_survives_the_file(content):
    """Whatever a prompt says comes back as it was, not as what YAML might take it for."""
    live = {
        "change_class": "tone",
        "messages": [{"role": "system", "content": content}],
        "variables_schema": {"default": content},
        "parameters": {},
        "sample_variables": {content: content},
    }
    configuration = Configuration(prompts={"letter": PromptEntry("Letter", content, "chat", live)})

    assert read_configuration(write_configuration(configuration)) == configuration


def test_export_goes_into_a_file(tmp_path):
    """The same bytes as on standard output."""
    make_deployment()

    call_command("export_config", output=tmp_path / "ballast.yaml")

    assert (tmp_path / "ballast.yaml").read_text() == exported()
