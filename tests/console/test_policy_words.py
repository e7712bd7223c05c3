"""What policies of a routing table do to callers, in words."""

import pytest

from controlplane.console.policy_words import (
    WITHOUT_QUOTA,
    Effect,
    quota_sentences,
    repair_note,
    repair_sentences,
    repair_warnings,
    spread_note,
    stream_note,
    stream_sentences,
    table_effects,
)
from dataplane.documents import Node
from dataplane.policies import QuotaPolicy, StreamPolicy
from dataplane.repair.policy import COERCIONS, RepairPolicy
from dataplane.routing import RoutingTable
from tests.dataplane.conftest import stream_policy
from tests.factories import routing_document


def policy(**changes):
    return StreamPolicy.parse("kept", Node(stream_policy(**changes), "$"))


def table(change=lambda document: None):
    """The demo's table after `change`."""
    document = routing_document(fallbacks=True)
    change(document)
    return RoutingTable.parse(document)


def effects(change, *, back=False):
    """What the change does to the demo's table, or what taking it back does."""
    before, after = table(), table(change)
    return table_effects(after, before) if back else table_effects(before, after)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "A stream goes on when its caller's connection breaks; unread for 30 s, it is cancelled"),
        (
            {"abandon_seconds": 90},
            "A stream goes on when its caller's connection breaks; unread for 1 min 30 s, it is cancelled",
        ),
        ({}, "It can be read again until 1 h after its end"),
        ({"retention_seconds": 5400}, "It can be read again until 1 h 30 min after its end"),
        (
            {"continuations": 1},
            "Broken off by its provider, it goes on at a lane that can be given the words so far, once at most; "
            "where there is none, it ends as interrupted",
        ),
        (
            {"on_cut": "regenerate", "continuations": 3},
            "Broken off by its provider, it goes on at a lane that can be given the words so far, 3 times at most; "
            "where there is none, the question is asked anew, and what was delivered is not said again",
        ),
        ({"on_cut": "end"}, "Broken off by its provider, it ends as interrupted, with a cursor to resume from"),
        ({}, "Its words stay in the record"),
        ({"transcript": "digest"}, "Of its words only a digest and counts stay in the record"),
        ({"refund": "none"}, "Nothing that was billed is given back"),
        ({}, "Billed tokens that were not delivered are given back as a credit"),
        (
            {"refund": "unacknowledged"},
            "Billed tokens that the caller did not acknowledge are given back as a credit",
        ),
    ],
)
def test_stream_policy_reads_as_what_becomes_of_a_stream(changes, sentence):
    """A sentence for each thing that it decides."""
    assert sentence in stream_sentences(policy(**changes))


def test_note_on_streams_fits_half_a_line():
    """Beside the lanes of a route."""
    assert stream_note(policy(on_cut="end")) == "go on for 30 s unread, are kept for 1 h, and end when they are cut"


def without_streams(document):
    document["routes"]["chat"]["streams"] = None


def other_streams(document):
    document["streams"]["short"] = stream_policy(retention_seconds=60, on_cut="end")
    document["routes"]["chat"]["streams"] = "short"


def longer(document):
    document["streams"]["resumable"] |= {"refund": "none"}
    document["streams"]["resumable"]["retention_seconds"]["value"] = 7200
    document["retries"]["patient"]["max_attempts"]["value"] = 3
    del document["routes"]["chat"]["first_token_seconds"]


def test_reviewer_reads_which_policies_a_route_gets_and_loses():
    """With all that a stream policy decides; a change of anything else has no such words."""
    (gained,) = effects(without_streams, back=True)
    (other,) = effects(other_streams)

    assert gained.sentence == "Route chat takes stream policy resumable"
    assert len(gained.details) == 5
    assert effects(without_streams) == [
        Effect(
            "Route chat loses stream policy resumable: "
            "its streams end with the caller's connection and cannot be read again"
        )
    ]
    assert other.sentence == "Route chat takes stream policy short instead of resumable"
    assert "It can be read again until 1 min after its end" in other.details
    assert effects(lambda document: document["routes"]["chat"].update(deadline_ms=9000)) == []


