"""The pages on signed copy over HTTP, and how a reviewer reads it."""

import pytest
import yaml

from controlplane.approvals.errors import BreakGlassRefused
from controlplane.approvals.models import BreakGlass, ChangeRequest
from controlplane.console.release_content import words as release_words
from controlplane.ladder.models import Copy, CopyVersion
from controlplane.ladder.operations import live_activation, propose_version
from controlplane.releases.operations import current_release
from tests.console.conftest import said, words
from tests.factories import (
    NOW,
    break_glass,
    copy_document,
    crew,
    make_copy,
    make_copy_version,
    make_demo_copy,
    make_live_copy,
    make_operator,
    make_policy,
    make_routing,
    routing_document,
)

OUTAGE = "/ladder/copy/help-centre-outage/"


@pytest.fixture(autouse=True)
def policy(db):
    make_policy()


def propose(version):
    return propose_version(version=version, reason="r", actor=crew.owner, now=NOW)


def filled(*texts, action="submit", reason="why", **fields):
    """The form of a template or an outage notice as a browser sends it: (locale, text, json) each."""
    data = {"action": action, "reason": reason, "default_locale": "en", **fields}
    data |= {"words-TOTAL_FORMS": str(len(texts)), "words-INITIAL_FORMS": "0"}
    for index, (locale, text, json) in enumerate(texts):
        data |= {f"words-{index}-locale": locale, f"words-{index}-text": text, f"words-{index}-json": json}
    return data


def test_ladder_shows_each_piece_with_who_signed_it_and_where_it_is_shown(signed_in):
    """Signed, proposed and unsigned are told apart; a piece that is proposed again is still signed."""
    make_demo_copy()
    make_routing(routing_document(fallbacks=True))
    waiting = propose(make_copy_version(make_copy("next", regulated=True)))
    again = propose(make_copy_version(Copy.objects.get(slug="help-centre-outage"), "Back soon"))
    make_copy("without-words")

    page = signed_in(crew.auditor).get("/ladder/copy/")

    rows = {row["copy"].slug: row for row in page.context["rows"]}
    assert {slug: row["state"] for slug, row in rows.items()} == {
        "help-centre-answers": "signed",
        "help-centre-outage": "signed",
        "help-centre-template": "signed",
        "withheld": "signed",
        "next": "proposed",
        "without-words": "unsigned",
    }
    assert [(one.name, one.role) for one in rows["help-centre-outage"]["signatures"]] == [("exec", "Exec")]
    assert rows["help-centre-outage"]["locales"] == ("en", "de")
    assert f"CR-{waiting.pk}" in words(page)
    assert f"signed CR-{again.pk}" in words(page)
    assert "help-centre chat" in words(page)
    assert "careful-answers chat (validators)" in words(page)


def test_copy_page_reads_as_users_will(signed_in):
    """Placeholders are filled with samples in each language, and questions stand above their answers."""
    make_live_copy(text="Back in {{eta_minutes}} min, for {{request_id}}")
    make_live_copy(slug="faq", kind="answers", text="It is on its way", regulated=True)
    browser = signed_in(crew.approver_one)

    outage, faq = browser.get(OUTAGE), browser.get("/ladder/copy/faq/")

    html = outage.content.decode()
    assert 'lang="de"' in html
    assert html.count("Back in 4 min, for req-") == 2
    assert "Filled in with sample values" in html
    assert "Where is my parcel? It is on its way" in words(faq)
    assert "exec as exec" in words(faq)
    assert "legal as legal" in words(faq)


