"""The pages of streams over HTTP: found, told in words, drawn, exported, and read only by who may."""

import csv
import io
from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.accounts import operations as accounts
from controlplane.accounts.roles import Role
from controlplane.audit.models import AuditEvent
from controlplane.console.palette import entries
from controlplane.console.timeline import timeline
from controlplane.ledger.operations import record_usage
from controlplane.ledger.streams import forget_transcripts, record_streams
from tests.console.conftest import words
from tests.factories import NOW, crew, make_operator, make_tenant
from tests.worker_reports import FRAMES, delivery, segment, stream_row, usage_row

CUT, ON, DRIFTED, OTHER, OLD = ("c" * 32, "0123" * 8, "d" * 32, "b" * 32, "e" * 32)
PAGE = f"/usage/streams/{CUT}/"
SEGMENTS = [
    segment(last_seq=100, billed_tokens=300, generated_tokens=250, buffered_tokens=250, partial=True, estimated=True),
    segment(
        "anthropic/eu/main/claude",
        how="prefill",
        cause="upstream_timeout",
        first_seq=101,
        last_seq=200,
        billed_tokens=700,
        generated_tokens=700,
        buffered_tokens=700,
    ),
]


@pytest.fixture
def streams(db):
    """Five streams: one cut and gone on with by another, one whose figures do not add up, one of globex, an old one."""
    acme, _ = make_tenant("acme"), make_tenant("globex")
    key = accounts.issue_key(tenant=acme, name="shop", actor="setup", now=NOW, secret="bk-acme-shop-1").row
    now = timezone.now() - timedelta(minutes=5)
    cut = {
        "outcome": "interrupted",
        "code": "upstream_interrupted",
        "frames": 200,
        "billed_tokens": 1000,
        "generated_tokens": 950,
        "buffered_tokens": 950,
        "delivered": 50,
        "delivered_tokens": 250,
        "acked": 0,
        "acked_tokens": 0,
        "segments": SEGMENTS,
        "key_id": str(key.pk),
        "transcript": FRAMES,
    }
    record_usage([usage_row("a1", at=now), usage_row("a2", at=now, attempt=2, kind="fallback")])
    record_streams(
        streams=[
            stream_row(CUT, at=now, **cut),
            stream_row(ON, at=now + timedelta(seconds=9), request_id="req-2", continues=CUT),
            stream_row(DRIFTED, at=now, request_id="req-3", outcome="failed", billed_tokens=90, refund="agreed"),
            stream_row(OTHER, at=now, request_id="req-4", tenant="globex", transcript=FRAMES, continues=CUT),
            stream_row(OLD, at=now - timedelta(days=5), request_id="req-5"),
        ],
        deliveries=[],
    )
    later = delivery("d1", CUT, at=now + timedelta(seconds=5), delivered=200, acked=100, delivered_tokens=950)
    record_streams(streams=[], deliveries=[later])
    return acme


def test_streams_are_found_by_what_people_know_of_them(streams, signed_in):
    """Newest first, of the last day unless told; an id finds its stream, or its request's, however old."""
    browser = signed_in(crew.auditor)

    for query, found in (
        ("", [ON, DRIFTED, CUT, OTHER]),
        ("hours=168", [ON, DRIFTED, CUT, OTHER, OLD]),
        (f"stream={OLD}", [OLD]),
        ("stream=req-1", [CUT]),
        ("stream=nowhere", []),
        ("tenant=globex", [OTHER]),
        ("key=bk-acme-sho", [CUT]),
        ("outcome=interrupted", [CUT]),
        ("outcome=completed&hours=1", [ON, OTHER]),
        ("figures=broken", [DRIFTED]),
        ("figures=broken&tenant=globex", []),
    ):
        page = browser.get(f"/usage/streams/?{query}")
        file = browser.get(f"/usage/streams/export/?{query}").getvalue().decode()
        assert [line.row.pk for line in page.context["lines"]] == found, query
        assert [row["stream_id"] for row in csv.DictReader(io.StringIO(file))] == found, query


