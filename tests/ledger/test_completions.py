"""Answers that nothing could repair, completed by people: what is told of one, what completes it, and who is first."""

from datetime import timedelta

import orjson
import pytest

from controlplane.audit.models import AuditEvent
from controlplane.ledger.completions import (
    RepairIncomplete,
    RepairOver,
    complete_answer,
    read_words,
    standing_of,
)
from controlplane.ledger.repairs import Repair
from dataplane.repair.completion import Supplied
from tests.factories import NOW, crew
from tests.repair_rows import SCHEMA, answer, asked, make_repair

pytestmark = pytest.mark.django_db

LATER = NOW + timedelta(minutes=3)


def fields(**values):
    """These values at these members of the whole."""
    return Supplied({f"/{name}": value for name, value in values.items()}, None)


def complete(repair, given, *, now=LATER):
    return complete_answer(repair=repair, given=given, reason="the customer told us", actor=crew.oncall, now=now)


def kept(repair):
    """The answer as it is kept: its text, and what it says of its repair."""
    body = orjson.loads(bytes(Repair.objects.get(pk=repair.pk).payload))["body"]
    return body["choices"][0]["message"], body.get("ballast")


def events():
    return list(AuditEvent.objects.filter(action__startswith="repair.").order_by("seq"))


def test_missing_field_that_is_supplied_completes_an_answer():
    """The answer is what it would have been, with a note of what somebody supplied; the record has no value of it."""
    repair = make_repair()

    done = complete(repair, fields(topic="orders"))

    message, note = kept(repair)
    assert (done.state, done.completed_at, done.completed_by) == ("completed", LATER, "operator:oncall")
    assert message["content"] == '{"answer": "secret words", "parcels": 2, "topic": "orders"}'
    assert [(one["rung"], one["label"], one["edits"][0]["path"]) for one in note["repair"]] == [
        ("r7_failed", "invented", "/topic")
    ]
    (event,) = events()
    assert (event.action, event.target, event.actor) == ("repair.completed", f"repair:{repair.name}", "oncall")
    assert event.data == {"tenant": "acme", "at": "text", "fields": ["/topic"], "reason": "the customer told us"}
    assert done.payload_bytes == len(bytes(Repair.objects.get(pk=repair.pk).payload))


def test_whole_value_completes_an_answer_of_which_nothing_could_be_read():
    """Single fields have nowhere to go then, and say so."""
    repair = make_repair(payload={"body": answer("I cannot say."), "asked": asked(), "value": None})

    with pytest.raises(RepairIncomplete, match="nothing of text can be read"):
        complete(repair, fields(topic="orders"))
    done = complete(repair, Supplied({}, '{"answer": "a", "topic": "refunds"}'))

    assert done.state == "completed"
    assert kept(repair)[0]["content"] == '{"answer": "a", "topic": "refunds"}'
    assert events()[0].data["fields"] == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (fields(parcels=3), "text is not what was asked for yet: /topic is missing"),
        (
            fields(topic="weather", parcels="secret"),
            "/parcels is of another type than the schema wants; /topic is none of the choices that the schema gives",
        ),
        (fields(topic="orders", colour="red"), "the value holds a field that the schema does not know"),
        (fields(topic="orders", answer=""), "/answer is not what the schema wants"),
        (Supplied({"topic": "orders"}, None), "'topic' is no JSON pointer"),
        (Supplied({"/answer/0": "x"}, None), "leads through a value that is neither an object nor a list"),
        (Supplied({}, "[1, 2]"), "the value is of another type than the schema wants"),
    ],
)
def test_what_does_not_do_is_refused_by_places_and_changes_nothing(given, words):
    """Whoever completes an answer need not be one who may read it: no word of it is in the reason."""
    repair = make_repair()

    with pytest.raises(RepairIncomplete) as refused:
        complete(repair, given)

    assert words in str(refused.value)
    assert "secret words" not in str(refused.value)
    assert Repair.objects.get(pk=repair.pk).state == "open"
    assert events() == []


def test_answer_without_a_schema_takes_any_object():
    """Of one that only had to be JSON, there are no places to name."""
    wanted = {"response_format": {"type": "json_object"}}
    repair = make_repair(payload={"body": answer("{"), "asked": wanted, "value": "{}"}, missing=[])

    with pytest.raises(RepairIncomplete, match="it is no value of the kind that was asked for"):
        complete(repair, Supplied({}, '"text"'))

    assert standing_of(repair).flaws == ()
    assert complete(repair, Supplied({}, '{"a": 1}')).state == "completed"