def test_words_are_written_previewed_and_submitted_for_signatures(signed_in):
    """A preview compares and stores nothing; a submission is one version and one open change."""
    copy = make_copy()
    make_live_copy(copy, "Nobody can answer now")
    browser = signed_in(crew.owner)
    texts = [("en", "Back in {{eta_minutes}} min", '{"answer": "Back in {{eta_minutes}} min"}'), ("fr", "Bientôt", "")]

    form = browser.get(f"{OUTAGE}write/").content.decode()
    more = browser.post(f"{OUTAGE}write/", filled(*texts, action="add")).content.decode()
    preview = browser.post(f"{OUTAGE}write/", filled(*texts, action="preview", reason=""))
    stored = CopyVersion.objects.count()
    submitted = browser.post(f"{OUTAGE}write/", filled(*texts, reason="name the wait"))

    change = ChangeRequest.objects.open().get()
    assert "Nobody can answer now" in form
    assert 'name="words-2-locale"' in more
    assert "Back in 4 min" in preview.content.decode()
    assert "Words in de" in preview.content.decode()
    assert stored == 1
    assert submitted.url == f"/reviews/{change.pk}/"
    assert CopyVersion.objects.get(number=2).document["locales"] == {
        "en": {"text": "Back in {{eta_minutes}} min", "json": {"answer": "Back in {{eta_minutes}} min"}},
        "fr": {"text": "Bientôt", "json": None},
    }
    assert live_activation(copy).version.number == 1


def test_reviewer_reads_what_changes_and_how_it_will_read(signed_in):
    """Word by word against what is live, a language that went missing, and the words with samples; then exec signs."""
    copy = make_copy(regulated=True)
    make_live_copy(copy, "Nobody can answer now")
    browser = signed_in(crew.owner)
    browser.post(f"{OUTAGE}write/", filled(("en", "Nobody can answer for {{eta_minutes}} min", "")))
    change = ChangeRequest.objects.open().get()

    page = signed_in(crew.exec).get(f"/reviews/{change.pk}/")
    signed = signed_in(crew.exec).post(
        f"/reviews/{change.pk}/sign/", {"decision": "approve", "role": "exec", "digest": change.digest}
    )

    html = page.content.decode()
    assert "Words in en" in html
    assert "Nobody can answer for 4 min" in html
    assert "No longer says it in de" in words(page)
    assert "legal answers for every word" in words(page)
    assert f"You signed CR-{change.pk} as exec" in said(signed)
    assert "1 more from legal" in words(browser.get(f"/reviews/{change.pk}/"))


def test_mistake_in_the_words_is_shown_with_its_place(signed_in):
    """Nothing is stored, and what was typed stays in the form."""
    make_copy()
    browser = signed_in(crew.owner)
    english = ("en", "typed", "")

    for texts, fields, place in (
        ([("en", "typed {{when}}", "")], {}, "$.locales.en.text: placeholder"),
        ([("en", "typed", "[1]")], {}, "$.locales.en.json: expected an object"),
        ([("en", "typed", "{")], {}, "not JSON"),
        ([english, ("en", "y", "")], {}, "language 'en' is given twice"),
        ([english], {"default_locale": "de"}, "$.default_locale: 'de' is not among"),
        ([english, ("de", "", "")], {}, "This field is required"),
        ([english], {"reason": ""}, "This field is required"),
        ([english], {"words-0-DELETE": "on"}, "write it in one language at least"),
    ):
        page = browser.post(f"{OUTAGE}write/", filled(*texts, **fields))
        assert page.status_code == 400, place
        assert place in words(page)
        assert "typed" in words(page)
    assert not CopyVersion.objects.exists()


def test_answers_are_written_as_one_document(signed_in):
    """It starts from what is live; a mistake is shown with its place, and the same words are not stored twice."""
    copy = make_copy("faq", kind="answers")
    live = make_live_copy(copy, "On its way")
    browser = signed_in(crew.owner)

    def write(locales, action="submit"):
        text = locales if isinstance(locales, str) else yaml.safe_dump(locales)
        data = {"locales": text, "default_locale": "en", "reason": "why", "action": action}
        return browser.post("/ladder/copy/faq/write/", data)

    start = browser.get("/ladder/copy/faq/write/").context["form"].initial["locales"]
    said_twice = copy_document("answers")["locales"]
    said_twice["en"] += [{"questions": ["Where is my parcel"], "text": "x", "json": None}]
    refused = [write("en: ["), write(said_twice), write({"en": [{"text": "x"}]}), write("")]
    same, preview, submitted = (
        write(start),
        write(start.replace("way", "road"), "preview"),
        write(start.replace("way", "road")),
    )

    assert yaml.safe_load(start) == live.document["locales"]
    assert [page.status_code for page in refused] == [400] * 4
    assert "line 1" in words(refused[0])
    assert "$.locales.en[1].questions[0]: 'Where is my parcel' is the same question" in words(refused[1])
    assert "$.locales.en[0]: missing key" in words(refused[2])
    assert (same.status_code, "has exactly these words" in words(same)) == (409, True)
    assert "On its road" in words(preview)
    assert submitted.url == f"/reviews/{ChangeRequest.objects.open().get().pk}/"


