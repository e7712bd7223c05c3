"""What builds are made of: records in words, line by line where they were."""

import dataclasses
import traceback

import pytest

from dataplane import native
from launcher.native_records import NotARecord, unrolled

RECORDS = '''"""Two records."""

from __future__ import annotations

from dataclasses import field
from typing import Generic, TypeVar

from dataplane.records import record

T = TypeVar("T")


@record
class Count:
    """How many."""

    name: str
    number: int = 0
    words: str | None = field(default=None, repr=False)

    def halved(self) -> int:
        return 1 // (self.number - self.number)


@record
class Held(Generic[T]):
    """One thing."""

    thing: T
'''


def made(source):
    """The module of a source."""
    names = {"__name__": __name__}
    exec(compile(source, "records.py", "exec"), names)  # noqa: S102 - a source of ours
    return names


@pytest.fixture(scope="module")
def both():
    """The records as dataclasses, and written out."""
    return made(RECORDS), made(unrolled(RECORDS))


def test_record_in_words_is_what_the_dataclass_is(both):
    """Made, shown, compared, matched and changed alike."""
    seen = []
    for names in both:
        kind = names["Count"]
        count = kind("a", words="secret")
        match count:
            case kind(name, number):
                matched = (name, number)
        changed = dataclasses.replace(count, number=3)
        same = count == names["Count"]("a", 0, "secret")
        seen.append((repr(count), matched, repr(changed), same, count == changed, count == "a", changed.words))

    assert seen[0] == seen[1]
    assert seen[0] == ("Count(name='a', number=0)", ("a", 0), "Count(name='a', number=3)", True, False, False, "secret")


def test_fields_without_a_default_are_asked_for(both):
    """By either."""
    for names in both:
        with pytest.raises(TypeError, match="thing"):
            names["Held"]()


def test_traceback_names_the_line_that_people_read(both):
    """No line of a source moves."""
    lines = []
    for names in both:
        with pytest.raises(ZeroDivisionError) as caught:
            names["Count"]("a").halved()
        lines.append(traceback.extract_tb(caught.value.__traceback__)[-1].lineno)

    assert lines[0] == lines[1] == RECORDS.splitlines().index("        return 1 // (self.number - self.number)") + 1


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("class A(B):\n    a: int\n", "base class"),
        ("@other\nclass A:\n    a: int\n", "another decorator"),
        ("class A:\n    a: list[int] = field(default_factory=list)\n", "made anew"),
        ("class A:\n    a: int\n    def b(self) -> None: ...\n", "no empty line"),
        ("class A:\n    pass\n", "no fields"),
    ],
)
def test_class_that_is_more_than_a_record_ends_the_build(body, why):
    """Rather than being one that behaves otherwise."""
    with pytest.raises(NotARecord, match=why):
        unrolled(f"from dataplane.records import record\n\n\n@record\n{body}")


def test_every_record_of_a_build_can_be_written_out():
    """And stays of so many lines."""
    for file in native.sources().values():
        source = file.read_text()
        written = unrolled(source)
        compile(written, str(file), "exec")

        assert len(written.splitlines()) in (len(source.splitlines()), len(source.splitlines()) + 1)
        assert "@record\n" not in written
