from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.api.views.releases import click_to_ack
from controlplane.releases.fleet import waited_ms
from controlplane.releases.models import Ack, Release, Worker
from controlplane.releases.operations import current_release
from dataplane.release import Envelope, digest_of
from tests.factories import ONE_PERCENT, crew, make_deployment, make_live_version, run_canary
from tests.worker_reports import STILL_HEARD

pytestmark = pytest.mark.django_db


def make_gateway(name, *, ack_ms=None, **fields):
    """A gateway process that serves the current release, and how long after the click it said so."""
    release = current_release()
    worker = Worker.objects.create(
        **{
            "name": name,
            "kind": "gateway",
            "host": "host",
            "pid": 7,
            "boot": "b" * 32,
            "status": "serving",
            "revision": release.revision,
            "digest": release.digest,
            "started_at": release.clicked_at,
            "last_seen_at": release.clicked_at,
            **fields,
        }
    )
    if ack_ms is not None:
        Ack.objects.create(
            worker=name,
            boot=worker.boot,
            revision=release.revision,
            digest=release.digest,
            verdict="ack",
            at=release.clicked_at,
            latency_ms=ack_ms,
        )
    return worker


def test_release_is_listed_and_read_as_it_was_signed(as_operator):
    """The list carries no documents; the document verifies against its digest."""
    make_deployment()
    auditor = as_operator(crew.auditor)

    row = auditor.get("releases").body["results"][0]
    envelope = auditor.get(f"releases/{row['revision']}/document").body

    assert "document" not in row
    assert auditor.get(f"releases/{row['revision']}").body == row
    assert digest_of(Envelope(**envelope).document.encode()) == row["digest"]


def test_list_takes_a_fixed_number_of_queries(as_operator, queries):
    """However many releases there are."""
    prompt = make_deployment()
    auditor = as_operator(crew.auditor)
    auditor.get("releases")
    before = queries(lambda: auditor.get("releases"))
    make_live_version(prompt, "Dear")

    assert queries(lambda: auditor.get("releases")) == before


def test_difference_between_releases_names_what_moved(as_operator):
    """A canary that started is the only thing that differs, and its candidate comes along."""
    prompt = make_deployment()
    before = current_release()
    canary = run_canary(prompt=prompt)

    answer = as_operator(crew.oncall).get(f"releases/{before.revision}/diff/{current_release().revision}")

    assert {(row["path"], row["op"]) for row in answer.body["differences"]} == {
        (f"$.sections.canaries.{canary.slug}", "added"),
        ("$.sections.prompts.support-answer.versions.2", "added"),
    }


def test_roll_back_is_one_call_and_happens_once(as_operator):
    """On-call returns to an earlier release; what is served already is a conflict."""
    prompt = make_deployment()
    before = current_release()
    make_live_version(prompt, "Dear")
    oncall = as_operator(crew.oncall)

    first = oncall.post(f"releases/{before.revision}/roll-back", {"reason": "complaints"})
    second = oncall.post(f"releases/{before.revision}/roll-back", {"reason": "complaints"})

    assert (first.status, first.body["restores"]) == (201, before.revision)
    assert (second.status, second.body["error"]["code"]) == (409, "nothing_to_roll_back")
    assert current_release().content["sections"]["prompts"]["support-answer"]["live"] == 1


def test_roll_back_turns_canaries_down(as_operator):
    """A release from before a canary ends it."""
    prompt = make_deployment()
    before = current_release()
    canary = run_canary(ONE_PERCENT, prompt=prompt)

    as_operator(crew.oncall).post(f"releases/{before.revision}/roll-back", {"reason": "complaints"})

    canary.refresh_from_db()
    assert canary.state == "rolled_back"


def test_fleet_shows_each_worker_beside_the_current_release(as_operator):
    """Who serves what, how many count, and how long the click took to reach them."""
    make_deployment()
    release = current_release()
    make_gateway("host/gateway-0", ack_ms=12.5, last_seen_at=timezone.now() + STILL_HEARD)

    body = as_operator(crew.oncall).get("fleet").body

    assert body["current"]["revision"] == release.revision
    assert [worker["name"] for worker in body["workers"]] == ["host/gateway-0"]
    assert body["workers"][0]["state"] == "in-sync"
    assert body["counts"]["in_sync"] == 1
    assert body["click_to_ack"] == {"acks": 1, "p50_ms": 12.5, "p99_ms": 12.5}


def test_click_to_ack_takes_the_nearest_rank():
    """Of 100 gateways the 50th and the 99th, of none nothing; one that started after the click did not wait for it."""
    make_deployment()
    release = current_release()
    now = release.clicked_at + timedelta(seconds=2)
    empty = click_to_ack(waited_ms(release, now=now))
    for number in range(1, 101):
        make_gateway(f"host/gateway-{number}", ack_ms=float(number), last_seen_at=now)
    make_gateway("host/late", ack_ms=1.0, last_seen_at=now, started_at=now)

    measured = click_to_ack(waited_ms(release, now=now))

    assert empty == {"acks": 0, "p50_ms": None, "p99_ms": None}
    assert measured == {"acks": 100, "p50_ms": 50.0, "p99_ms": 99.0}


def test_fleet_takes_a_fixed_number_of_queries(as_operator, queries):
    """However many workers there are."""
    make_deployment()
    oncall = as_operator(crew.oncall)
    oncall.get("fleet")
    before = queries(lambda: oncall.get("fleet"))
    for number in range(5):
        make_gateway(f"host/gateway-{number}", ack_ms=5.0, last_seen_at=timezone.now() + STILL_HEARD)

    assert queries(lambda: oncall.get("fleet")) == before


def test_workers_of_a_fleet_come_by_name_a_page_after_the_other(as_operator):
    """All else is of the whole fleet on each page; what is no cursor, or unknown, is refused."""
    make_deployment()
    for number in range(5):
        make_gateway(f"host/gateway-{number}", ack_ms=5.0, last_seen_at=timezone.now() + STILL_HEARD)
    oncall = as_operator(crew.oncall)

    pages, url = [], "fleet?limit=2"
    while url:
        pages.append(oncall.get(url).body)
        url = (pages[-1]["next"] or "").partition("/api/v1/")[2]

    names = [[worker["name"] for worker in page["workers"]] for page in pages]
    assert names == [["host/gateway-0", "host/gateway-1"], ["host/gateway-2", "host/gateway-3"], ["host/gateway-4"]]
    assert {page["counts"]["in_sync"] for page in pages} == {5}
    assert {page["click_to_ack"]["acks"] for page in pages} == {5}
    assert all(worker["ack_ms"] == 5.0 for page in pages for worker in page["workers"])
    assert (oncall.get("fleet?cursor=no").status, oncall.get("fleet?offset=2").status) == (400, 400)


def test_fleet_before_the_first_release_is_empty(as_operator):
    """Nothing was released: nothing is claimed."""
    body = as_operator(crew.oncall).get("fleet").body

    assert body["current"] is None
    assert body["workers"] == []
    assert not Release.objects.exists()