def test_reviewer_reads_which_numbers_move_and_what_that_means():
    """Of policies and of routes; a number that is there on one side only is none on the other."""
    assert effects(longer) == [
        Effect("Route chat: First token within 6 s → none"),
        Effect("Retry policy patient: Attempts 4 → 3"),
        Effect(
            "Stream policy resumable: Kept for 3,600 s → 7,200 s",
            ("It can be read again until 2 h after its end", "Nothing that was billed is given back"),
        ),
    ]
    assert effects(lambda document: document["streams"]["resumable"].update(transcript="digest")) == [
        Effect("Stream policy resumable changes", ("Of its words only a digest and counts stay in the record",))
    ]


def test_reviewer_reads_that_streams_have_nowhere_to_go_on():
    """Even of the first table, which a route without such a lane came with."""

    def unable(document):
        document["lanes"]["anthropic/eu-west/main/claude-sonnet-4-5"]["capabilities"].remove("prefill")

    first = {effect.sentence: effect.details for effect in table_effects(None, table(unable))}

    details = first["Route chat takes stream policy resumable"]
    assert details[-1] == "No lane of the route can be given the words so far, so none goes on after that"
    assert first["Route summaries takes retry policy patient"] == ()


def quota(**changes):
    """The demo's quota policy with other numbers; None: without one."""
    document = routing_document()["quotas"]["shared"]
    for name, value in changes.items():
        document[name] = value if value is None or name == "learn" else {**document["window_seconds"], "value": value}
    return QuotaPolicy.parse("shared", Node(document, "$"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {},
            "All workers together send an account at most 10,000 requests and 2,000,000 tokens in 1 min, and "
            "200 requests at once; 10 % of that is never used",
        ),
        (
            {"requests": None, "tokens": None, "concurrency": None, "vip_concurrency": None, "output_tokens": 5000},
            "All workers together send an account at most 5,000 output tokens in 1 min; 10 % of that is never used",
        ),
        (
            {"requests": None, "tokens": None, "concurrency": None, "vip_concurrency": None},
            "Only what the provider's headers say bounds what the account is sent",
        ),
        ({}, "A lower limit that the provider's headers name is kept to"),
        ({"learn": False}, "What the provider's headers say of its limits is not heeded"),
        ({}, "While interactive callers wait, batch work gets 20 % of what is given out; alone, either has all of it"),
        ({}, "20 of 200 requests at once are for interactive callers of tier VIP alone"),
        ({"vip_concurrency": None}, "Nothing is set aside for tier VIP"),
        ({}, "Of tenants that wait, one of tier VIP counts as 4, of standard as 2, of free as 1"),
        (
            {"max_wait_seconds": 90},
            "A caller waits 1 s at most while another lane is left, and 1 min 30 s when none is; batch work waits as "
            "long as its deadline allows",
        ),
        (
            {},
            "A 429 pauses the account for the whole fleet; after that, its limits open from a tenth to all within 10 s",
        ),
        ({}, "Workers that cannot ask one another keep to 1 of 8 parts of the limits each"),
    ],
)
def test_quota_policy_reads_as_what_becomes_of_requests(changes, sentence):
    """A sentence for each thing that it decides."""
    assert sentence in quota_sentences(quota(**changes))


def twins(document, *, accounts, reached=None, model="gpt-4o"):
    """Give route chat as many accounts for one of its lanes, of which each tenant reaches some."""
    lane = document["lanes"][f"openai/us-east/main/{model}"] | {"model": model}
    for number in range(accounts - (model == "gpt-4o")):
        document["accounts"][f"more-{number}"] = document["accounts"]["openai-main"]
        document["lanes"][f"openai/us-east/{number}/{model}"] = lane | {"account": f"more-{number}"}
        document["routes"]["chat"]["lanes"].append(f"openai/us-east/{number}/{model}")
    document["routes"]["chat"]["accounts_per_tenant"] = reached


