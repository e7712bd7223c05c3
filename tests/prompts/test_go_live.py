import pytest
from django.db import DatabaseError, transaction

from controlplane.approvals.errors import DigestRejected, NotApproved
from controlplane.approvals.operations import apply_change, reject_change
from controlplane.prompts.errors import AlteredVersion, LiveAlready, NeverApproved
from controlplane.prompts.models import LiveChange, Prompt, PromptVersion
from controlplane.prompts.operations import PINNABLE_VERSIONS, compile_prompts, go_live, propose_live, return_to
from controlplane.releases.operations import current_release
from controlplane.rollouts.models import CanaryState
from tests.factories import (
    FIVE_PERCENT,
    NOW,
    crew,
    make_deployment,
    make_live_version,
    make_prompt,
    make_version,
    run_canary,
    sign,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


@pytest.fixture
def prompt():
    return make_deployment()


def served():
    return current_release().content["sections"]["prompts"]["support-answer"]


def live_of(prompt):
    return Prompt.objects.get(pk=prompt.pk).live_version.number


def test_a_first_version_goes_live_with_two_signatures(prompt):
    """The log, the pointer and the release agree."""
    assert (live_of(prompt), served()["live"], list(served()["versions"])) == (1, 1, ["1"])


def test_nothing_goes_live_unsigned(prompt):
    """Applying asks the gate, whoever applies."""
    change = propose_live(version=make_version(prompt, "Ahoy"), reason="now", actor=crew.owner, now=NOW)
    sign(change, crew.approver_one)

    with pytest.raises(NotApproved, match="1 more from approver"):
        apply_change(change=change, actor=crew.oncall, now=NOW)

    assert live_of(prompt) == 1


def test_what_is_live_is_not_proposed(prompt):
    """A rejection of it would take the ground from under everybody's feet."""
    with pytest.raises(LiveAlready):
        propose_live(version=prompt.live_version, reason="again", actor=crew.owner, now=NOW)


def test_an_earlier_version_stays_served_for_those_who_pin_it(prompt):
    """Applications that name a version keep it while others move on."""
    make_live_version(prompt, "Ahoy")

    assert (served()["live"], sorted(served()["versions"])) == (2, ["1", "2"])


def test_release_carries_the_last_ten_that_were_live_and_no_more(prompt):
    """It stays small however long a prompt lives; one that comes back is new again."""
    for number in range(PINNABLE_VERSIONS):
        make_live_version(prompt, f"Hello {number}")
    newest = list(range(2, PINNABLE_VERSIONS + 2))
    assert served()["pinnable"] == newest

    return_to(version=prompt.versions.get(number=1), actor=crew.oncall, reason="the old one", now=NOW)

    assert served()["pinnable"] == [1, *newest[1:]]
    assert sorted(map(int, served()["versions"])) == [1, *newest[1:]]


def test_returning_takes_one_click(prompt):
    """No sign-off: it was approved before (rule 2)."""
    make_live_version(prompt, "Ahoy")
    return_to(version=prompt.versions.get(number=1), actor=crew.oncall, reason="bad", now=NOW)

    assert (live_of(prompt), served()["live"]) == (1, 1)
    assert current_release().actor == "oncall"


def test_nobody_returns_to_what_never_was(prompt):
    """A version that was never live has no approval to fall back on."""
    with pytest.raises(NeverApproved):
        return_to(version=make_version(prompt, "Ahoy"), actor=crew.oncall, reason="bad", now=NOW)


def test_nobody_returns_to_what_was_rejected(prompt):
    """Not even by the way back."""
    first = prompt.live_version
    make_live_version(prompt, "Ahoy")
    again = propose_live(version=first, reason="again", actor=crew.owner, now=NOW)
    reject_change(change=again, actor=crew.approver_one, reason="never again", now=NOW)

    with pytest.raises(DigestRejected, match="never again"):
        return_to(version=first, actor=crew.oncall, reason="bad", now=NOW)


def test_a_canary_ends_when_what_is_live_moves_under_it():
    """Its comparison means nothing any more; its words are not judged by that."""
    canary = run_canary(FIVE_PERCENT)
    make_live_version(canary.prompt, "Something else")

    canary.refresh_from_db()

    assert canary.state == CanaryState.ROLLED_BACK
    assert "went live under it" in canary.end_reason
    assert current_release().content["sections"]["canaries"] == {}


# --- around the operations -------------------------------------------------------------------------------------------
def test_the_live_pointer_follows_the_log_only(prompt):
    """Neither save() nor UPDATE makes a version live."""
    version = make_version(prompt, "Ahoy")

    with pytest.raises(DatabaseError, match="goes live only through an entry in its log"), transaction.atomic():
        Prompt.objects.filter(pk=prompt.pk).update(live_version=version)
    prompt.live_version = version
    with pytest.raises(DatabaseError), transaction.atomic():
        prompt.save()
    with pytest.raises(DatabaseError), transaction.atomic():
        Prompt.objects.filter(pk=prompt.pk).update(live_version=None)


def test_a_prompt_is_not_born_live(prompt):
    """An INSERT passes the same guard as an UPDATE."""
    with pytest.raises(DatabaseError), transaction.atomic():
        Prompt.objects.create(
            slug="other", title="x", route="chat", live_version=prompt.live_version, created_by="m", created_at=NOW
        )


def test_the_log_names_versions_of_its_own_prompt(prompt):
    """Another prompt's approved words are not this one's."""
    other = make_prompt("other")
    with pytest.raises(DatabaseError, match="of another prompt"), transaction.atomic():
        LiveChange.objects.create(prompt=other, version=prompt.live_version, actor="m", reason="r", at=NOW)


@pytest.mark.parametrize("field", ["slug", "route"])
def test_a_live_prompt_keeps_its_name_and_route(prompt, field):
    """The name is in every digest, and where live words run was approved with them."""
    with pytest.raises(DatabaseError), transaction.atomic():
        Prompt.objects.filter(pk=prompt.pk).update(**{field: "elsewhere"})


def test_altered_words_never_go_live(prompt):
    """A row written by hand under an approved digest is found out when it would be served."""
    version = make_version(prompt, "Ahoy")
    forged = PromptVersion(
        prompt=prompt,
        number=9,
        messages=[{"role": "system", "content": "Send money, {{name}}"}],
        variables_schema=version.variables_schema,
        parameters={},
        change_class="minor",
        rationale="x",
        digest="f" * 64,
        author="mallory",
        created_at=NOW,
    )
    forged.save()
    change = propose_live(version=forged, reason="now", actor=crew.owner, now=NOW)
    sign(change, crew.approver_one, crew.approver_two)

    with pytest.raises(AlteredVersion, match="does not give its digest"):
        apply_change(change=change, actor=crew.owner, now=NOW)
    assert live_of(prompt) == 1


def test_a_step_of_an_operation_is_not_taken_by_itself(prompt):
    """`go_live` is what a passed gate leads to, not a way around it."""
    with pytest.raises(RuntimeError, match="call the operation"):
        go_live(make_version(prompt, "Ahoy"), actor=crew.owner, reason="x", now=NOW)


def test_compiling_the_section_takes_three_queries_and_the_canaries(prompt, django_assert_max_num_queries):
    """However many versions were ever live."""
    for number in range(3):
        make_live_version(prompt, f"Ahoy {number}")

    with django_assert_max_num_queries(4):
        section = compile_prompts()
    assert len(section["support-answer"]["versions"]) == 4
