"""The releases and fleet pages over HTTP: what they say, who may do what, and how many queries that takes."""

import json
from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.accounts import operations as accounts
from controlplane.audit.models import AuditEvent
from controlplane.prompts.models import Prompt
from controlplane.releases.fleet import MOST_CELLS, MOST_LISTED
from controlplane.releases.models import Ack, Release, Worker
from controlplane.releases.operations import current_release, record_reports
from controlplane.rollouts.models import Canary
from controlplane.rollouts.operations import roll_back_canary
from tests.console.conftest import said
from tests.factories import FIVE_PERCENT, NOW, crew, make_deployment, make_live_version, make_operator, run_canary
from tests.worker_reports import STILL_HEARD, ack, report

pytestmark = pytest.mark.usefixtures("deployment")


def serve(release, *workers, at=None, verdict="ack", reason="", digest=None, boot="b1"):
    """These workers report that they serve the release and acknowledged it at `at`; they are not silent so soon."""
    now = timezone.now()
    heard = now + STILL_HEARD
    reports = [
        report(
            worker=worker,
            boot=boot,
            sent_at=heard,
            started_at=release.clicked_at - timedelta(hours=1),
            revision=release.revision,
            digest=digest or release.digest,
            acks=(ack(release.revision, verdict=verdict, digest=release.digest, at=at or now, reason=reason),),
        )
        for worker in workers
    ]
    record_reports(reports, now=heard)


@pytest.fixture
def prompt(db):
    return make_deployment()


def test_fleet_page_says_what_is_current_and_how_fast_every_worker_took_it(prompt, signed_in):
    """The counts, the slowest ACK and each worker's cell stand there without JavaScript."""
    release = current_release()
    serve(release, "a/gateway-0", at=release.clicked_at + timedelta(milliseconds=40))
    serve(release, "a/gateway-1", at=release.clicked_at + timedelta(milliseconds=84))

    page = signed_in(crew.owner).get("/releases/")

    html = page.content.decode()
    assert page.status_code == 200
    assert page.context["counts"] == {"expected": 2, "in_sync": 2, "behind": 0, "refused": 0, "silent": 0}
    assert "84 ms" in html
    assert html.count('data-worker="a/gateway-1"') == 2  # its cell, and its row in the table
    assert 'data-live-topic="fleet"' in html


def test_refused_release_is_shown_with_the_workers_reason(prompt, signed_in):
    """Who refused, what it serves instead, and why."""
    serve(current_release(), "a/gateway-0", verdict="nack", reason="unknown key 0af3", digest="e" * 64)

    html = signed_in(crew.owner).get("/releases/").content.decode()

    assert "unknown key 0af3" in html
    assert "refused" in html


def test_fleet_figures_are_what_a_live_message_carries(prompt, signed_in):
    """The polling floor answers in the shape of the topic."""
    serve(current_release(), "a/gateway-0")

    body = signed_in(crew.owner).get("/releases/fleet.json").json()

    assert body["topic"] == "fleet"
    assert body["data"]["counts"]["in_sync"] == 1
    assert body["data"]["workers"][0]["state"] == "in-sync"


def crowd(count, *, region="eu-west", digest=None, first=0, refuses=False):
    """So many gateways of one region that are heard of, each on the current release unless told."""
    current = current_release()
    Worker.objects.bulk_create(
        Worker(
            name=f"{region}-{number}/gateway-0",
            kind="gateway",
            host=f"{region}-{number}",
            region=region,
            pid=1,
            boot="b1",
            status="serving",
            revision=current.revision,
            digest=digest or current.digest,
            refused_revision=current.revision if refuses else None,
            refused_digest=current.digest if refuses else "",
            refused_reason="unknown key" if refuses else "",
            started_at=NOW,
            last_seen_at=timezone.now() + STILL_HEARD,
        )
        for number in range(first, first + count)
    )


def test_large_fleet_is_counted_by_region_and_who_is_not_in_sync_is_listed(prompt, signed_in):
    """Worst first; who is in sync is no cell, and is found by name."""
    crowd(MOST_CELLS)
    crowd(3, region="us-east", digest="e" * 64)
    crowd(2, region="us-east", digest="e" * 64, first=3, refuses=True)

    browser = signed_in(crew.owner)
    page = browser.get("/releases/")

    shown = page.context["shown"]
    assert [(one.name, one.expected, one.in_sync, one.behind, one.refused) for one in shown.regions] == [
        ("eu-west", MOST_CELLS, MOST_CELLS, 0, 0),
        ("us-east", 5, 0, 3, 2),
    ]
    assert [worker["state"] for worker in page.context["gateways"]] == ["refused"] * 2 + ["behind"] * 3
    assert page.context["counts"]["expected"] == MOST_CELLS + 5
    assert "<strong>2 workers</strong> refused" in page.content.decode()
    assert "unknown key (2)" in page.content.decode()
    found = browser.get("/releases/?worker=eu-west-17").context["gateways"]
    assert [worker["name"] for worker in found] == ["eu-west-17/gateway-0", "eu-west-170/gateway-0"] + [
        f"eu-west-{number}/gateway-0" for number in range(171, 180)
    ]


