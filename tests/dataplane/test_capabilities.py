"""The capability matrix: how it is read, what requests need, and what it has against a table or a prompt."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import yaml

from dataplane.capabilities import Matrix, PromptUse, check_table, needs_of, uses_of
from dataplane.documents import MalformedRelease
from dataplane.release import parse_document
from dataplane.routing import CAPABILITIES, RoutingTable

from .conftest import LANE, ROUTING, SECTIONS, US_LANE, VERSION, stream_policy

EU, US = "openai/eu-west/main/gpt-4o", "anthropic/us-east/claude/claude"
ENTRY = {
    "models": ["gpt-4o*"],
    "capabilities": ["chat", "stream", "tools", "json_schema"],
    "context_tokens": 128_000,
    "max_output_tokens": 16_384,
    "source": "https://vendor.example/gpt-4o",
    "checked": date(2026, 1, 2),
}
CLAUDE = ENTRY | {"models": ["gpt-4o-2024-08-06", "claude*"]}
MATRIX = {"openai": [ENTRY], "anthropic": [CLAUDE]}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def table(*, eu=None, us=None, **more):
    lanes = {EU: LANE | (eu or {}), US: US_LANE | (us or {})}
    return RoutingTable.parse(ROUTING | {"lanes": lanes} | more)


def check(lanes=None, *, matrix=MATRIX, pins=(), **parameters):
    uses = [PromptUse("faq@1", "chat", parameters, "$.parameters")]
    return check_table(Matrix.parse(matrix), lanes or table(), uses=uses, pins=map(frozenset, pins))


def said(problems):
    return [(problem.is_error, problem.path) for problem in problems]


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    ("messages", "parameters", "needs"),
    [
        ([], {}, set()),
        ([], {"tools": TOOLS}, {"tools"}),
        ([], {"functions": [{"name": "f"}]}, {"tools"}),
        ([], {"response_format": {"type": "text"}}, set()),
        ([], {"response_format": {"type": "json_object"}}, {"json_object"}),
        ([], {"response_format": SCHEMA}, {"json_schema"}),
        ([], {"logprobs": True}, {"logprobs"}),
        ([], {"logprobs": False, "modalities": ["text"], "tools": None}, set()),
        ([], {"modalities": ["text", "audio"]}, {"audio_output"}),
        (user({"type": "text", "text": "Hi"}), {}, set()),
        (user({"type": "image_url", "image_url": {"url": "https://a.example"}}), {}, {"vision"}),
        (user({"type": "input_audio"}, {"type": "file"}), {}, {"audio_input", "file_input"}),
    ],
)
def test_request_needs_what_it_holds(messages, parameters, needs):
    """Pictures need vision, a schema needs json_schema, and every chat needs chat."""
    assert needs_of(messages, parameters, stream=False) == needs | {"chat"}
    assert needs_of(messages, parameters, stream=True) == needs | {"chat", "stream"}
    assert needs <= CAPABILITIES


def test_whoever_writes_json_of_a_schema_writes_json():
    """A table from before json_object was a capability goes on serving it."""
    assert "json_object" in table().lanes[EU].capabilities
    assert "json_object" not in table(eu={"capabilities": ["chat"]}).lanes[EU].capabilities


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"capabilities": ["telepathy"]}, "$.openai[0].capabilities[0]"),
        ({"capabilities": []}, "$.openai[0].capabilities"),
        ({"models": []}, "$.openai[0].models"),
        ({"context_tokens": 0}, "$.openai[0].context_tokens"),
        ({"unsupported_fields": ["messages"]}, "$.openai[0].unsupported_fields[0]"),
        ({"checked": "yesterday"}, "$.openai[0].checked"),
        ({"source": ""}, "$.openai[0].source"),
        ({"price": 3}, "$.openai[0].price"),
    ],
)
def test_matrix_that_is_not_as_promised_is_refused_by_path(change, path):
    """Whoever edits it is told where it is wrong."""
    with pytest.raises(MalformedRelease) as refusal:
        Matrix.parse({"openai": [ENTRY | change]})

    assert refusal.value.path == path


def test_first_entry_that_fits_counts_and_azure_is_looked_up_by_model():
    """A deployment may be called anything; elsewhere the name that the vendor is asked for counts, then the lane's."""
    old = ENTRY | {"models": ["gpt-4o-2024-05-13"], "max_output_tokens": 4096}
    matrix = Matrix.parse({"openai": [old, ENTRY], "azure-openai": [ENTRY]})

    def found(wire, **lane):
        model = matrix.find(table(eu=lane).lanes[EU], wire=wire)
        return None if model is None else model.max_output_tokens

    assert found("openai", upstream_model="gpt-4o-2024-05-13") == 4096
    assert found("openai", upstream_model="gpt-4o-2024-08-06") == 16_384
    assert found("openai", upstream_model="ft:ours", model="gpt-4o") == 16_384
    assert found("openai", upstream_model="ft:ours", model="ours") is None
    assert found("azure-openai", upstream_model="our-deployment", model="gpt-4o") == 16_384
    assert found("azure-openai", upstream_model="gpt-4o", model="ours") is None


def test_lane_that_claims_what_its_model_lacks_is_an_error():
    """Capabilities, limits, and fields that it would be sent in vain; each at its place, with the source."""
    found = check(
        table(
            eu={"capabilities": ["chat", "vision", "logprobs"], "context_tokens": 128_001, "max_output_tokens": 16_384},
            us={"unsupported_fields": ["top_p"]},
        ),
        matrix={"openai": [ENTRY], "anthropic": [CLAUDE | {"unsupported_fields": ["temperature", "top_p"]}]},
    )

    assert said(found) == [
        (True, f'$.sections.routing.lanes["{EU}"].capabilities'),
        (True, f'$.sections.routing.lanes["{EU}"].context_tokens'),
        (True, f'$.sections.routing.lanes["{US}"].unsupported_fields'),
    ]
    assert "claims logprobs, vision" in found[0].message
    assert "https://vendor.example/gpt-4o" in found[0].message
    assert "refuses temperature (" in found[2].message


