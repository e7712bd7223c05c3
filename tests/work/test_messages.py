"""Messages that nobody can read, as their letters tell of them."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

from controlplane.work.consumer import death_of
from dataplane.deadletters import Category, Failure

FAILURE = Failure(Category.UNSERIALISABLE, "unserialisable", "no JSON")


def message(body, headers=None, tag="t1"):
    """A message as the broker's client hands it over."""
    return SimpleNamespace(body=body, headers=headers, delivery_tag=tag)


def test_message_is_known_by_its_own_id_or_by_its_delivery():
    """Delivered again, it is the same piece of work; two without an id are two."""
    told = uuid.uuid4()
    with_id = death_of(message(b"{", {"id": str(told), "task": "work.run", "origin": "gen1@host"}), FAILURE)
    first, again, other = (death_of(message(b"{", headers, tag), FAILURE) for headers, tag in NAMELESS)

    assert (with_id.work_id, with_id.name, with_id.kind, with_id.payload) == (told, "work.run", "message", b"{")
    assert with_id.causes[0]["owner"] == "gen1@host"
    assert first.work_id == again.work_id
    assert len({first.work_id, other.work_id, with_id.work_id}) == 3
    assert (first.name, first.failure) == ("unnamed", FAILURE)


NAMELESS = ((None, "t1"), ({"id": "no uuid"}, "t1"), (None, "t2"))


def test_text_that_is_no_text_is_kept_as_far_as_it_can_be():
    assert death_of(message("a\ud800"), FAILURE).payload == b"a?"
