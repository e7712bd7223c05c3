"""The pages of idempotency keys over HTTP: found, told in a sentence, proven, exported, and shown to who may see."""

import csv
import hashlib
import io
from uuid import uuid4

import pgtrigger
import pytest
import rfc8785
from django.utils import timezone

from controlplane.accounts.roles import Role
from controlplane.console import idempotency_content
from controlplane.console.palette import entries
from controlplane.console.views import idempotency as views
from controlplane.ledger import keys as ledger_keys
from controlplane.ledger.idempotency import IdempotencyEvidence, IdempotencyRecord
from controlplane.ledger.operations import record_usage
from dataplane.idempotency import EVIDENCE, full_user_hash
from tests.console.conftest import words
from tests.factories import crew, make_operator
from tests.keyed_requests import STREAM, abandon, claim, complete, expire, forsake, make_keys
from tests.worker_reports import usage_row

LIST = "/usage/idempotency/"


def page_of(record):
    return f"{LIST}{record}/"


@pytest.fixture
def keys(db):
    return make_keys()


def test_keys_are_found_by_what_a_dispute_names(keys, signed_in):
    """Newest first, of the last day unless told; key, request and user find them however old. The file has the same."""
    browser = signed_in(crew.auditor)
    zoe, everyday = full_user_hash("zoe"), [keys.other, keys.running, keys.free, keys.taken, keys.streamed]

    for query, found in (
        ("", everyday),
        ("hours=1&tenant=acme", everyday[1:]),
        ("key=order-1", [keys.old, keys.other, keys.streamed]),
        ("key=order-1&tenant=globex", [keys.other]),
        ("key=order", []),
        ("request=r1", [keys.streamed]),
        ("request=r6", [keys.taken]),
        ("request=r4&event=mismatch", [keys.streamed]),
        ("request=r4&event=taken_over", []),
        ("request=r11", [keys.old]),
        (f"user_hash={zoe}", [keys.old, keys.other, keys.streamed]),
        (f"user_hash={zoe}&event=replayed", [keys.streamed]),
        ("event=completed", [keys.taken, keys.streamed]),
        ("event=attached&tenant=acme", [keys.taken, keys.streamed]),
        ("event=expired", []),
    ):
        page = browser.get(f"{LIST}?{query}")
        file = browser.get(f"{LIST}export/?{query}").getvalue().decode()
        assert [line.step.record for line in page.context["lines"]] == found, query
        assert [row["record"] for row in csv.DictReader(io.StringIO(file))] == [str(one) for one in found], query
    assert "Find an idempotency key" in {entry.label for entry in entries(crew.auditor)}
    assert "Find an idempotency key" not in {entry.label for entry in entries(crew.owner)}


def test_id_of_a_user_is_searched_for_and_stands_nowhere(keys, signed_in):
    """What is typed is posted, and becomes a hash before there is an address; links and files go on with that."""
    browser = signed_in(crew.auditor)

    posted = browser.post(LIST, {"user": "bob-77", "key": "", "hours": "24", "event": "taken_over"})
    typed = browser.get(f"{LIST}?user=bob-77&event=taken_over&hours=24")

    assert posted.status_code == typed.status_code == 302
    assert posted.url == typed.url == f"{LIST}?user_hash={full_user_hash('bob-77')}&event=taken_over&hours=24"
    page = browser.get(posted.url)
    assert [line.step.record for line in page.context["lines"]] == [keys.taken]
    assert "bob-77" not in page.content.decode()
    assert "Of one user, whose id is kept nowhere" in words(page)
    assert f"export/?user_hash={full_user_hash('bob-77')}" in page.content.decode()
    assert browser.post(LIST, {"key": "k" * 256, "user": "bob-77"}).status_code == 200  # refused beside the field


def test_list_says_how_each_key_stands(keys, signed_in):
    """Its state, the step it is listed for, the last one, and how often it was executed, repeated and refused."""
    page = signed_in(crew.auditor).get(LIST)
    lines = {line.step.record: line for line in page.context["lines"]}
    said = words(page)

    assert "order-1 acme answered another request …r1 1 2 1 …55555555" in said
    assert "order-2 acme answered executed …r5 2 – – –" in said
    assert "order-3 acme free again let go …r8" in said
    assert "order-4 acme running first request …r9" in said
    repeated = signed_in(crew.auditor).get(f"{LIST}?event=replayed")
    assert "order-1 acme answered answer repeated last: another request …r1" in words(repeated)
    life = lines[keys.streamed].life
    assert (life.executions, life.served, life.mismatches, life.last.stream_id) == (1, 2, 1, STREAM)
    life = lines[keys.taken].life
    # Whoever waits for a whole answer, and is not heard of again, was given none.
    assert (life.executions, life.served, life.mismatches, life.first.request_id) == (2, 0, 0, "r5")
    assert "Since" in said
    assert "At any time" in words(signed_in(crew.auditor).get(f"{LIST}?key=order-1"))