def test_piece_is_created_once_and_then_written(signed_in):
    """Its name is taken from then on, and says so beside the field."""
    browser = signed_in(crew.admin)
    piece = {"slug": "outage", "title": "Outage", "kind": "outage", "regulated": "on"}

    created, again = browser.post("/ladder/new-copy/", piece), browser.post("/ladder/new-copy/", piece)

    assert created.url == "/ladder/copy/outage/write/"
    assert again.status_code == 400
    assert "already exists" in words(again)
    assert Copy.objects.get().regulated


def test_version_page_offers_what_its_state_allows(signed_in):
    """Live: nothing; was live: return, with a reason; submitted: propose; rejected or unsigned words never return."""
    copy = make_copy()
    make_live_copy(copy, "first")
    make_live_copy(copy, "second")
    third = make_copy_version(copy, "third")
    oncall, owner = signed_in(crew.oncall), signed_in(crew.owner)

    def offers(browser, number):
        html = browser.get(f"{OUTAGE}versions/{number}/").content.decode()
        return [act for act in ("propose", "return") if f'data-dialog-open="{act}"' in html]

    offered = [(offers(oncall, number), offers(owner, number)) for number in (1, 2, 3)]
    unsigned = oncall.post(f"{OUTAGE}versions/3/return/", {"reason": "x"})
    unreasoned = oncall.post(f"{OUTAGE}versions/1/return/")
    still = live_activation(copy).version.number
    returned = oncall.post(f"{OUTAGE}versions/1/return/", {"reason": "typo"})
    proposed = owner.post(f"{OUTAGE}versions/3/propose/", {"reason": "why"})
    twice = owner.post(f"{OUTAGE}versions/3/propose/", {"reason": "why"})

    assert offered == [(["return"], ["propose"]), ([], []), ([], ["propose"])]
    assert "never live, so nobody signed it" in said(unsigned)[0]
    assert "Say why" in said(unreasoned)[-1]
    assert still == 2
    assert "v1 is live" in said(returned)[-1]
    assert live_activation(copy).version.number == 1
    assert proposed.url == f"/reviews/{ChangeRequest.objects.open().get().pk}/"
    assert "asks for the same" in said(twice)[-1]
    assert f"Review CR-{ChangeRequest.objects.open().get().pk}" in words(owner.get(third.get_absolute_url()))
    assert owner.get(f"{OUTAGE}versions/2/?against=3").context["against"] == third
    assert owner.get(f"{OUTAGE}versions/2/?against=9").status_code == 404


def test_glass_cannot_be_broken_for_words(signed_in):
    """No page offers it, and page, API and operation refuse it whoever asks: unsigned words are never shown."""
    copy = make_copy()
    make_live_copy(copy, "signed")
    change = propose(make_copy_version(copy, "hasty"))
    url, oncall = f"/reviews/{change.pk}/", signed_in(crew.oncall)
    bypass = {"reason": "customers see an error", "incident": "INC-7", "minutes": 30}

    offered = words(oncall.get(url))
    by_page = oncall.post(f"{url}break-glass/", bypass)
    by_api = oncall.post(f"/api/v1/changes/{change.pk}/break-glass", bypass, content_type="application/json")
    applied = oncall.post(f"{url}apply/")

    refusal = "obody breaks the glass on a change of kind 'Signed copy'; it waits for its sign-offs"
    assert "glass" not in offered
    assert f"N{refusal}" in words(by_page)
    assert f"n{refusal}" in by_api.json()["error"]["message"]
    assert [answer.status_code for answer in (by_page, by_api, applied)] == [403] * 3
    with pytest.raises(BreakGlassRefused, match="cannot lapse by itself, so it cannot be broken into"):
        break_glass(change)
    assert not BreakGlass.objects.exists()
    assert live_activation(copy).version.number == 1