def test_large_fleet_takes_as_many_queries_and_cells_however_large_it_is(prompt, signed_in, queries):
    """Neither the page nor its figures grow with the fleet once it has no cell for everybody."""
    crowd(MOST_CELLS + 1)
    crowd(1, region="us-east", digest="e" * 64)
    browser = signed_in(crew.owner)
    browser.get("/releases/")
    few = queries(lambda: browser.get("/releases/")), queries(lambda: browser.get("/releases/fleet.json"))
    crowd(100, first=MOST_CELLS + 1)
    crowd(MOST_LISTED + 20, region="us-east", digest="e" * 64, first=1)

    many = queries(lambda: browser.get("/releases/")), queries(lambda: browser.get("/releases/fleet.json"))

    assert many == few
    page = browser.get("/releases/")
    assert len(page.context["gateways"]) == MOST_LISTED
    assert "21 more are not in sync" in page.content.decode()
    body = browser.get("/releases/fleet.json").json()["data"]
    assert (len(body["workers"]), body["counts"]["behind"]) == (MOST_LISTED, MOST_LISTED + 21)


def test_release_page_shows_what_it_carries_and_how_it_was_signed(prompt, signed_in):
    """Prompts, routes, signature, audit head, and what it changed against the one before."""
    release = current_release()

    page = signed_in(crew.legal).get(f"/releases/{release.revision}/")

    html = page.content.decode()
    assert page.context["changes"] == ["support-answer is served for the first time, v1"]
    assert release.signature in html
    assert release.content["audit_head"]["hash"] in html


def test_signed_document_is_served_byte_for_byte(prompt, signed_in):
    """What an auditor downloads is what workers verified."""
    release = current_release()

    body = json.loads(signed_in(crew.auditor).get(f"/releases/{release.revision}/document.json").content)

    assert body["document"] == release.document
    assert body["signature"] == release.signature


def test_diff_names_what_differs_between_any_two_releases(prompt, signed_in):
    """In words first, then thing by thing."""
    before = current_release().revision
    make_live_version(prompt, "Good evening")

    page = signed_in(crew.owner).get(f"/releases/diff/?from={before}&to=r{before + 1}")

    assert page.context["changes"] == ["support-answer goes from v1 to v2"]
    assert "evening" in page.content.decode()


@pytest.mark.parametrize("query", ["from=1&to=999", "from=x", "to=-1", "from=99999999999999999999"])
def test_diff_with_a_release_that_is_not_there_is_not_found(prompt, signed_in, query):
    """A revision that never was, or is no number, is a 404 and no error of ours."""
    assert signed_in(crew.owner).get(f"/releases/diff/?{query}").status_code == 404


def test_roll_back_dialog_says_what_would_change_and_changes_nothing(prompt, signed_in):
    """The preview is the operation itself, undone: no event, no release, no log entry of it remains."""
    first = current_release()
    make_live_version(prompt, "Good evening")
    browser = signed_in(crew.oncall)
    events, releases = AuditEvent.objects.count(), Release.objects.count()

    page = browser.get(f"/releases/{first.revision}/")

    assert page.context["roll_back"] == {"changes": ["support-answer goes from v2 to v1"], "refusal": ""}
    assert (AuditEvent.objects.count(), Release.objects.count()) == (events, releases)
    assert Prompt.objects.with_live().get().live_version.number == 2


def test_roll_back_serves_again_what_the_release_served(prompt, signed_in):
    """One POST: the live version returns, as a new release with the reason in it."""
    first = current_release()
    make_live_version(prompt, "Good evening")

    response = signed_in(crew.oncall).post(f"/releases/{first.revision}/roll-back/", {"reason": "customers complain"})

    assert response.status_code == 302
    assert Prompt.objects.with_live().get().live_version.number == 1
    assert current_release().restores == first.revision
    assert "customers complain" in current_release().reason


def test_roll_back_without_words_happens_all_the_same(prompt, signed_in):
    """At night nobody is stopped by an empty field; the record says that no reason was given."""
    first = current_release()
    make_live_version(prompt, "Good evening")

    signed_in(crew.oncall).post(f"/releases/{first.revision}/roll-back/")

    assert "no reason given" in current_release().reason