@pytest.mark.parametrize(
    ("accounts", "reached", "said"),
    [
        (1, None, ""),
        (4, 2, "each tenant reaches 2 of 4 accounts; one that exhausts its own takes along 17 % of the others"),
        (16, 8, "each tenant reaches 8 of 16 accounts; one that exhausts its own takes along 0.0078 % of the others"),
        (4, None, "each tenant reaches all 4 accounts; one that exhausts them takes along all the others"),
        (4, 4, "each tenant reaches all 4 accounts; one that exhausts them takes along all the others"),
    ],
)
def test_spread_over_accounts_is_said_by_whom_a_tenant_takes_along(accounts, reached, said):
    """Nothing is said where no lanes differ by their account alone."""
    assert (
        spread_note(table(lambda document: twins(document, accounts=accounts, reached=reached)).routes["chat"]) == said
    )


def test_spread_over_accounts_of_several_models_is_said_of_each():
    """With the model and the region, since a tenant's accounts are chosen for each of them."""

    def both(document):
        twins(document, accounts=3)
        twins(document, accounts=2, model="text-embedding-3-small", reached=2)

    assert spread_note(table(both).routes["chat"]) == (
        "each tenant reaches 2 of 3 accounts of gpt-4o in us-east; one that exhausts its own takes along 33 % of the "
        "others; each tenant reaches all 2 accounts of text-embedding-3-small in us-east; one that exhausts them takes "
        "along all the others"
    )


def without_quota(document):
    for lane in document["lanes"].values():
        lane.pop("quota", None)


def tighter(document):
    document["quotas"]["tight"] = {**document["quotas"]["shared"], "learn": False}
    document["lanes"]["azure/eu-west/eu/gpt-4o"]["quota"] = "tight"
    document["quotas"]["shared"]["max_wait_seconds"]["value"] = 5


def test_reviewer_reads_which_lanes_get_and_lose_a_quota_and_whom_a_tenant_takes_along():
    """Lanes with the same change in one sentence, with what the policy decides; a number with what it now means."""
    (gained,) = effects(without_quota, back=True)
    (lost,) = effects(without_quota)
    other, moved = effects(tighter)
    (spread,) = effects(lambda document: twins(document, accounts=4, reached=2))[-1:]

    assert gained.sentence.startswith("Lanes openai/us-east/main/gpt-4o, azure/eu-west/eu/gpt-4o, ")
    assert gained.sentence.endswith(" take quota policy shared")
    assert gained.details == tuple(quota_sentences(quota()))
    assert (lost.sentence.partition(" lose ")[2], lost.details) == (f"quota policy shared: {WITHOUT_QUOTA}", ())
    assert other.sentence == "Lane azure/eu-west/eu/gpt-4o takes quota policy tight instead of shared"
    assert "What the provider's headers say of its limits is not heeded" in other.details
    assert moved == Effect(
        "Quota policy shared: Wait at most 10 s → 5 s",
        (
            "A caller waits 1 s at most while another lane is left, and 5 s when none is; batch work waits as long as "
            "its deadline allows",
        ),
    )
    assert spread == Effect(
        "Route chat: each tenant reaches 2 of 4 accounts; one that exhausts its own takes along 17 % of the others"
    )


def repair(**changes):
    """The demo's repair policy with other members; a number stands for one with an origin."""
    document = routing_document()["repairs"]["json-answers"]
    for name, value in changes.items():
        is_number = isinstance(value, int) and not isinstance(value, bool)
        document[name] = {**document["max_calls"], "value": value} if is_number else value
    return RepairPolicy.parse("json-answers", Node(document, "$"))