def test_list_shows_the_five_figures_the_cost_and_what_is_given_back(streams, signed_in):
    """Later deliveries included; what does not add up is marked, and a credit that nobody could decide says so."""
    page = signed_in(crew.auditor).get("/usage/streams/")
    lines = {line.row.pk: line for line in page.context["lines"]}
    said = words(page)

    assert [bar.tokens for bar in lines[CUT].bars] == [1000, 950, 950, 950, 100]
    assert [bar.width for bar in lines[CUT].bars] == [100, 95, 95, 95, 10]
    assert "1,000 / 950 / 950 / 950 / 100 $0.001000 $0.000050" in said
    assert "90 / 100 / 100 / 100 / 50 out of order $0.001000 not decided" in said
    assert "gpt-4o, claude interrupted upstream_interrupted" in said
    assert "continues …cccccccc" in said


def test_stream_is_told_in_words_with_what_wrote_it_and_what_happened_later(streams, signed_in):
    """How it ended, how far the caller came, by whom it goes on, each attempt with its cause, each credit."""
    page = signed_in(crew.auditor).get(PAGE)
    found, said = page.context["found"], words(page)

    assert (
        "Interrupted after 200 frames (upstream_interrupted); the caller has read all of them and acknowledged 100 of "
        "them, having come back to it; continued by stream …01230123"
    ) in said
    assert OTHER[:8] not in said
    assert [(span.left, span.width, span.tone) for span in found.spans] == [(0, 500, "watch"), (500, 500, "good")]
    assert (found.delivered, found.acked) == (997, 500)
    assert "partial estimated" in said
    assert "claude, given the words so far, after upstream_timeout" in said
    assert "Given back: $0.000050 of $0.001000 by the rule 'undelivered'" in said
    assert "Read through frame 200 by a caller who came back" in said
    assert said.index("Took $0.000700 of the credit back") < said.index("Credited $0.000750") < said.index("Ended:")
    assert 'href="/usage/requests/req-1/"' in page.content.decode()
    assert "style=" not in page.content.decode().partition("<main")[2]


def test_stream_whose_figures_do_not_add_up_says_where(streams, signed_in):
    """In red; and a rule that nobody knows here is named."""
    page = signed_in(crew.auditor).get(f"/usage/streams/{DRIFTED}/")

    assert page.context["found"].tone == "bad"
    assert "The figures do not add up: 100 generated, more than 90 billed" in words(page)
    assert "Not decided: the rule 'agreed' is not known here, or failed" in words(page)
    assert "not kept, by the policy, for the tenant or for their length" in words(page)


def test_request_leads_to_its_streams(streams, signed_in):
    """Beside its attempts."""
    page = signed_in(crew.auditor).get("/usage/requests/req-1/")

    assert f'href="{PAGE}"' in page.content.decode()
    assert "…cccccccc interrupted, 200 frames" in words(page)


def test_evidence_holds_every_fact_of_a_stream_but_its_words(streams, signed_in):
    """A line for its end, each segment, delivery and credit, and for how it stands now."""
    answer = signed_in(crew.auditor).get(f"{PAGE}evidence/")
    text = answer.getvalue().decode()
    rows = list(csv.DictReader(io.StringIO(text)))

    assert answer["Content-Disposition"] == f'attachment; filename="stream-{CUT}.csv"'
    assert [row["what"] for row in rows] == [
        "stream",
        "segment",
        "segment",
        "delivery",
        "credit",
        "credit",
        "as known now",
    ]
    assert [row["billed_tokens"] for row in rows[:3]] == ["1000", "300", "700"]
    assert (rows[0]["delivered_tokens"], rows[3]["delivered_tokens"], rows[6]["delivered_tokens"]) == (
        "250",
        "950",
        "950",
    )
    assert [row["credit_micros"] for row in rows[4:]] == ["750", "-700", "50"]
    assert len(rows[0]["digest"]) == 64
    assert "Within 14" not in text


def test_words_are_read_by_who_audits_the_tenant_and_the_record_says_so(streams, signed_in):
    """An admin sees that they are kept, and is refused; another tenant's stream does not exist for either."""
    reader = make_operator("reader", Role.AUDITOR, on=streams)
    browser, admin = signed_in(reader), signed_in(crew.admin)

    page = browser.get(f"{PAGE}transcript/")

    assert "Words Within 14 days. Frames" in words(page)
    assert "These are the frames that the digest was taken of" in words(page)
    event = AuditEvent.objects.get(action="transcript.read")
    assert (event.actor, event.target, event.data) == ("reader", f"stream:{CUT}", {"tenant": "acme"})
    (told,) = timeline([event])
    assert (told["text"], told["url"]) == ("Read the words of stream …cccccccc of acme", PAGE)
    assert admin.get(f"{PAGE}transcript/").status_code == 403
    assert "whoever audits the tenant may read them" in words(admin.get(PAGE))
    for path in ("", "evidence/", "transcript/"):
        assert browser.get(f"/usage/streams/{OTHER}/{path}").status_code == 404, path
        assert browser.get(f"/usage/streams/%00/{path}").status_code == 404, path
    assert AuditEvent.objects.filter(action="transcript.read").count() == 1


