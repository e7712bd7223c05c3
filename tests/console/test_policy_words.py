"""What policies of a routing table do to callers, in words."""

import pytest

from controlplane.console.policy_words import Effect, stream_note, stream_sentences, table_effects
from dataplane.documents import Node
from dataplane.policies import StreamPolicy
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