ALL_LABELS = ["lossless", "lossy", "invented"]
SILENT = {"continue_cut": False, "ask_again": False, "max_calls": 0}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {},
            "Handed over is what can have been meant in one way only, with nothing lost; what cannot be told for sure "
            "is not",
        ),
        (
            {"labels": ALL_LABELS},
            "Handed over is what can have been meant in one way only, with nothing lost; also what lacks something "
            "that the model wrote and what the model did not write, or wrote in a way that can be read as something "
            "else",
        ),
        (
            {},
            "Where the schema wants it, text that is a number is read as that number, a single value as a list of one "
            "and JSON in quotes as what it holds",
        ),
        ({"coercions": ["number_to_string"]}, "Where the schema wants it, a number is read as text"),
        ({"coercions": []}, "What the schema refuses is not read as anything else than it was written as"),
        ({}, "An answer that its length limit cut off is continued by the lane that gave it"),
        ({}, "The lane that answered is asked once more, and told what is wrong"),
        (
            {"surgeon_route": "summaries", "labels": ALL_LABELS},
            "A broken text alone, with its schema, is given to a model of route summaries to mend",
        ),
        ({}, "That takes 2 calls, 2,000 tokens and 0.02 USD at most for one answer"),
        ({"max_calls": 1}, "That takes 1 call, 2,000 tokens and 0.02 USD at most for one answer"),
        (SILENT, "No model is asked about an answer that cannot be read"),
        ({}, "A stream of JSON is held back until all of it is right"),
        (
            {"streams": "incremental"},
            "A stream of JSON goes out as far as it is certain, and ends with an error if the rest cannot be repaired",
        ),
        (
            {"open_seconds": 5400},
            "An answer that nothing could repair is an error, and is kept for 1 h 30 min for somebody to complete",
        ),
    ],
)
def test_repair_policy_reads_as_what_becomes_of_an_answer(changes, sentence):
    """A sentence for each thing that it decides."""
    assert sentence in repair_sentences(repair(**changes))


def test_every_coercion_has_its_words():
    """Declared all at once, each is read out."""
    said = repair_sentences(repair(coercions=list(COERCIONS)))[1]

    assert said.count(" as ") == len(COERCIONS)


def test_repair_policy_warns_of_what_nobody_wrote_and_of_what_is_declared_in_vain():
    """Values that are handed over although they are invented, and coercions whose label is not handed over."""
    vain = repair_warnings(repair(coercions=["drop_unknown", "fill_default", "json_string"]))
    invented = repair_warnings(repair(labels=ALL_LABELS, coercions=["fill_default"]))

    assert vain == [
        "Coercion drop_unknown is lossy, which is not handed over, so it never takes effect",
        "Coercion fill_default is invented, which is not handed over, so it never takes effect",
    ]
    assert len(invented) == 1
    assert "Callers are handed values that the model did not write" in invented[0]
    assert repair_warnings(repair()) == []


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, "repaired where nothing is lost, with a model's help"),
        ({"labels": ["lossless", "lossy"]}, "repaired, also where something is lost, with a model's help"),
        (
            {"labels": ALL_LABELS, **SILENT},
            "repaired, also with values that the model did not write, without a model's help",
        ),
    ],
)
def test_note_on_repair_fits_half_a_line(changes, note):
    """Beside the lanes of a route."""
    assert repair_note(repair(**changes)) == note


def without_repair(document):
    document["routes"]["chat"]["repair"] = None


def inventing(document):
    document["repairs"]["json-answers"]["labels"] = ALL_LABELS
    document["repairs"]["json-answers"]["max_calls"]["value"] = 3


def test_reviewer_reads_what_becomes_of_answers_when_a_route_gets_or_loses_repair():
    """Warnings first; of a policy that changes, what it says anew."""
    (lost,) = effects(without_repair)
    (gained,) = effects(without_repair, back=True)
    (moved,) = effects(inventing)

    assert lost == Effect("Route chat loses repair policy json-answers: answers that are not JSON go out as they came")
    assert (gained.sentence, gained.details) == (
        "Route chat takes repair policy json-answers",
        tuple(repair_sentences(repair())),
    )
    assert moved.sentence == "Repair policy json-answers: Calls of models 2 → 3"
    assert moved.details[0].startswith("Callers are handed values that the model did not write")
    assert "That takes 3 calls, 2,000 tokens and 0.02 USD at most for one answer" in moved.details
    assert "A stream of JSON is held back until all of it is right" not in moved.details