def test_words_that_are_not_kept_any_more_or_not_the_ones_sent_are_said_to_be_so(streams, signed_in):
    """What does not give the digest was not what the caller got."""
    now = timezone.now()
    record_streams(streams=[stream_row("f" * 32, at=now, transcript=["[DONE]", "no JSON", "5"])], deliveries=[])
    browser = signed_in(crew.auditor)

    assert "These frames do not give the digest of the stream" in words(
        browser.get(f"/usage/streams/{'f' * 32}/transcript/")
    )
    forget_transcripts(before=now + timedelta(days=1), actor="admin", reason="r", now=now)
    assert "kept at first, forgotten since" in words(browser.get(PAGE))
    assert "No words are kept of this stream" in words(browser.get(f"{PAGE}transcript/"))


def test_reader_of_one_tenant_sees_no_other_however_they_ask(streams, signed_in):
    """Not in the list, not in the file; and who may see nobody's bills is refused."""
    browser = signed_in(make_operator("reader", Role.AUDITOR, on=streams))

    for query in ("hours=744", "tenant=globex", f"stream={OTHER}", "stream=req-4"):
        lines = browser.get(f"/usage/streams/?{query}").context["lines"]
        assert {line.row.tenant for line in lines} <= {"acme"}, query
        assert "globex" not in browser.get(f"/usage/streams/export/?{query}").getvalue().decode(), query
    stranger = signed_in(crew.owner)
    assert [stranger.get(f"/usage/streams/{path}").status_code for path in ("", "export/", "drift/")] == [403] * 3
    assert "Find a stream" in {entry.label for entry in entries(crew.auditor)}
    assert "Find a stream" not in {entry.label for entry in entries(crew.owner)}


def test_pages_take_as_many_queries_for_many_streams_as_for_few(streams, signed_in, queries):
    """Also the page of older ones, of a stream with many deliveries, and of many days."""
    browser = signed_in(crew.auditor)
    pages = ("/usage/streams/", PAGE, "/usage/streams/drift/")
    for page in pages:
        browser.get(page)
    few = [queries(lambda page=page: browser.get(page)) for page in pages]
    now = timezone.now() - timedelta(minutes=1)
    record_streams(
        streams=[stream_row(f"{n:032}", at=now - timedelta(hours=n % 20), route=f"r{n}") for n in range(70)],
        deliveries=[delivery(f"x{n}", CUT, at=now, reader="ack") for n in range(60)],
    )

    assert [queries(lambda page=page: browser.get(page)) for page in pages] == few
    older = browser.get("/usage/streams/").context["older"]
    assert queries(lambda: browser.get(f"/usage/streams/{older}")) == few[0]
    assert "The newest 50 deliveries are shown" in words(browser.get(PAGE))


def test_drift_adds_up_days_tenants_routes_and_outcomes(streams, signed_in):
    """Billed against what came of it, the dearest first, and first of all what does not add up."""
    page = signed_in(crew.auditor).get("/usage/streams/drift/?days=7")
    found, said = page.context["found"], words(page)

    assert "1 of 5 streams has figures that do not add up: look at them first" in said
    assert {group.name: group.sums.figures.billed for group in found.tenants} == {"acme": 1290, "globex": 100}
    assert {group.name: group.sums.streams for group in found.outcomes} == {
        "completed": 3,
        "failed": 1,
        "interrupted": 1,
    }
    assert found.total.refund_micros == 50
    assert (found.total.resumed, found.total.drifted) == (1, 1)
    assert [trace["name"] for trace in found.chart["data"]] == [
        "billed",
        "generated",
        "buffered",
        "delivered",
        "acknowledged",
    ]
    assert sum(value or 0 for value in found.chart["data"][0]["y"]) == 1390
    calm = signed_in(crew.auditor).get("/usage/streams/drift/?tenant=globex").context["found"]
    assert calm.sentence == "The figures of all 1 streams add up; 100 % of the billed tokens were delivered"
    assert "No stream has ended in this period" in words(signed_in(crew.auditor).get("/usage/streams/drift/?route=x"))
