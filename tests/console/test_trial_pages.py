"""The review page of a change of validator policies: what they would have done, and that it is looked at first."""

import pytest
from django.utils import timezone

from controlplane.accounts.models import Tenant
from controlplane.accounts.operations import grant_role
from controlplane.accounts.roles import Role
from controlplane.approvals.models import SignOff
from controlplane.audit.models import AuditEvent
from controlplane.console.trial_content import CONTEXT_CHARACTERS, marked
from controlplane.telemetry.samples import AnswerSample
from controlplane.trials.models import ValidatorTrial
from tests.console.conftest import said, words
from tests.factories import NOW, SETUP, crew
from tests.validator_tables import document_with, policy, propose, rule, run_trials, store

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

MAIL = "Write to ada@example.com"


@pytest.fixture
def change():
    """A table waits in which rules look at what is said on route chat."""
    store(MAIL, "Within 14 days", name="s")
    return propose(document_with(careful=policy(rule(), rule("mail-too", on_failure="warn"))))


def url(change, act=""):
    return f"/reviews/{change.pk}/{act}"


def approval(change, **fields):
    return {"role": "approver", "decision": "approve", "digest": change.digest, **fields}


def examples_of(change):
    return url(change, f"trials/{ValidatorTrial.objects.latest('id').pk}/")


def test_a_change_waits_for_its_trial_and_shows_how_far_it_is(change, signed_in):
    """Until it is done nobody signs, the page asks again by itself, and a form that was kept open is refused."""
    ValidatorTrial.objects.update(moved_at=timezone.now())
    approver = signed_in(crew.approver_one)

    page = approver.get(url(change))
    refused = approver.post(url(change, "sign/"), approval(change))

    assert "being tried: 0 of 0 stored answers so far" in words(page)
    assert "Sign off: see “Tried on stored answers”" in words(page)
    assert 'hx-trigger="every 2s"' in page.content.decode()
    assert "cannot be approved yet" in said(refused)[0]
    assert not SignOff.objects.filter(change=change).exists()


def test_a_trial_that_nobody_is_at_any_more_can_be_begun_anew(change, signed_in):
    """Its worker died; the page says so and offers to try, instead of waiting for ever."""
    page = signed_in(crew.oncall).get(url(change))

    assert "Its trial has not moved for minutes; try it again." in words(page)
    assert "Try on 1,000 stored samples" in words(page)
    assert 'hx-trigger="every 2s"' not in page.content.decode()


def test_what_a_trial_found_stands_on_the_page_and_is_signed(change, signed_in):
    """In words, per rule, and on the checklist, where a person has to judge whether it is right."""
    run_trials()
    approver = signed_in(crew.approver_one)

    page = approver.get(url(change))
    approver.post(url(change, "sign/"), approval(change))

    assert "Would have blocked 1 of 2" in words(page)
    assert "careful: would have blocked 1 of 2" in [item["text"] for item in page.context["content"]["checklist"]]
    (card,) = page.context["trials"]
    assert [(row.rule, row.counts["block"], row.counts["warn"]) for row in card.rules] == [
        ("mail-too", 0, 1),
        ("no-mail", 1, 0),
    ]
    assert 'hx-trigger="every 2s"' not in page.content.decode()
    assert MAIL not in page.content.decode()
    assert SignOff.objects.filter(change=change).count() == 1


def test_words_are_shown_to_who_may_read_them_and_that_is_on_record(change, signed_in):
    """What was found is marked in them; an approver sees where it is and what, and no word."""
    run_trials()

    approver, auditor = (signed_in(one).get(examples_of(change)) for one in (crew.approver_one, crew.auditor))

    assert "The words are for who may read" in words(approver)
    assert "E-mail address" in words(approver)
    assert "example.com" not in approver.content.decode()
    assert '<mark title="e-mail address">ada@example.com' in auditor.content.decode()
    assert "Write to" in words(auditor)
    (read,) = AuditEvent.objects.filter(action="samples.read")
    assert (read.actor, read.target, read.data["tenants"]) == ("auditor", f"change:{change.pk}", ["acme"])


def test_words_of_one_tenant_are_not_shown_to_who_audits_another(change, signed_in):
    """The permission is asked on the tenant of each answer."""
    run_trials()
    other = Tenant.objects.create(slug="globex", name="Globex")
    grant_role(operator=crew.exec, role=Role.AUDITOR, target=other, actor=SETUP, now=NOW)

    page = signed_in(crew.exec).get(examples_of(change))

    assert "example.com" not in page.content.decode()


