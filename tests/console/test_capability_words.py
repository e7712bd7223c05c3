"""What the capability matrix says, wherever it says it: pages, the check, the page about providers, and releases."""

import json
from io import StringIO

import pytest
from django.core.management import call_command

from controlplane.console.management.commands.check_capabilities import demo_problems
from controlplane.console.management.commands.provider_docs import DOCS_FILE, with_tables
from controlplane.console.management.commands.seed_demo import read_demo
from controlplane.releases.errors import UnservableRelease
from controlplane.releases.operations import current_release
from controlplane.routing.matrix import matrix
from controlplane.routing.operations import routing_tables
from tests.console.conftest import words
from tests.console.test_prompt_pages import SUBMIT
from tests.console.test_prompt_pages import typed as version_form
from tests.factories import NOW, crew, make_deployment, make_routing, make_tenant, routing_document

GPT, CLAUDE = "openai/us-east/main/gpt-4o", "anthropic/eu-west/main/claude-sonnet-4-5"


def table_with(**lane):
    """The demo's table, its first lane of the route `chat` changed."""
    document = routing_document()
    document["lanes"][GPT] |= lane
    return document


def test_demo_is_checked_and_a_demo_that_asks_too_much_fails():
    """`make check` runs the command; its exit tells."""
    out = StringIO()
    demo = read_demo(NOW.date(), simulator="http://127.0.0.1:8090", embedder="http://127.0.0.1:8070")
    demo["routing"]["lanes"][CLAUDE]["capabilities"] = ["chat", "stream", "logprobs"]
    demo["routing"]["lanes"]["azure/eu-west/eu/gpt-4o"]["capabilities"] = ["chat"]
    in_words = demo_problems(demo)  # its route has its answers read and mended, so any lane may be asked for JSON
    del demo["routing"]["routes"]["chat"]["repair"]

    call_command("check_capabilities", stdout=out)
    problems = demo_problems(demo)

    assert "10 lanes and 6 versions" in out.getvalue()
    assert [problem.path for problem in problems if problem.is_error] == [
        f'$.sections.routing.lanes["{CLAUDE}"].capabilities',
        *(f"$.prompts.support-answer.versions[{number}]" for number in range(4)),
    ]
    assert "in eu, where a tenant is pinned" in problems[1].message
    assert [problem.path for problem in in_words if problem.is_error] == [problems[0].path]


def test_page_about_providers_says_what_the_code_does():
    """`manage.py provider_docs` writes its tables anew."""
    assert with_tables(DOCS_FILE.read_text(), matrix()) == DOCS_FILE.read_text()


@pytest.mark.django_db
def test_release_is_not_cut_with_what_the_matrix_contradicts_but_with_what_it_does_not_know():
    """In the words that pages use; a model of one's own is taken at its lane's word."""
    make_deployment()
    good = current_release()

    with pytest.raises(UnservableRelease, match="claims audio_input, which 'gpt-4o' on wire 'openai' lacks"):
        make_routing(table_with(capabilities=["chat", "stream", "audio_input"]))

    assert current_release() == good
    make_routing(table_with(model="ours", upstream_model="ours", capabilities=["chat", "stream", "audio_input"]))
    assert current_release().revision == good.revision + 1


@pytest.mark.django_db
def test_pages_say_what_is_asked_in_vain_before_anybody_signs(signed_in):
    """A table in its preview and on its page, a version in its preview, and a lane beside its model."""
    make_deployment()
    make_tenant("acme", residency=["us"])
    document = table_with(capabilities=["chat", "stream", "tools"], unsupported_fields=["seed"])
    document["lanes"][CLAUDE]["capabilities"] += ["logprobs"]
    stored = routing_tables.submit(document=document, rationale="r", actor=crew.oncall, now=NOW)
    browser = signed_in(crew.oncall)
    typed = {"document": json.dumps(document), "reason": "", "action": "preview"}

    for page in (browser.post("/routing/new/", typed), browser.get(stored.get_absolute_url())):
        assert "no release with this will be cut" in words(page)
        assert "claims logprobs, which 'claude-sonnet-4-5*' on wire 'anthropic' lacks" in words(page)
    lane = words(browser.get("/routing/lanes/", {"lane": GPT}))
    assert "vision" in lane
    assert "128000 tokens" in lane
    assert "checked 25 Nov 2026" in lane

    document["lanes"][CLAUDE]["capabilities"].remove("logprobs")
    del document["routes"]["chat"]["repair"]
    make_routing(document)
    asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}}
    draft = words(signed_in(crew.owner).post(SUBMIT, version_form(parameters=json.dumps(asked), action="preview")))
    assert (
        f"no lane of route 'chat' in us, where a tenant is pinned, can serve this version: lane '{GPT}' lacks" in draft
    )
    lane = words(browser.get("/routing/lanes/", {"lane": GPT}))
    assert "Could also file_input, json_object, json_schema, logprobs, vision" in lane
    assert "Not sent seed" in lane