def test_key_is_told_in_one_sentence_whatever_became_of_it(keys, signed_in, monkeypatch):
    """Executed how often and when, for whom else, what was billed; also while it runs, and when its time is over."""
    browser = signed_in(crew.auditor)
    unknown, long = claim("unknown", request="u1", repeatable=False), claim("long", request="l1")
    abandon(unknown)
    complete(long, None)
    claim("long", request="l2")
    today = idempotency_content.when(timezone.now())[:11]

    def sentence(record):
        return browser.get(page_of(record)).context["found"].sentence

    told = sentence(keys.streamed)
    assert told.startswith(f"Executed once on {today}")
    assert told.endswith(
        "; 2 duplicates got the same answer; 1 other request with the key was refused; nothing was billed twice"
    )
    assert sentence(keys.taken).startswith(f"Executed twice, to the end on {today}")
    assert sentence(keys.taken).endswith("; 2 executions made attempts, which were billed: $0.000600 together")
    assert sentence(keys.free).startswith("Begun once, and ended without an answer: the key is free until")
    assert sentence(keys.running).startswith(f"Being executed since the request of {today}")
    assert sentence(keys.running).endswith("UTC; no attempt is on record for it")
    assert "1 came when there was no answer any more, which had been too long to keep" in sentence(long)
    assert sentence(unknown).startswith("Begun once, never executed to the end: what was done is not known")
    forsake(keys.running)
    assert "; its owner has not been heard of since 1 Jan 2026 00:00 UTC" in sentence(keys.running)
    monkeypatch.setattr(ledger_keys, "COUNTED", 5)
    assert "; at least 2 duplicates got the same answer" in sentence(keys.streamed)
    expire()
    assert f", forgotten on {today}" in sentence(keys.streamed)
    assert f"Begun once, never executed to the end, forgotten on {today}" in sentence(keys.running)
    assert IdempotencyRecord.objects.count() == 0


def test_page_of_a_key_leads_to_attempts_and_stream_and_shows_no_answer(keys, signed_in):
    """Each step with its request; attempts only of who made some; nothing of what was said, nor of who asked."""
    browser = signed_in(crew.auditor)
    page = browser.get(page_of(keys.streamed))
    html, said = page.content.decode(), words(page)

    assert [step["seq"] for step in page.context["found"].steps] == [6, 5, 4, 3, 2, 1]
    assert "Another request came with the key and was refused It differs in model r4 at host-a/gateway-0" in said
    assert "Executed to the end: status 200 total tokens: 3 r1 at host-a/gateway-0" in said
    assert "A duplicate came while it was being executed It read along in stream …55555555 r2" in said
    assert 'href="/usage/requests/r1/"' in html
    assert 'href="/usage/requests/r2/"' not in html
    assert f'href="/usage/streams/{STREAM}/"' in html
    assert "r1 1 " in said.partition("Cost, USD")[2]
    assert (
        "The chain is whole 6 rows, each with the hash of the one before. The key's record knows the last one" in said
    )
    assert "Within 14" not in html
    assert "zoe" not in html
    assert "style=" not in html.partition("<main")[2]
    taken = browser.get(page_of(keys.taken))
    assert [(one.request_id, one.epoch, one.attempts) for one in taken.context["billed"]] == [
        ("r5", 1, 1),
        ("r7", 2, 1),
    ]
    for path in ("/usage/requests/r1/", f"/usage/streams/{STREAM}/"):
        assert f'href="{page_of(keys.streamed)}"' in browser.get(path).content.decode(), path
    assert f'href="{LIST}?request=r3"' in browser.get("/usage/?request=r3").content.decode()