def test_model_that_the_matrix_does_not_know_is_only_a_warning():
    """A deployment whose models are its own must go on."""
    found = check(table(eu={"capabilities": ["chat", "vision"]}), matrix={"anthropic": [CLAUDE]})

    assert said(found) == [(False, f'$.sections.routing.lanes["{EU}"]')]
    assert "knows no model 'gpt-4o-2024-08-06' on wire 'openai'" in found[0].message


def test_prompt_that_no_lane_can_serve_is_an_error_and_one_that_some_cannot_a_warning():
    """Within every tenant's pin: a lane in another zone is no lane for a tenant who may not go there."""
    only_us = table(eu={"capabilities": ["chat", "stream"]})

    nobody = check(table(eu={"capabilities": ["chat"]}, us={"capabilities": ["chat"]}), tools=TOOLS)
    pinned = check(only_us, pins=[["eu"], ["us"], []], tools=TOOLS)
    somebody = check(only_us, pins=[["us"], []], tools=TOOLS)
    elsewhere = check(only_us, pins=[["mars"]], tools=TOOLS)

    assert said(nobody) == [(True, "$.parameters")]
    assert f"lane '{EU}' lacks tools; lane '{US}' lacks tools" in nobody[0].message
    assert said(pinned) == [(True, "$.parameters")]
    assert "in eu, where a tenant is pinned" in pinned[0].message
    assert said(somebody) == said(elsewhere) == [(False, "$.parameters")]
    assert f"only '{US}' of route 'chat' can serve faq@1" in somebody[0].message
    assert check(tools=TOOLS, response_format=SCHEMA, pins=[["eu"], ["us"]]) == []


def test_parameter_that_a_lane_is_not_sent_is_a_warning():
    """It is served all the same, without what was asked for."""
    short = table(us={"max_output_tokens": 100, "unsupported_fields": ["temperature"]})

    found = check(short, seed=7, temperature=0.2, max_tokens=101)

    assert said(found) == [(False, "$.parameters")]
    assert f"lane '{US}' of route 'chat' serves faq@1 without max_tokens, seed, temperature" in found[0].message
    assert check(short, temperature=None, max_tokens=100) == []


def test_what_a_wire_cannot_carry_together_counts_against_its_lanes():
    """json_object beside tools is one tool too many for Anthropic's wire."""
    found = check(tools=TOOLS, response_format={"type": "json_object"})

    assert said(found) == [(False, "$.parameters")]
    assert f"lane '{US}' cannot carry 'response_format'" in found[0].message


def test_route_of_embeddings_and_chat_is_an_error():
    """Whichever a caller wants, half of its lanes are none."""
    mixed = table(us={"capabilities": ["embeddings"]})
    matrix = {"openai": [ENTRY], "anthropic": [CLAUDE | {"capabilities": ["embeddings"]}]}

    found = check_table(Matrix.parse(matrix), mixed)

    assert said(found) == [(True, "$.sections.routing.routes.chat.lanes")]


def test_stream_that_could_go_on_nowhere_is_a_warning():
    """Where a tenant is pinned, too; a policy that asks anew, or that ends streams, needs no such lane."""

    def resumable(on_cut="continue", **lanes):
        route = ROUTING["routes"]["chat"] | {"streams": "resumable"}
        return table(streams={"resumable": stream_policy(on_cut=on_cut)}, routes={"chat": route}, **lanes)

    able = {"us": {"capabilities": [*US_LANE["capabilities"], "prefill"]}}
    matrix = {"openai": [ENTRY], "anthropic": [CLAUDE | {"capabilities": [*CLAUDE["capabilities"], "prefill"]}]}

    nowhere = check(resumable())
    pinned = check(resumable(**able), matrix=matrix, pins=[["eu"], ["us"], ["mars"], []])

    assert said(nowhere) == said(pinned) == [(False, "$.sections.routing.routes.chat.streams")]
    assert "no lane of route 'chat' can be given the words so far" in nowhere[0].message
    assert "no lane of route 'chat' in eu, where a tenant is pinned, can be given" in pinned[0].message
    assert check(resumable(**able), matrix=matrix) == check(resumable("regenerate")) == check(resumable("end")) == []


def test_release_is_checked_with_its_candidates(make_document):
    """The candidate of a canary runs on the route too, before anybody has made it live."""
    greedy = VERSION | {"parameters": {"tools": TOOLS}}
    prompt = SECTIONS["prompts"]["support-answer"] | {"versions": {"1": VERSION, "2": greedy}}
    lanes = {name: lane | {"capabilities": ["chat", "stream"]} for name, lane in ROUTING["lanes"].items()}
    document = make_document(prompts={"support-answer": prompt}, routing=ROUTING | {"lanes": lanes})
    release = parse_document(document, digest="d" * 64)

    found = check_table(Matrix.parse(MATRIX), release.routing, uses=uses_of(release.prompts))

    assert said(found) == [(True, '$.sections.prompts["support-answer"].versions["2"].parameters')]


def test_shipped_matrix_can_be_read_and_names_only_what_something_decides_by():
    """Each capability is one that a request may need; every entry has a link to where it stands."""
    path = Path(__file__).resolve().parents[2] / "fixtures" / "capabilities.yaml"

    matrix = Matrix.parse(yaml.safe_load(path.read_text()))

    assert {model.wire for model in matrix.models} == {"openai", "azure-openai", "anthropic"}
    assert all(model.source.startswith("https://") for model in matrix.models)