def test_only_writers_write_and_only_on_call_returns(signed_in):
    """Others read every page and are refused by name of the permission; strangers are told that there is nothing."""
    make_live_copy()
    reader, stranger = signed_in(crew.approver_one), signed_in(make_operator("newcomer"))

    for url in ("/ladder/", OUTAGE, f"{OUTAGE}versions/1/"):
        assert reader.get(url).status_code == 200
    for url, permission in (
        ("/ladder/new-copy/", "write and propose copy"),
        (f"{OUTAGE}write/", "write and propose copy"),
        (f"{OUTAGE}versions/1/propose/", "write and propose copy"),
        (f"{OUTAGE}versions/1/return/", "return copy to words that were signed before"),
    ):
        refused = reader.post(url, {"reason": "x"})
        assert (refused.status_code, permission in refused.content.decode()) == (403, True)
    assert stranger.get("/ladder/copy/").status_code == 403
    assert stranger.get(OUTAGE).status_code == 404
    assert "Ladder" not in stranger.get("/").content.decode().partition("</nav>")[0]
    assert [reader.get(f"/ladder/copy/{path}/").status_code for path in ("gone", "help-centre-outage/versions/9")] == [
        404,
        404,
    ]


def test_ladder_without_copy_says_what_to_do(signed_in):
    """An empty state names the first step to who may take it."""
    assert "New piece of copy" in words(signed_in(crew.owner).get("/ladder/copy/"))
    assert "Prompt owner or Admin" in words(signed_in(crew.oncall).get("/ladder/copy/"))


def test_copy_is_reached_from_the_palette_and_told_on_the_front_page(signed_in):
    """Pieces for who may see them, writing for who may write; the front page names who approved the words."""
    make_live_copy()
    owner, oncall = signed_in(crew.owner), signed_in(crew.oncall)

    offered = [browser.get("/palette.json").json()["entries"] for browser in (owner, oncall)]
    labels = [{entry["label"] for entry in entries} for entries in offered]
    front = words(oncall.get("/"))

    listed = "Copy that users read, and who signed it"
    assert {"Ladder", listed, "help-centre-outage", "Write help-centre-outage", "Create a piece of copy"} <= labels[0]
    assert {"Ladder", listed, "help-centre-outage"} <= labels[1]
    assert "Write help-centre-outage" not in labels[1]
    assert "help-centre-outage v1 is what users read" in front
    assert "approved by exec" in front


def test_release_says_which_words_it_changes(signed_in):
    """First words, other words, and in the table of what it carries."""
    copy = make_copy()
    make_live_copy(copy, "first")
    first = current_release().content["sections"]
    make_live_copy(copy, "second")
    release = current_release()

    page = words(signed_in(crew.oncall).get(f"/releases/{release.revision}/"))

    assert "copy help-centre-outage goes from v1 to v2" in page
    assert "help-centre-outage v2 outage de, en" in page
    assert release_words({}, first) == ["copy help-centre-outage may be shown for the first time, v1"]
    assert release_words(first, {}) == ["copy help-centre-outage can no longer be shown; v1 was live"]


def test_pages_take_as_many_queries_for_much_copy_as_for_little(signed_in, queries):
    """Neither per piece nor per version."""
    copy = make_copy()
    make_live_copy(copy, "v1")
    browser = signed_in(crew.owner)
    urls = ("/ladder/", OUTAGE, f"{OUTAGE}versions/2/")
    propose(make_copy_version(copy, "proposed"))
    for url in urls:
        browser.get(url)
    few = [queries(lambda url=url: browser.get(url)) for url in urls]
    for number in range(3):
        make_live_copy(copy, f"other {number}")
        make_live_copy(slug=f"piece-{number}", kind="template")
        propose(make_copy_version(copy, f"proposed {number}"))

    assert [queries(lambda url=url: browser.get(url)) for url in urls] == few