def test_page_says_when_a_duplicate_was_billed_or_the_evidence_was_changed(keys, signed_in, monkeypatch):
    """Both in red. A long chain is walked when somebody asks for it, and forged words still give a page."""
    browser = signed_in(crew.auditor)
    record_usage([usage_row("b1", request_id="r3", at=timezone.now())])
    billed = browser.get(page_of(keys.streamed))
    monkeypatch.setattr(ledger_keys, "VERIFIED_AT_ONCE", 3)
    with pgtrigger.ignore("ledger.IdempotencyEvidence:append_only"):
        IdempotencyEvidence.objects.filter(record=keys.taken, seq=3).update(event="invented", detail="{")

    unasked, asked = browser.get(page_of(keys.taken)), browser.get(f"{page_of(keys.taken)}?verify=1")

    assert billed.context["found"].tone == "bad"
    assert "; request r3 executed nothing and was billed all the same" in billed.context["found"].sentence
    assert [(one.request_id, one.epoch) for one in billed.context["billed"]] == [("r1", 1), ("r3", 0)]
    assert "It has 4 rows, which are looked at when you ask for it. Verify the chain" in words(unasked)
    assert unasked.context["found"].verified is None
    assert "Row 3: its fields do not give its hash (altered)" in words(asked)
    assert asked.context["found"].tone == "bad"
    assert ". Its evidence was changed: look at what the chain says" in asked.context["found"].sentence
    assert "'invented', which is no step of a key" in words(asked)


def test_file_of_a_key_proves_its_steps_and_says_what_was_billed(keys, signed_in):
    """Whoever has it can take each hash anew; no word of the answer is in it."""
    answer = signed_in(crew.auditor).get(f"{page_of(keys.streamed)}evidence/")
    text = answer.getvalue().decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    steps = [row for row in rows if row["what"] == "step"]

    assert answer["Content-Disposition"] == f'attachment; filename="idempotency-{keys.streamed}.csv"'
    assert [row["event"] for row in steps] == ["created", "streaming", "attached", "completed", "replayed", "mismatch"]
    for row in steps:
        covered = {name: int(row[name]) if kind == "integer" else row[name] for name, kind in EVIDENCE.items()}
        assert hashlib.sha256(rfc8785.dumps(covered)).hexdigest() == row["hash"], row["seq"]
    (billed,) = [row for row in rows if row["what"] == "billed"]
    assert (billed["request_id"], billed["attempts"], billed["cost_micros"], billed["words"]) == (
        "r1",
        "2",
        "600",
        "execution 1",
    )
    assert [row["words"] for row in rows if row["what"] == "chain"] == ["whole: 6 steps, open"]
    assert "Within 14" not in text


def test_reader_of_one_tenant_sees_no_other_however_they_ask(keys, signed_in):
    """Not in the list, not in the file, not by the record; and who may see nobody's bills is refused."""
    browser = signed_in(make_operator("reader", Role.AUDITOR, on=keys.tenant))

    for query in ("hours=744", "tenant=globex", "key=order-1", "request=r10", f"user_hash={full_user_hash('zoe')}"):
        lines = browser.get(f"{LIST}?{query}").context["lines"]
        assert {line.step.tenant for line in lines} <= {"acme"}, query
        assert "globex" not in browser.get(f"{LIST}export/?{query}").getvalue().decode(), query
    for path in ("", "evidence/"):
        assert browser.get(f"{page_of(keys.streamed)}{path}").status_code == 200, path
        assert browser.get(f"{page_of(keys.other)}{path}").status_code == 404, path
        assert browser.get(f"{page_of(uuid4())}{path}").status_code == 404, path
    stranger = signed_in(crew.owner)
    assert [stranger.get(f"{LIST}{path}").status_code for path in ("", "export/")] == [403, 403]


def test_pages_take_as_many_queries_for_many_keys_as_for_few(keys, signed_in, queries, monkeypatch):
    """Also the page of older ones, and of a key that came very often; pages follow each other without a gap."""
    monkeypatch.setattr(views, "PAGE_SIZE", 4)
    for module in (views, idempotency_content):
        monkeypatch.setattr(module, "STEPS_SHOWN", 6)
    browser = signed_in(crew.auditor)
    pages = (LIST, page_of(keys.streamed))
    for page in pages:
        browser.get(page)
    few = [queries(lambda page=page: browser.get(page)) for page in pages]
    for number in range(5):
        claim(f"many-{number}", request=f"m{number}")
        claim("order-1", request=f"d{number}")

    assert [queries(lambda page=page: browser.get(page)) for page in pages] == few
    seen, query = [], ""
    while query or not seen:
        page = browser.get(f"{LIST}{query}")
        seen += [line.step.key for line in page.context["lines"]]
        query = page.context["older"]
    assert seen == [*(f"many-{n}" for n in range(4, -1, -1)), "order-1", "order-4", "order-3", "order-2", "order-1"]
    seen, query = [], ""
    while query or not seen:
        page = browser.get(page_of(keys.streamed) + query)
        seen += [step["seq"] for step in page.context["found"].steps]
        query = page.context["older"]
    assert seen == list(range(11, 0, -1))