def test_second_part_that_is_broken_keeps_the_answer_open():
    """Once the first is right, the answer says which is next; it is complete when all of it is."""
    calls = answer(arguments=('{"parcels": 1, "answer": "a"}', '{"answer": "b"}'))
    repair = make_repair(
        at_part="tool_calls[0]", payload={"body": calls, "asked": asked(is_tool=True), "value": '{"answer": "a"}'}
    )

    half = complete(repair, fields(topic="orders"))
    whole = complete(half, fields(topic="refunds"))

    assert (half.state, half.at_part, half.missing, half.completed_by) == ("open", "tool_calls[1]", ["/topic"], "")
    assert whole.state == "completed"
    arguments = [call["function"]["arguments"] for call in kept(repair)[0]["tool_calls"]]
    assert [orjson.loads(one)["topic"] for one in arguments] == ["orders", "refunds"]
    assert [(event.action, event.data["at"]) for event in events()] == [
        ("repair.part_completed", "tool_calls[0]"),
        ("repair.completed", "tool_calls[1]"),
    ]


class Overtaken(Supplied):
    """What somebody supplies while the caller changes the answer at the gateway, between our read and our write."""

    __slots__ = ()
    meanwhile = None

    def put_into(self, text, *, at):
        Repair.objects.update(**self.meanwhile)
        return Supplied.put_into(self, text, at=at)


class OvertakenByAll(Overtaken):
    meanwhile = {"state": "completed", "completed_at": NOW, "completed_by": "7"}


class OvertakenByPart(Overtaken):
    meanwhile = {"payload": b'{"next": "part"}'}


@pytest.mark.parametrize(
    ("given", "words"),
    [(OvertakenByAll, "was completed by 7 meanwhile"), (OvertakenByPart, "a part of rep_.* was completed meanwhile")],
)
def test_caller_who_is_first_keeps_what_they_wrote(given, words):
    """Nothing of ours is written over theirs, and the record does not say that we completed anything."""
    repair = make_repair()

    with pytest.raises(RepairOver, match=words):
        complete(repair, given({"/topic": "orders"}, None))

    assert events() == []
    assert "operator" not in Repair.objects.get(pk=repair.pk).completed_by


def test_answer_that_somebody_completed_is_not_completed_again():
    """The second who supplies something is told who was first."""
    repair = make_repair()
    complete(repair, fields(topic="orders"))

    with pytest.raises(RepairOver, match="was completed by operator:oncall meanwhile"):
        complete(repair, fields(topic="refunds"))

    assert kept(repair)[0]["content"].endswith('"topic": "orders"}')
    assert len(events()) == 1


@pytest.mark.parametrize("state", ["open", "expired"])
def test_answer_whose_time_is_over_is_not_completed(state):
    """Also before its words are deleted."""
    repair = make_repair(state=state, hours=1)

    with pytest.raises(RepairOver, match=r"the time of rep_.* is over"):
        complete(repair, fields(topic="orders"), now=NOW + timedelta(hours=1))

    assert Repair.objects.get(pk=repair.pk).completed_at is None


def test_what_is_wrong_is_told_by_place_with_what_is_wanted_there():
    """Missing, of another type, none of the choices: the schema's words, never the model's."""
    read = '{"answer": "secret", "topic": "secret", "parcels": "secret", "customer": {}}'
    repair = make_repair(payload={"body": answer(read), "asked": asked(), "value": read})

    standing = standing_of(repair)

    assert standing.is_readable
    assert [(flaw.pointer, flaw.words.partition(" ")[2], flaw.wanted) for flaw in standing.flaws] == [
        ("/customer/name", "is missing", {"type": "string"}),
        ("/parcels", "is of another type than the schema wants", {"type": "integer"}),
        ("/topic", "is none of the choices that the schema gives", SCHEMA["properties"]["topic"]),
    ]


def test_places_of_an_answer_that_cannot_be_read_are_those_that_were_missing():
    """Only all of it can be supplied; what it has to hold is still told."""
    repair = make_repair(
        payload={"body": answer("?"), "asked": asked(), "value": None}, missing=["/answer", "/customer/age"]
    )

    standing = standing_of(repair)

    assert not standing.is_readable
    assert [(flaw.pointer, flaw.wanted) for flaw in standing.flaws] == [
        ("/answer", SCHEMA["properties"]["answer"]),
        ("/customer/age", None),
    ]


def test_whoever_reads_the_words_is_on_record():
    """Of words that are deleted there is nothing to read, and nothing to record."""
    words = read_words(repair=make_repair(), actor=crew.auditor, now=NOW)

    assert words["value"].startswith('{"answer": "secret words"')
    assert [(event.action, event.actor, event.data) for event in events()] == [
        ("repair.read", "auditor", {"tenant": "acme"})
    ]
    assert read_words(repair=make_repair(state="expired"), actor=crew.auditor, now=NOW) is None
    assert len(events()) == 1