def test_rolling_back_twice_is_refused_in_words(prompt, signed_in):
    """The second click finds nothing to return and says so; no release is cut."""
    first = current_release()
    make_live_version(prompt, "Good evening")
    browser = signed_in(crew.oncall)
    browser.post(f"/releases/{first.revision}/roll-back/")
    cut = Release.objects.count()

    response = browser.post(f"/releases/{first.revision}/roll-back/")

    assert Release.objects.count() == cut
    assert "nothing that can be returned differs" in said(response)[-1]


def test_only_on_call_rolls_back_and_others_get_no_button(prompt, signed_in):
    """Who may look but not act is told which role it takes."""
    first = current_release()
    make_live_version(prompt, "Good evening")

    for operator in (crew.owner, crew.approver_one, crew.auditor, crew.admin):
        browser = signed_in(operator)
        refused = browser.post(f"/releases/{first.revision}/roll-back/", {"reason": "x"})
        assert refused.status_code == 403
        assert "On-call" in refused.content.decode()
        assert "/roll-back/" not in browser.get(f"/releases/{first.revision}/").content.decode()


def test_operator_without_a_role_on_everything_sees_no_releases(prompt, signed_in):
    """A role on one prompt says nothing about the deployment."""
    browser = signed_in(make_operator("newcomer", "prompt-owner", on=prompt))

    assert browser.get("/releases/").status_code == 403
    assert browser.get("/releases/1/").status_code == 404
    assert browser.get("/releases/fleet.json").status_code == 403
    assert 'data-room="releases"' not in browser.get("/").content.decode()


def test_undo_leads_to_the_release_that_differs_in_something_to_return(prompt, signed_in):
    """A key issued since does not count: it would not be returned anyway."""
    first = current_release()
    make_live_version(prompt, "Good evening")
    tenant = accounts.create_tenant(slug="acme", name="Acme", actor=crew.admin, now=NOW)
    accounts.issue_key(tenant=tenant, name="k", actor=crew.admin, now=NOW)

    response = signed_in(crew.oncall).get("/releases/undo/")

    assert response.url == f"/releases/{first.revision}/#roll-back"


def test_undo_passes_over_what_cannot_come_back(db, signed_in):
    """A canary that ended stays ended, so the way back leads to what was live before, not to where the canary ran."""
    canary = run_canary(FIVE_PERCENT)
    roll_back_canary(canary=canary, reason="too chatty", actor=crew.oncall, now=NOW)
    browser = signed_in(crew.oncall)

    refused = browser.get("/releases/undo/", follow=True)
    make_live_version(canary.prompt, "Good evening")
    response = browser.get("/releases/undo/")

    assert "can be rolled back any more" in said(refused)[-1]
    assert response.url == f"/releases/{current_release().revision - 1}/#roll-back"


def test_release_pages_take_as_many_queries_for_many_releases_as_for_few(prompt, signed_in, queries):
    """Neither the list nor the fleet asks once per row."""
    browser = signed_in(crew.owner)
    browser.get("/releases/")
    few = queries(lambda: browser.get("/releases/"))
    for text in ("one", "two", "three"):
        make_live_version(prompt, text)
    serve(current_release(), *(f"a/gateway-{number}" for number in range(5)))

    assert queries(lambda: browser.get("/releases/")) == few


def test_release_page_names_what_may_be_pinned_and_no_candidate(db, signed_in):
    """The release carries the candidate for its cohort only; a worker started anew does not stand there twice."""
    run_canary(FIVE_PERCENT)
    release = current_release()
    for boot in ("b1", "b2"):
        serve(release, "a/gateway-0", at=release.clicked_at + timedelta(milliseconds=40), boot=boot)

    page = signed_in(crew.owner).get(f"/releases/{release.revision}/")

    [prompt] = page.context["carried"].summary["prompts"]
    assert prompt["pinnable"] == [1]
    assert sorted(release.content["sections"]["prompts"]["support-answer"]["versions"]) == ["1", "2"]
    assert Ack.objects.filter(revision=release.revision).count() == 2
    assert [ack.worker for ack in page.context["acks"]] == ["a/gateway-0"]


def test_roll_back_of_a_knob_turns_it_down_and_says_so_before(db, signed_in):
    """What the dialog announced is what happens."""
    canary = run_canary(FIVE_PERCENT)
    before = Release.objects.get(revision=current_release().revision - 1)
    browser = signed_in(crew.oncall)
    announced = browser.get(f"/releases/{before.revision}/").context["roll_back"]["changes"]

    browser.post(f"/releases/{before.revision}/roll-back/", {"reason": "too fast"})

    assert Canary.objects.get(pk=canary.pk).position < FIVE_PERCENT
    assert announced == [f"canary {canary.slug} goes from 5 % to {Canary.objects.get(pk=canary.pk).stage['name']}"]
