import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError, transaction

from controlplane.audit.models import AuditEvent
from controlplane.evals.errors import BadRows, InvalidSet
from controlplane.evals.models import EvalRow, EvalSet, EvalSetVersion, ProtectedText
from controlplane.evals.operations import compare
from tests.eval_sets import import_into, make_set, make_set_version, row
from tests.factories import make_tenant

pytestmark = pytest.mark.django_db


def test_imported_rows_are_kept_in_their_order():
    """A version counts from one, knows how many rows it has and by which digest, and gives rows back as values."""
    version = make_set_version("golden", row("b", expected={"contains": ["30 days"]}), row("a"))

    rows = list(version.rows.all())

    assert (version.number, version.rows_count, len(version.digest)) == (1, 2, 64)
    assert [(one.position, one.key) for one in rows] == [(0, "b"), (1, "a")]
    assert rows[0].read().expected.contains == ("30 days",)


def test_the_same_rows_again_are_the_version_that_there_is():
    """Nothing is stored or recorded for them, whoever brings them; other rows are the next version."""
    eval_set = make_set()
    first = import_into(eval_set, row("a"))
    events = AuditEvent.objects.count()

    again = import_into(eval_set, row("a"), actor="somebody")
    unchanged = AuditEvent.objects.count()
    second = import_into(eval_set, row("a"), row("b"))

    assert (again.pk, unchanged) == (first.pk, events)
    assert second.number == 2


def test_nothing_is_stored_if_a_line_is_wrong():
    """Not even the lines that are right."""
    eval_set = make_set()

    with pytest.raises(BadRows):
        import_into(eval_set, row("a"), {"id": "b"})

    assert EvalSetVersion.objects.count() == EvalRow.objects.count() == 0


def test_an_import_says_why():
    """A set without its origin cannot be argued with."""
    with pytest.raises(InvalidSet, match="reason: say where the rows come from"):
        import_into(make_set(), row(), reason="  ")


def test_held_out_rows_with_too_much_to_look_for_are_refused():
    """Storing it would hold up everybody's operations; golden rows may be as long, since nobody looks for them."""
    texts = [" ".join(f"{number}{one:x}" for one in range(41_000)) for number in range(5)]
    rows = [row(f"r{number}", variables={"question": text}) for number, text in enumerate(texts)]

    with pytest.raises(InvalidSet, match="204,965 runs of words would be looked for in prompts, more than 200,000"):
        import_into(make_set("held-out", purpose="held_out"), *rows)

    assert import_into(make_set(), *rows).rows_count == 5


def test_versions_differ_by_the_ids_of_their_rows():
    """Added, removed and changed, without a word of them."""
    eval_set = make_set()
    before = import_into(eval_set, row("same"), row("other"), row("gone"))
    after = import_into(eval_set, row("new"), row("other", variables={"question": "?"}), row("same"))

    found = compare(before, after)

    assert (found.added, found.removed, found.changed) == (("new",), ("gone",), ("other",))


def test_the_record_has_no_words_of_rows():
    """What was imported by whom and why, and its digest."""
    version = make_set_version("golden", row("a", variables={"question": "a secret of ours"}))

    event = AuditEvent.objects.get(action="evals.rows_imported")

    assert event.target == "eval-set:golden@1"
    assert event.data == {"digest": version.digest, "rows": 1, "reason": "r"}
    assert not any("secret" in str(one.data) for one in AuditEvent.objects.all())


@pytest.mark.parametrize("change", ["version", "row", "text", "set", "delete version", "delete set"])
def test_what_was_imported_is_fixed(change):
    """The database itself refuses to change versions and rows, and what a set is for."""
    long = " ".join(f"word{number}" for number in range(9))
    version = make_set_version("held-out", row(variables={"question": long}), purpose="held_out")
    changes = {
        "version": lambda: EvalSetVersion.objects.update(reason="other"),
        "row": lambda: EvalRow.objects.update(document={}),
        "text": lambda: ProtectedText.objects.all().delete(),
        "set": lambda: EvalSet.objects.update(purpose="golden"),
        "delete version": lambda: EvalSetVersion.objects.filter(pk=version.pk).delete(),
        "delete set": lambda: make_set("empty").delete(),
    }

    with pytest.raises(DatabaseError), transaction.atomic():
        changes[change]()

    assert EvalRow.objects.get().read().question == long


def test_words_about_a_set_may_be_changed():
    """Its name and description are no part of what runs rest on."""
    make_set()

    EvalSet.objects.update(name="Other", description="d")

    assert EvalSet.objects.get().name == "Other"


@pytest.mark.parametrize(
    ("fields", "fact"),
    [
        ({"capability": "telepathy"}, "capability: 'telepathy' is not one of"),
        ({"residency": ["eu", "eu"]}, "residency[1]: 'eu' is given twice"),
        ({"tenant": "nobody"}, "tenant: there is none called 'nobody'"),
        ({"tenant": "acme", "residency": ["eu", "us"]}, "residency: us is outside of where 'acme' is pinned: eu"),
    ],
)
def test_facts_that_do_not_go_together_are_refused(fields, fact):
    """Above all rows of a pinned tenant that might leave its pin."""
    make_tenant("acme", residency=["eu"])

    with pytest.raises(InvalidSet) as refused:
        make_set(**fields)

    assert fact in str(refused.value)


def test_a_set_of_a_pinned_tenant_is_pinned_unless_told():
    """Rule 9: its bytes stay where it says, in evals too."""
    make_tenant("acme", residency=["eu"])

    assert make_set(tenant="acme").residency == ["eu"]


def test_fields_are_checked():
    """As forms show them."""
    make_set()

    with pytest.raises(ValidationError, match="purpose"):
        make_set("other", purpose="fun")
    with pytest.raises(ValidationError, match="already exists"):
        make_set()
