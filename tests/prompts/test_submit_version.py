import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError, transaction

from controlplane.audit.models import AuditEvent
from controlplane.prompts.errors import InvalidVersion, SameAsBefore
from controlplane.prompts.models import PromptVersion
from controlplane.prompts.operations import submit_version
from controlplane.releases.operations import current_release
from tests.factories import NOW, VARIABLES, crew, make_prompt, make_version

pytestmark = pytest.mark.django_db


@pytest.fixture
def prompt():
    return make_prompt()


def submit(prompt, **changes):
    fields = {
        "messages": [{"role": "system", "content": "Hello {{name}}"}],
        "variables_schema": VARIABLES,
        "parameters": {"temperature": 0.2},
        "change_class": "tone",
        "rationale": "a test wants it",
        **changes,
    }
    return submit_version(prompt=prompt, actor=crew.owner, now=NOW, **fields)


def test_versions_count_from_one_and_serve_nobody(prompt):
    """A version is stored and recorded; no release is cut for it."""
    first, second = submit(prompt), make_version(prompt, "Good day")

    assert (first.number, second.number) == (1, 2)
    assert current_release() is None
    assert AuditEvent.objects.filter(action="prompt.version_submitted").count() == 2


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"messages": []}, "$.messages"),
        ({"messages": [{"role": "system", "content": "Hello {{nobody}}"}]}, "$.messages[0].content"),
        ({"variables_schema": {"type": "array"}}, "$.variables_schema.type"),
        ({"parameters": {"model": "gpt-4o"}}, "$.parameters.model"),
        ({"rationale": "  "}, "rationale"),
        ({"change_class": "huge"}, "change_class"),
        ({"change_class": ""}, "change_class"),
        ({"parameters": {"seed": 2**53}}, "$.parameters.seed"),
        ({"messages": [{"role": "system", "content": "\ud800 {{name}}"}]}, "$"),
        ({"messages": [{"role": "system", "content": "\x00 {{name}}"}]}, "$"),
        ({"variables_schema": {**VARIABLES, "x-limit": 2**60}}, "$"),
        ({"variables_schema": {**VARIABLES, "x-limit": float("nan")}}, "$"),
        ({"variables_schema": {**VARIABLES, "x-limit": 1e22}}, "$"),
    ],
)
def test_a_version_that_could_not_be_served_is_refused_with_its_path(prompt, changes, path):
    """Also what neither the database nor canonical JSON would keep as it was typed."""
    with pytest.raises(InvalidVersion) as refusal:
        submit(prompt, **changes)

    assert path in [problem_path for problem_path, _ in refusal.value.problems]
    assert not prompt.versions.exists()


def test_the_same_content_is_not_stored_twice(prompt):
    """Not even as another change class: a mild one cannot be claimed for words that were submitted as legal."""
    submit(prompt, change_class="legal")

    with pytest.raises(SameAsBefore) as refusal:
        submit(prompt, change_class="minor")

    assert refusal.value.number == 1


def test_the_change_class_is_shown_to_whoever_signs(prompt):
    """It is part of the record and, with the digest, of what a canary's approvers sign."""
    version = submit(prompt, change_class="minor")

    event = AuditEvent.objects.get(action="prompt.version_submitted")
    assert (event.data["change_class"], event.data["digest"]) == ("minor", version.digest)


def test_what_is_stored_is_what_was_digested(prompt):
    """Also after a round trip through the database."""
    version = submit(prompt, parameters={"temperature": 1.0, "seed": 7, "stop": ["é", "\u2028"]})

    assert PromptVersion.objects.get(pk=version.pk).is_intact()


@pytest.mark.parametrize("change", [{"rationale": "other"}, {"messages": []}, {"digest": "0" * 64}, {"number": 9}])
def test_a_version_is_never_saved_again(prompt, change):
    """Immutable for the ORM as for SQL."""
    version = submit(prompt)
    for field, value in change.items():
        setattr(version, field, value)

    with pytest.raises(DatabaseError, match="Cannot update"), transaction.atomic():
        version.save()
    with pytest.raises(DatabaseError, match="Cannot update"), transaction.atomic():
        prompt.versions.update(**change)
    with pytest.raises(DatabaseError), transaction.atomic():
        version.delete()


@pytest.mark.parametrize("slug", ["Support", "a--b", "-a", "a_", ""])
def test_a_prompt_whose_name_no_release_can_carry_is_refused(slug):
    """At its creation, not at its first go-live."""
    with pytest.raises(ValidationError):
        make_prompt(slug)
