"""Whether answers meet their schema."""

from __future__ import annotations

import pytest

from dataplane.schema_check import SchemaChecker

SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("text", "passed"),
    [('{"a": 1}', True), ('{"a": "1"}', False), ("{}", False), ("", False), ('```json\n{"a": 1}\n```', False)],
)
def test_answer_is_checked_as_it_stands(text, passed):
    """Only JSON that satisfies the schema passes; a fence around it does not count as JSON."""
    assert SchemaChecker().check(SCHEMA, text) is passed


def test_schema_that_cannot_be_compiled_checks_nothing():
    """A caller's own broken schema is the vendor's to refuse."""
    assert SchemaChecker().check({"type": "nonsense"}, "{}") is None


def test_old_validators_make_room():
    """The cache stays within its limit and still answers right."""
    checker = SchemaChecker(limit=2)

    assert [checker.check(SCHEMA | {"title": str(number)}, '{"a": 1}') for number in (1, 2, 3, 1)] == [True] * 4
    assert len(checker._compiled) == 2
