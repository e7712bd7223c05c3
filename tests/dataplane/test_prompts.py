"""The template language, the checks of a version, and rendering."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.errors.requests import InvalidVariables
from dataplane.prompts import PromptSet, PromptVersion, placeholders, render, validate_version
from dataplane.release import MalformedRelease

ANYTHING = {"type": "object"}


def user(content):
    return {"role": "user", "content": content}


def version_of(content, schema=None, **properties):
    names = placeholders([user(content)])
    schema = schema or {"type": "object", "properties": {name: {} for name in names} | properties}
    return PromptVersion.build(
        prompt="p", number=3, digest="0" * 64, messages=[user(content)], variables_schema=schema, parameters={}
    )


def rendered(content, variables):
    return render(version_of(content), variables)[0]["content"]


@pytest.mark.parametrize(
    ("content", "variables", "expected"),
    [
        ("Hello {{name}}!", {"name": "Ada"}, "Hello Ada!"),
        ("{{ name }}{{name}}", {"name": "x"}, "xx"),
        ("{{n}} {{yes}} {{none}}", {"n": 3, "yes": True, "none": None}, "3 true null"),
        ("{{pi}}", {"pi": 1.5}, "1.5"),
        ("{{list}}", {"list": [1, {"b": "é", "a": 2}]}, '[1,{"a":2,"b":"é"}]'),
        ('{{"{{"}}name}}', {}, "{{name}}"),
        ("{{name}}", {"name": "{{other}}"}, "{{other}}"),
        ('{"a": {"b": 1}} {x}', {}, '{"a": {"b": 1}} {x}'),
        ('{"q": {{q}}}', {"q": 1}, '{"q": 1}'),
        ("{{a_1}}", {"a_1": ""}, ""),
    ],
)
def test_template_is_rendered(content, variables, expected):
    """Only `{{name}}` means anything, and what a variable holds is never read again."""
    assert rendered(content, variables) == expected


@given(text=st.text(), value=st.text())
def test_any_text_can_be_written_and_any_value_inserted_unchanged(text, value):
    """With `{{` written as the language says, every text and every value comes out as it went in."""
    # "{{{" could be read from either brace, so literal braces are written pair by pair from the left.
    content = text.replace("{{", '{{"{{"}}') + " {{value}}"

    assert rendered(content, {"value": value}) == f"{text} {value}"


@pytest.mark.parametrize(
    "content", ["{{", "{{name", "{{na-me}}", "{{a.b}}", "{{}}", "{{ }}", "{{{name}}", "{{name}", "{{% if %}}"]
)
def test_malformed_placeholder_is_an_error_at_its_message(content):
    """A typo in braces must not reach a model as text."""
    problems = validate_version([user("fine"), user(content)], ANYTHING, {})

    assert [(problem.path, problem.is_error) for problem in problems] == [("$.messages[1].content", True)]


def errors_of(messages=None, schema=None, parameters=None):
    problems = validate_version(
        [user("hi")] if messages is None else messages, ANYTHING if schema is None else schema, parameters or {}
    )
    return [problem.path for problem in problems if problem.is_error]


@pytest.mark.parametrize(
    ("messages", "paths"),
    [
        ([], ["$.messages"]),
        ("hi", ["$.messages"]),
        ([user("")], ["$.messages[0].content"]),
        ([user("  \n")], ["$.messages[0].content"]),
        ([user(None)], ["$.messages[0].content"]),
        ([{"role": "wizard", "content": "x"}], ["$.messages[0].role"]),
        ([{"role": "user", "content": "x", "name": "n"}], ["$.messages[0].name"]),
        (["x", user("ok")], ["$.messages[0]"]),
        ([user("{{unknown}}")], ["$.messages[0].content"]),
    ],
)
def test_messages_are_checked(messages, paths):
    """Each error stands at the message it concerns."""
    assert errors_of(messages=messages) == paths


@pytest.mark.parametrize(
    "schema",
    [
        {"type": 5},
        {"properties": {"a": {"pattern": "("}}},
        {"$ref": "https://example.com/schema.json"},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
        [],
        {"type": "string"},
    ],
)
def test_schema_that_is_invalid_or_leaves_the_document_is_an_error(schema):
    """Nothing is fetched, from a network or a disk, on behalf of a schema."""
    paths = errors_of(schema=schema)

    assert paths
    assert all(path.startswith("$.variables_schema") for path in paths)


@pytest.mark.parametrize(
    ("parameters", "paths"),
    [
        ({"temperature": 2, "top_p": 0, "max_tokens": 1, "seed": -5, "stop": ["a"]}, []),
        ({"temperature": 2.1}, ["$.parameters.temperature"]),
        ({"temperature": float("nan")}, ["$.parameters.temperature"]),
        ({"temperature": True}, ["$.parameters.temperature"]),
        ({"max_tokens": 0}, ["$.parameters.max_tokens"]),
        ({"model": "gpt-4o"}, ["$.parameters.model"]),
        ({"stop": ["1", "2", "3", "4", "5"]}, ["$.parameters.stop"]),
        ({"response_format": {"type": "poem"}}, ["$.parameters.response_format"]),
        ({"tools": None}, ["$.parameters.tools"]),
    ],
)
def test_parameters_are_checked(parameters, paths):
    """Unknown parameters and values out of range are errors."""
    assert [path.split(".type")[0] for path in errors_of(parameters=parameters)] == paths


def test_property_that_no_message_uses_is_a_warning_after_the_errors():
    """It may be meant; a person decides."""
    schema = {"type": "object", "properties": {"used": {}, "spare": {}}, "required": ["used"]}

    problems = validate_version([user("{{used}}"), user("")], schema, {})

    assert [(problem.path, problem.is_error) for problem in problems] == [
        ("$.messages[1].content", True),
        ("$.variables_schema.properties.spare", False),
    ]


def test_missing_variable_is_named():
    """The caller learns which variable to send, not just that one is missing."""
    with pytest.raises(InvalidVariables) as error:
        render(version_of("{{a}} {{b}} {{c}}"), {"b": 1})

    assert error.value.names == ("a", "c")
    assert error.value.param == "prompt.variables.a"
    assert "p@3" in str(error.value)


def test_variable_that_breaks_the_schema_is_named():
    """The schema is checked before anything is rendered."""
    version = version_of("{{n}}", n={"type": "integer"})

    with pytest.raises(InvalidVariables) as error:
        render(version, {"n": "three"})

    assert error.value.param == "prompt.variables.n"


def test_variable_that_nothing_uses_is_the_schemas_business():
    """Both arms of a canary must accept what the application sends to either."""
    strict = {"type": "object", "properties": {"a": {}}, "additionalProperties": False}

    assert render(version_of("{{a}}"), {"a": "x", "b": "y"}) == [user("x")]
    with pytest.raises(InvalidVariables, match="b"):
        render(version_of("{{a}}", schema=strict), {"a": "x", "b": "y"})


def test_rendered_messages_are_the_callers_own():
    """Changing what render gave changes nothing for the next request."""
    version = version_of("fixed")

    render(version, {})[0]["content"] = "changed"

    assert render(version, {}) == [user("fixed")]


def test_prompt_section_refuses_a_version_that_the_form_would_refuse(make_document):
    """The console and the worker have one opinion, and the worker adds the path."""
    section = make_document()["sections"]["prompts"]
    section["support-answer"]["versions"]["2"]["messages"][0]["content"] = "{{nobody}}"

    with pytest.raises(MalformedRelease) as refusal:
        PromptSet.parse(section)

    assert refusal.value.path == '$.sections.prompts["support-answer"].versions["2"].messages[0].content'


@pytest.mark.parametrize("number", ["0", "01", "-1", "1.0", "²", ""])
def test_version_number_is_a_plain_positive_number(make_document, number):
    """Two spellings of one number would be two versions."""
    section = make_document()["sections"]["prompts"]
    versions = section["support-answer"]["versions"]
    versions[number] = versions["2"]

    with pytest.raises(MalformedRelease, match="version number"):
        PromptSet.parse(section)


def test_placeholders_are_the_names_that_messages_ask_for():
    """Literal braces are no name."""
    assert placeholders([user('{{a}} {{"{{"}} b}}'), user("{{ c }}{{a}}")]) == {"a", "c"}
