from datetime import timedelta

import pytest
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext

from controlplane.accounts.roles import Role
from controlplane.approvals.errors import (
    AlreadyOpen,
    DigestRejected,
    MalformedPolicy,
    NotAllowedToSign,
    NotApproved,
)
from controlplane.approvals.kinds import check_rules
from controlplane.approvals.models import ApprovalPolicy, BreakGlass, PolicyActivation
from controlplane.approvals.operations import apply_change, rebase_change, reject_change
from controlplane.ladder.errors import AlteredCopy, InvalidCopy, LiveAlready, NeverSigned, SameCopy
from controlplane.ladder.models import Copy, CopyActivation, CopyVersion
from controlplane.ladder.operations import (
    activate,
    check_document,
    compile_copy,
    create_copy,
    propose_version,
    return_to,
    submit_version,
)
from controlplane.ladder.uses import uses
from controlplane.releases.errors import UnservableRelease
from controlplane.releases.models import Release
from controlplane.releases.operations import current_release, roll_back_to
from dataplane.release import canonical, digest_of
from tests.factories import (
    NOW,
    built_in_rules,
    copy_document,
    crew,
    make_copy,
    make_copy_version,
    make_demo_copy,
    make_live_copy,
    make_policy,
    make_routing,
    routing_document,
    sign,
    sign_copy,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def policy():
    make_policy()


def released():
    """The words of each piece in the current release, by slug."""
    release = current_release()
    section = release.content["sections"]["copy"] if release else {}
    return {slug: entry["document"]["locales"]["en"]["text"] for slug, entry in section.items()}


def propose(version):
    return propose_version(version=version, reason="r", actor=crew.owner, now=NOW)


def test_words_are_released_once_exec_has_signed_them_and_not_before():
    """Submitted and proposed they are in no release; applied without a signature they are refused."""
    copy = make_copy()
    change = propose(make_copy_version(copy, "We are down"))
    before = released()
    with pytest.raises(NotApproved, match="1 more from exec"):
        apply_change(change=change, actor=crew.owner, now=NOW)
    with pytest.raises(NotAllowedToSign):
        sign(change, crew.owner, role=Role.EXEC)

    sign_copy(change)

    section = current_release().content["sections"]["copy"]
    assert before == {}
    assert section == {
        "help-centre-outage": {
            "version": 1,
            "digest": check_document(copy, copy_document(text="We are down")),
            "document": copy_document(text="We are down"),
        }
    }


def test_regulated_words_wait_for_legal_too():
    """One signature of exec is enough elsewhere, and not there."""
    change = propose(make_copy_version(make_copy(regulated=True)))
    sign(change, crew.exec, role=Role.EXEC)
    with pytest.raises(NotApproved, match="1 more from legal"):
        apply_change(change=change, actor=crew.owner, now=NOW)

    sign(change, crew.legal, role=Role.LEGAL)
    apply_change(change=change, actor=crew.owner, now=NOW)

    assert released() == {"help-centre-outage": "Nobody can answer now"}


def test_policy_speaks_of_kind_and_regulation_of_copy():
    """A condition that could never hold would leave regulated words to a milder rule, and a gate that asks nobody would
    shut words in that are refused unsigned."""

    def rules(gates=None, **when):
        rule = {"name": "n", "kind": "copy.version", "when": when, "gates": {"apply": {"exec": 1}} | (gates or {})}
        return [rule, *built_in_rules()]

    assert check_rules(rules(copy_kind=["outage", "answers"], regulated=[True]))
    with pytest.raises(
        MalformedPolicy, match=r"rules\[0\]\.gates\.apply: asks nobody, .* 'copy\.version' .* name who signs"
    ):
        check_rules(rules(gates={"apply": {}}, regulated=[False]))
    with pytest.raises(MalformedPolicy, match=r"when\.regulated: 'yes' is not one of False, True"):
        check_rules(rules(regulated=["yes"]))
    with pytest.raises(
        MalformedPolicy,
        match=r"when\.copy_kind: 'poem' is not one of answers, escalation, freshness, outage, rung, template",
    ):
        check_rules(rules(copy_kind=["poem"]))


def test_a_signature_is_void_once_other_words_are_live():
    """It was given on top of what users read then."""
    copy = make_copy()
    change = propose(make_copy_version(copy, "first"))
    sign(change, crew.exec, role=Role.EXEC)
    make_live_copy(copy, "second")

    with pytest.raises(NotApproved):
        apply_change(change=change, actor=crew.owner, now=NOW)


def saying(text="x", json=None):
    """A document of one language with these words."""
    return {"kind": "outage", "default_locale": "en", "locales": {"en": {"text": text, "json": json}}}


def test_words_that_no_worker_could_show_are_refused_with_their_path():
    """By the parser that every worker runs, before anything is stored."""
    copy = make_copy()
    for document, place in (
        ("words", r"\$: expected an object"),
        (saying("{{when}}"), r"\$\.locales\.en\.text: placeholder 'when'"),
        (saying(json=[1]), r"\$\.locales\.en\.json: expected an object"),
        ({**saying(), "locales": {"en": {"text": "x"}}}, r"\$\.locales\.en: missing key 'json'"),
        ({**saying(), "default_locale": "fr"}, r"\$\.default_locale: 'fr' is not among"),
        ({**saying(), "locales": {"en": {}, "!": {}}}, r"\$\.locales\.en: missing key 'text'"),
        ({**saying(), "kind": "template"}, r"\$\.kind: 'template', but 'help-centre-outage' is copy of the kind 'out"),
        (saying(json={1: 2}), r"\$: cannot be written as canonical JSON: object keys must be strings"),
        (saying(json={"a": "\ud800"}), r"\$: cannot be written as canonical JSON: input contains non-UTF-8"),
        (saying(json={"a": 1e22}), r"\$: holds a number that cannot be kept exactly"),
        (saying("x\x00"), r"\$: cannot be stored"),
    ):
        with pytest.raises(InvalidCopy, match=place):
            submit_version(copy=copy, document=document, rationale="r", actor=crew.owner, now=NOW)
    with pytest.raises(InvalidCopy, match="rationale: say why"):
        submit_version(copy=copy, document=saying(), rationale=" ", actor=crew.owner, now=NOW)

    assert not CopyVersion.objects.exists()


def test_the_same_words_are_not_asked_for_twice():
    """Neither stored twice, nor proposed while live or while people are asked, nor under another slug once rejected."""
    copy = make_copy()
    live = make_live_copy(copy, "live")
    with pytest.raises(SameCopy, match="v1 has exactly these words"):
        make_copy_version(copy, "live")
    with pytest.raises(LiveAlready):
        propose(live)
    waiting = make_copy_version(copy, "waiting")
    change = propose(waiting)
    with pytest.raises(AlreadyOpen):
        propose(waiting)

    reject_change(change=change, actor=crew.exec, reason="no", now=NOW)

    for refused in (lambda: propose(waiting), lambda: make_copy_version(make_copy("other"), "waiting")):
        with pytest.raises(DigestRejected):
            refused()


def test_returning_takes_one_click_and_goes_to_signed_words_only():
    """Back to what was live with its sign-offs; never to what was only proposed, nor to what was rejected since."""
    copy = make_copy()
    first, second = make_live_copy(copy, "first"), make_live_copy(copy, "second")
    proposed = make_copy_version(copy, "third")

    return_to(version=first, actor=crew.oncall, reason="typo", now=NOW)
    after, count = released(), CopyActivation.objects.count()
    return_to(version=first, actor=crew.oncall, reason="again", now=NOW)

    assert after == {"help-centre-outage": "first"}
    assert CopyActivation.objects.count() == count
    with pytest.raises(NeverSigned):
        return_to(version=proposed, actor=crew.oncall, reason="try", now=NOW)
    change = propose(second)
    reject_change(change=change, actor=crew.exec, reason="it promised too much", now=NOW)
    with pytest.raises(DigestRejected):
        return_to(version=second, actor=crew.oncall, reason="try", now=NOW)


def test_words_need_a_signature_whatever_lets_them_through():
    """Neither a bypass nor a policy that asks nobody, written into the tables by hand, shows them."""
    copy = make_copy(regulated=True)
    make_live_copy(copy, "signed")
    change = propose(make_copy_version(copy, "hasty"))
    sign(change, crew.exec, role=Role.EXEC)
    by_hand = {"change": change, "actor": "mallory", "reason": "r", "incident": "INC-1", "digest": change.digest}
    BreakGlass.objects.create(
        **by_hand, used_at=NOW, lapses_at=NOW + timedelta(hours=1), review_due_at=NOW + timedelta(hours=1)
    )
    with pytest.raises(NeverSigned, match="sign-offs of help-centre-outage v2 are missing"):
        apply_change(change=change, actor=crew.oncall, now=NOW)
    asks_nobody = {"name": "n", "kind": "copy.version", "gates": {"apply": {}}}
    rules = [asks_nobody, *(rule for rule in built_in_rules() if rule["kind"] != "copy.version")]
    silent = ApprovalPolicy.objects.create(
        number=2, rules=rules, digest=digest_of(canonical(rules)), author="mallory", rationale="r", created_at=NOW
    )
    PolicyActivation.objects.create(policy=silent, at=NOW, actor="mallory", reason="r")
    change = rebase_change(change=change, actor=crew.owner, now=NOW)
    with pytest.raises(NeverSigned, match=f"have CR-{change.pk} signed"):
        apply_change(change=change, actor=crew.owner, now=NOW)
    before = released()

    sign_copy(change)

    assert before == {"help-centre-outage": "signed"}
    assert released() == {"help-centre-outage": "hasty"}


def test_a_stack_that_names_unsigned_words_is_never_released():
    """Workers would refuse it, so nothing of it is put in force; the message says where and why."""
    make_live_copy(slug="help-centre-answers", kind="answers")
    make_live_copy(slug="help-centre-template", kind="template")
    unsigned = make_copy_version(make_copy())
    propose(unsigned)
    path = r"\$\.sections\.routing\.fallbacks\[\"help-centre\"\]\.outage\.copy: 'help-centre-outage' is no signed copy"

    with pytest.raises(UnservableRelease, match=path):
        make_routing(routing_document(fallbacks=True))

    assert "fallbacks" not in current_release().content["sections"]["routing"]


def test_a_policy_that_withholds_answers_with_unsigned_words_is_never_released():
    """As with stacks; and words of another kind, which say that asking again helps, do not do either."""
    path = r"\$\.sections\.routing\.validators\[\"careful-answers\"\]\.escalation: "
    document = routing_document()
    document["validators"]["careful-answers"]["escalation"] = "withheld"
    propose(make_copy_version(make_copy("withheld", kind="escalation")))

    with pytest.raises(UnservableRelease, match=path + "'withheld' is no signed copy"):
        make_routing(document)
    document["validators"]["careful-answers"]["escalation"] = make_live_copy(slug="later").copy.slug
    with pytest.raises(UnservableRelease, match=path + "'later' is copy of the kind 'outage', not 'escalation'"):
        make_routing(document)


def test_words_for_a_withheld_answer_name_no_time():
    """Asking the same again does not help, so there is none to wait for."""
    copy = make_copy("withheld", kind="escalation")

    with pytest.raises(InvalidCopy, match="'eta_minutes' does not exist; there are request_id, route"):
        make_copy_version(copy, "Try again in {{eta_minutes}} min")
    version = make_live_copy(copy, "Write to us and name {{request_id}}")

    assert current_release().content["sections"]["copy"]["withheld"]["digest"] == version.digest


def test_words_are_used_where_a_stack_or_a_policy_in_force_names_them():
    """Each with the routes that fall back on it, or whose answers it withholds."""
    before = uses()
    make_demo_copy()
    make_routing(routing_document(fallbacks=True))

    found = {slug: [str(use) for use in found] for slug, found in uses().items()}

    assert before == {}
    stacks = {f"help-centre-{kind}": ["help-centre of chat"] for kind in ("answers", "template", "outage")}
    assert found == {**stacks, "withheld": ["careful-answers of chat"]}


def test_rolling_back_a_release_brings_its_words_back():
    """Pieces that it did not carry keep what they have."""
    copy = make_copy()
    make_live_copy(copy, "older")
    older = current_release()
    make_live_copy(copy, "newer")
    make_live_copy(slug="later")

    roll_back_to(release=older, actor=crew.oncall, reason="typo", now=NOW)

    assert released() == {"help-centre-outage": "older", "later": "Nobody can answer now"}


def test_words_altered_by_hand_are_never_shown():
    """A row written under another digest is found out when it would be shown."""
    copy = make_copy()
    forged = CopyVersion.objects.create(
        copy=copy, number=9, document=copy_document(), digest="f" * 64, author="mallory", rationale="r", created_at=NOW
    )
    change = propose(forged)
    sign(change, crew.exec, role=Role.EXEC)

    with pytest.raises(AlteredCopy):
        apply_change(change=change, actor=crew.owner, now=NOW)
    assert released() == {}


def test_what_was_signed_cannot_be_edited():
    """For the ORM as for SQL: versions and the log for ever, a piece in what decides who signs it."""
    version = make_live_copy()
    for edit in (
        lambda: CopyVersion.objects.update(rationale="x"),
        lambda: CopyActivation.objects.update(reason="x"),
        lambda: CopyActivation.objects.all().delete(),
        lambda: Copy.objects.update(regulated=True),
        lambda: Copy.objects.filter(pk=version.copy_id).update(kind="template"),
    ):
        with pytest.raises(DatabaseError, match="Cannot"), transaction.atomic():
            edit()
    assert Copy.objects.update(title="Another title") == 1


def test_a_step_of_an_operation_is_not_taken_by_itself():
    """Called from a shell it would make words live that no event speaks of."""
    with pytest.raises(RuntimeError, match="call the operation"):
        activate(make_copy_version(make_copy()), actor="mallory", reason="x", now=NOW)


def test_a_name_that_workers_would_refuse_is_no_slug():
    """Nor is a kind that does not exist, nor a name that is taken."""
    make_copy()
    for changes, field in (
        ({"slug": "a--b"}, "slug"),
        ({"kind": "poem"}, "kind"),
        ({"slug": "help-centre-outage"}, "slug"),
    ):
        attributes = {"slug": "other", "kind": "outage", "title": "t", "regulated": False} | changes
        with pytest.raises(Exception, match=field):
            create_copy(**attributes, actor=crew.owner, now=NOW)
    assert Copy.objects.count() == 1


def test_section_takes_one_query_however_many_pieces():
    """It is compiled inside every operation that releases anything."""
    for number in range(4):
        copy = make_copy(f"piece-{number}")
        make_live_copy(copy, "first")
        make_live_copy(copy, "second")

    with CaptureQueriesContext(connection) as captured:
        section = compile_copy()

    assert len(captured) == 1
    assert {entry["version"] for entry in section.values()} == {2}
    assert len(section) == 4
    assert Release.objects.count() >= 8