def test_words_that_are_kept_no_more_are_not_shown(change, signed_in):
    """What a trial found outlives the answers that it was found in."""
    run_trials()
    Tenant.objects.filter(slug="acme").update(log_content=False)
    taken_back = signed_in(crew.auditor).get(examples_of(change))
    AnswerSample.objects.all().delete()
    deleted = signed_in(crew.auditor).get(examples_of(change))

    for page in (taken_back, deleted):
        assert "The answer is not kept any more" in words(page)
        assert "example.com" not in page.content.decode()


def test_tried_on_nothing_is_ticked_by_who_signs(signed_in):
    """The page says that nobody knows what it would block; without the tick the approval is refused."""
    change = propose(document_with(careful=policy()))
    run_trials()
    approver = signed_in(crew.approver_one)

    page = approver.get(url(change))
    refused = approver.post(url(change, "sign/"), approval(change))
    approver.post(url(change, "sign/"), approval(change, has_seen="on"))

    assert "nobody knows what it would block" in words(page)
    assert 'name="has_seen"' in page.content.decode()
    assert "say that you have seen this" in said(refused)[0]
    assert SignOff.objects.filter(change=change).count() == 1


def test_a_trial_is_made_again_by_a_button(change, signed_in):
    """By who may carry the change on; while one is under way there is no second."""
    run_trials()
    author = signed_in(crew.oncall)

    begun = author.post(url(change, "trials/"))
    twice = author.post(url(change, "trials/"))

    assert said(begun) == ["careful is being tried on up to 1,000 stored answers"]
    assert "tried already" in said(twice)[-1]
    assert ValidatorTrial.objects.count() == 2


def test_page_says_what_a_trial_does_not_speak_of(signed_in):
    """Judges, which are not asked."""
    store("fine")
    judge = rule("judged", kind="judge", params={"route": "summaries"}, on_failure="warn")
    change = propose(document_with(careful=policy(rule(), judge)))
    run_trials()

    page = signed_in(crew.approver_one).get(url(change))

    assert "judged: a model decides, which was not asked" in words(page)


def test_broken_glass_says_what_was_not_looked_into(change, signed_in):
    """In its dialog, before somebody breaks it."""
    page = signed_in(crew.oncall).get(url(change))

    dialog = page.content.decode().partition('id="break-glass"')[2]
    assert "is being tried" in dialog.partition("</dialog>")[0]


def test_other_changes_have_no_part_on_trials(signed_in):
    """A table without validators costs the page one look."""
    change = propose(document_with(deadline_ms=1000))

    page = signed_in(crew.approver_one).get(url(change))

    assert "Tried on stored answers" not in words(page)
    assert signed_in(crew.approver_one).get(url(change, "trials/999999/")).status_code == 404


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(2, 4)], ["ab", "[cd]", "efgh"]),
        ([(0, 2), (1, 3)], ["[ab]", "[c]", "defgh"]),
        ([(6, 8), (0, 1)], ["[a]", "bcdef", "[gh]"]),
        ([(1, 6), (2, 3)], ["a", "[bcdef]", "gh"]),
        ([(4, 99)], ["abcd", "[efgh]"]),
    ],
)
def test_what_was_found_is_marked_once(spans, expected):
    """Whatever order and however much overlaps: no character twice, and none left out."""
    found = [{"start": start, "end": end, "what": "x"} for start, end in spans]

    pieces = [f"[{piece.text}]" if piece.what else piece.text for piece in marked("abcdefgh", found)]

    assert pieces == expected


def test_far_from_what_was_found_is_left_out():
    """An answer may be long; what is shown of it is what one needs to judge."""
    text = "a" * 1000 + "X" + "b" * 1000 + "Y" + "c" * 1000
    found = [{"start": at, "end": at + 1, "what": "x"} for at in (1000, 2001)]

    first, x, between, y, last = marked(text, found)

    assert (x.text, y.text) == ("X", "Y")
    assert first.text == f"…{'a' * CONTEXT_CHARACTERS}"
    assert last.text == f"{'c' * CONTEXT_CHARACTERS}…"
    assert len(between.text) == 2 * CONTEXT_CHARACTERS + 3
