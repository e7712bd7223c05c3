"""Instances of JSON Schemas: whatever can be built is valid, and the rest is refused."""

from __future__ import annotations

from random import Random

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.simulator.instances import UnsatisfiableSchema, build_instance

LEAVES = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 40},
        {"type": "string", "maxLength": 3},
        {"type": "string", "format": "email"},
        {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
        {"type": "integer", "minimum": 3, "maximum": 3},
        {"type": "integer", "exclusiveMinimum": 10, "multipleOf": 5},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "number", "maximum": -5},
        {"type": ["boolean", "null"]},
        {"enum": ["a", 1, None]},
        {"const": {"fixed": True}},
        {"type": "null"},
    ]
)
NAMES = st.sampled_from(["answer", "email", "order_id", "x"])
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.dictionaries(NAMES, inner, max_size=3),
                "required": st.just(["x"]),
            }
        ),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner, "minItems": st.integers(0, 4)}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
    ),
    max_leaves=8,
)


def build(schema, seed=1):
    return build_instance(schema, rng=Random(seed), prose=lambda: "You can return most items within 30 days.")


@given(schema=SCHEMAS, seed=st.integers(0, 1000))
def test_instance_is_valid_and_repeatable(schema, seed):
    """Any schema of the usual parts gets a valid instance, the same one for the same seed."""
    instance = build(schema, seed)

    assert jsonschema_rs.is_valid(schema, instance)
    assert build(schema, seed) == instance


@pytest.mark.parametrize(("topic", "word"), [("shipping", "shipping"), ("accounts", "account")])
def test_word_to_choose_is_that_of_the_question(topic, word):
    """An answer on parcels is not filed under accounts."""
    schema = {"enum": ["orders", "shipping", "account", "other", 7]}

    assert {build_instance(schema, rng=Random(seed), prose=str, topic=topic) for seed in range(20)} == {word}


def test_recursive_schema_ends():
    """A tree of itself stops where it may."""
    schema = {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                    "parent": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["children", "parent"],
            }
        },
        "$ref": "#/$defs/node",
    }

    assert jsonschema_rs.is_valid(schema, build(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "no-such-type"},
        {"not": {}},
        {"type": "string", "pattern": "^zebra[0-9]{17}$"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "#"},
        {
            "type": "object",
            "properties": {"self": {"$ref": "#"}},
            "required": ["self"],
        },
    ],
)
def test_schema_that_cannot_be_satisfied_is_refused(schema):
    """No instance is better than a wrong one."""
    with pytest.raises(UnsatisfiableSchema):
        build(schema)
