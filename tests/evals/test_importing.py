import json

import pytest

from controlplane.evals.errors import BadRows
from controlplane.evals.importing import MAX_PROBLEMS, MAX_ROW_BYTES, MAX_ROWS, digest_of_rows, read_rows
from controlplane.evals.rows import row_hash
from tests.eval_sets import lines, row


def test_rows_come_back_as_they_were_written():
    """With the hash of their canonical JSON; empty lines, and what some editors begin a file with, are passed over."""
    first = row("a", sources=[{"id": "s", "text": "t"}], expected={"json": {"n": 1.5, "list": [None, True]}})
    second = row("b", messages=[{"role": "user", "content": "Hi"}], labels={"safe": 0.4, "grounded": 1}, answer="x")

    read = read_rows(b"\xef\xbb\xbf" + lines(first) + b"\n  \r\n" + lines(second))

    assert [one.document for one in read] == [first, second]
    assert [one.hash for one in read] == [row_hash(first), row_hash(second)]
    assert read[1].row.labels == {"safe": False, "grounded": True}
    assert read[0].row.question == "Question a"


def test_order_of_keys_is_not_content():
    """The same row written in another order has the same hash."""
    one, other = json.dumps({"id": "a", "variables": {}}), json.dumps({"variables": {}, "id": "a"})

    assert read_rows(one.encode())[0].hash == read_rows(other.encode())[0].hash


def test_digest_depends_on_the_order_of_rows():
    """Positions are content: a run reports by them."""
    assert digest_of_rows(["a", "b"]) != digest_of_rows(["b", "a"])


@pytest.mark.parametrize(
    ("document", "fact"),
    [
        ({"id": "a"}, "$: give either 'variables', for a managed prompt, or 'messages'"),
        (row("a", variables={}, messages=[{"role": "user", "content": ""}]), "$: give either 'variables'"),
        (row(""), "$.id: must not be empty"),
        (row("x" * 101), "$.id: is no name of at most 100 printable characters"),
        (row("a\nb"), "$.id: is no name"),
        (row("a", sauces=[]), "$.sauces: unknown key; expected answer, expected, id"),
        (row("a", messages=[]), "$.messages: expected at least 1 element, got 0"),
        (row("a", messages=[{"role": "user"}]), "$.messages[0]: missing key 'content'"),
        (row("a", messages=[{"role": "user", "content": 3}]), "$.messages[0].content: is neither text, nor parts"),
        (row("a", sources=[{"id": "s", "text": "t"}] * 2), "$.sources[1].id: 's' is given twice"),
        (row("a", response_format={"type": "yaml"}), "$.response_format.type: 'yaml' is not one of"),
        (row("a", response_format={"type": "json_schema", "json_schema": {}}), "missing key 'schema'"),
        (
            row("a", response_format={"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}),
            "$.response_format.json_schema.schema: not a valid JSON Schema",
        ),
        (row("a", expected={}), "$.expected: expects nothing"),
        (row("a", expected={"contains": ["?!"]}), "$.expected.contains[0]: has neither letters nor digits"),
        (row("a", expected={"tool": {"arguments": {}}}), "$.expected.tool: missing key 'name'"),
        (row("a", labels={"safe": True}), "$.labels: are about an answer; give 'answer' too"),
        (row("a", labels={"safe": 1.5}, answer=""), "$.labels.safe: 1.5 is not above 0 and at most 1"),
        (row("a", labels={"Not Safe": True}, answer=""), "is not a slug"),
        (row("a", variables={"q": "\x00"}), "$.variables.q: holds a NUL or half of a character"),
        (row("a", variables={"q": "\ud800"}), "$.variables.q: holds a NUL or half of a character"),
        (row("a", variables={"n": 1e22}), "$.variables.n: is a number that cannot be kept exactly"),
        (row("a", variables={"n": 2**53}), "$.variables.n: is a number that cannot be kept exactly"),
        ([], "$: expected an object, got an array"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(document, fact):
    """By its number in the file, with the path in the row."""
    with pytest.raises(BadRows) as refused:
        read_rows(lines(row("good"), document))

    [(line, what)] = refused.value.problems
    assert line == 2
    assert fact in what


@pytest.mark.parametrize(
    ("given", "fact"),
    [
        (b'{"id": "a", "variables": {}, "id": "b"}', "key 'id' is given twice"),
        (b'{"id": "a", "variables": {"n": NaN}}', "NaN is not JSON"),
        (b'{"id": "a"', "not valid JSON"),
        (b'{"id": "\xff"}', "is not UTF-8"),
        (b'{"id": "a", "variables": ' + b"[" * 5000 + b"]" * 5000 + b"}", ""),
        (b'{"id": "a", "variables": {"v": ' + b"[" * 60 + b"]" * 60 + b"}}", "lies over 40 deep"),
    ],
)
def test_what_is_no_json_is_refused(given, fact):
    """Also what Python's own parser would let through, or fall over."""
    with pytest.raises(BadRows) as refused:
        read_rows(given)

    assert refused.value.problems[0][0] == 1
    assert fact in str(refused.value)


def test_every_bad_line_is_named_at_once():
    """Whoever mends a file mends it once; a good line between two bad ones changes nothing."""
    with pytest.raises(BadRows) as refused:
        read_rows(b"nothing\n" + lines(row()) + b"[]\n")

    assert [line for line, _ in refused.value.problems] == [1, 3]
    assert "line 1: " in str(refused.value)


def test_rows_are_refused_twice_by_name_and_by_content():
    """An id names one row, and one content is one row, whatever it is called."""
    same = row("b", variables={"question": "Question a"})

    with pytest.raises(BadRows) as refused:
        read_rows(lines(row("a"), row("a", variables={}), same))

    assert refused.value.problems == [
        (2, "row 'a' stands in line 1 already"),
        (3, "row 'b' has exactly the content of 'a' in line 1"),
    ]


def test_nothing_and_too_much_are_refused():
    """No rows, too long a row, and more rows than a set may have."""
    many = lines(*(row(f"r{number}") for number in range(MAX_ROWS + 1)))

    with pytest.raises(BadRows, match="there is no row"):
        read_rows(b"\n\n")
    with pytest.raises(BadRows, match="more than 256 KiB in one row"):
        read_rows(lines(row("a", variables={"q": "x" * MAX_ROW_BYTES})))
    with pytest.raises(BadRows, match="line 10001: more than 10,000 rows"):
        read_rows(many)


def test_too_many_bytes_are_refused_without_reading_on():
    """What is sent on and on is cut off at the limit, and what it was is never all in memory."""

    class Endless:
        def __init__(self) -> None:
            self.lines = 0

        def readline(self, size: int) -> bytes:
            self.lines += 1
            return b" " * (size - 2) + b"\n"

    endless = Endless()

    with pytest.raises(BadRows, match="more than 32 MiB"):
        read_rows(endless)

    assert endless.lines == 129


def test_a_file_of_another_kind_is_not_read_to_its_end():
    """After so many bad lines nobody reads on."""
    with pytest.raises(BadRows) as refused:
        read_rows(b"a;b;c\n" * 5_000)

    assert len(refused.value.problems) == MAX_PROBLEMS + 1
    assert refused.value.problems[-1] == (0, "reading stopped after 100 bad lines")
