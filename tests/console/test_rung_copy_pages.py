"""The words of a ladder's rung over HTTP: written, drawn while they are typed, compared and signed."""

import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.approvals.models import ChangeRequest
from controlplane.console.copy_content import SAMPLES, placeholders
from controlplane.console.copy_rungs import html_from_text, missing_languages
from controlplane.ladder.models import CopyKind, CopyVersion, LadderPolicy, LadderPolicyActivation
from controlplane.ladder.operations import propose_version, submit_version
from dataplane.documents import Node
from dataplane.rung_words import parse_rung_words
from tests.console.conftest import words
from tests.factories import NOW, SETUP, crew, make_copy, make_live_copy, make_policy, sign_copy
from tests.ladders import surface

RUNG = "/ladder/copy/rung-2/"
ENGLISH = {
    "locale": "en",
    "banner": "{{surface}} is busy; about {{eta_minutes}} min",
    "detail": "We are very busy.\n\nYou are number {{position}}.",
    "html": "<p>We are <strong>very busy</strong>.</p>",
    "mail_subject": "",
    "mail_text": "",
}
GERMAN = ENGLISH | {"locale": "de", "banner": "Viel los", "html": "<p>Sehr viel los.</p>"}


@pytest.fixture(autouse=True)
def policy(db):
    make_policy()


def filled(*languages, action="submit", reason="why", **fields):
    """The form as a browser sends it, a dictionary of fields per language."""
    data = {"action": action, "reason": reason, "default_locale": "en", **fields}
    data |= {"words-TOTAL_FORMS": str(len(languages)), "words-INITIAL_FORMS": "0"}
    for index, language in enumerate(languages):
        data |= {f"words-{index}-{name}": value for name, value in language.items()}
    return data


def said(**changes):
    """The words of one language as a version stores them."""
    stored = {name: ENGLISH[name] for name in ("banner", "detail", "html")}
    return stored | {"mail": None} | changes


def version_of(copy, **locales):
    document = {"kind": "rung", "default_locale": next(iter(locales)), "locales": locales}
    return submit_version(copy=copy, document=document, rationale="r", actor=crew.owner, now=NOW)


def live_rung(slug, **locales):
    """Signed words of a rung, live."""
    version = version_of(make_copy(slug, kind="rung"), **locales)
    sign_copy(propose_version(version=version, reason="r", actor=crew.owner, now=NOW))
    return version


def ladder_in_force(*slugs):
    """A surface whose first rungs show these pieces."""
    rungs = {
        str(number): {**rung, "copy": slugs[number - 1]}
        for number, rung in enumerate(surface()["rungs"].values(), start=1)
        if number <= len(slugs)
    }
    document = {"web-chat": surface(rungs=rungs, triggers={})}
    made = LadderPolicy.objects.create(
        number=1, document=document, digest="0" * 64, author=SETUP, rationale="r", created_at=NOW
    )
    LadderPolicyActivation.objects.create(version=made, actor=SETUP, reason="r", at=NOW)


def test_copy_of_rungs_is_listed_under_its_tab(signed_in):
    """Among all other copy."""
    live_rung("rung-2", en=said(), de=said(banner="Viel los"))

    page = signed_in(crew.auditor).get("/ladder/copy/")

    assert "rung-2" in words(page)
    assert "Words of a ladder" in words(page)
    assert '<a href="/ladder/copy/" aria-current="page">Copy' in page.content.decode()


def test_words_are_typed_looked_at_and_submitted(signed_in):
    """A preview stores nothing; what is submitted has a language each, and an e-mail only where one was written."""
    make_copy("rung-2", kind="rung")
    browser = signed_in(crew.owner)
    mail = {"mail_subject": "Your answer", "mail_text": "Here it is.\r\nBye"}

    form = browser.get(f"{RUNG}write/")
    more = browser.post(f"{RUNG}write/", filled(ENGLISH, action="add"))
    preview = browser.post(f"{RUNG}write/", filled(ENGLISH, GERMAN, action="preview", reason=""))
    stored = CopyVersion.objects.count()
    submitted = browser.post(f"{RUNG}write/", filled(ENGLISH | mail, GERMAN))

    assert "Make HTML from the plain text" in words(form)
    assert 'data-most="200"' in form.content.decode()
    assert [one["locale"].value() for one in more.context["words"]] == ["en", None]
    assert not more.context["words"].is_bound
    assert preview.content.decode().count("Web chat is busy; about 4 min") == 2
    assert "Banner in de" in words(preview)
    assert stored == 0
    assert submitted.url == f"/reviews/{ChangeRequest.objects.open().get().pk}/"
    assert CopyVersion.objects.get().document["locales"] == {
        "en": said(mail={"subject": "Your answer", "text": "Here it is.\nBye"}),
        "de": said(banner="Viel los", html="<p>Sehr viel los.</p>"),
    }


def test_change_starts_from_what_users_read_and_leaves_a_language_out(signed_in):
    """The fields hold the live words, the e-mail's too."""
    live_rung("rung-2", en=said(mail={"subject": "Yours", "text": "Here"}), de=said())
    browser = signed_in(crew.owner)

    form = browser.get(f"{RUNG}write/")
    browser.post(f"{RUNG}write/", filled(ENGLISH, GERMAN | {"DELETE": "on"}))

    assert [one["locale"].value() for one in form.context["words"]] == ["en", "de"]
    assert [one["mail_subject"].value() for one in form.context["words"]] == ["Yours", ""]
    assert list(CopyVersion.objects.get(number=2).document["locales"]) == ["en"]


@pytest.mark.parametrize(
    ("changes", "field", "fact"),
    [
        ({"banner": "x" * 201}, "banner", "201 characters; at most 200"),
        ({"banner": "Number {{position}}"}, "banner", "placeholder 'position' does not exist here"),
        ({"banner": ""}, "banner", "This field is required"),
        ({"detail": "Until {{when}}"}, "detail", "placeholder 'when' does not exist here"),
        ({"html": "<script>alert(1)</script>"}, "html", "<script> must not be in it"),
        ({"html": "<p>open"}, "html", "<p> is not closed"),
        ({"mail_subject": "Only this"}, "mail_text", "an e-mail has a subject and a text"),
        ({"mail_text": "Only this"}, "mail_subject", "an e-mail has a subject and a text"),
        ({"mail_subject": "s", "mail_text": "{{no}}"}, "mail_text", "placeholder 'no' does not exist here"),
        ({"locale": "english!"}, "locale", "is not a locale"),
    ],
)
def test_mistake_stands_beside_its_field(signed_in, changes, field, fact):
    """In words, without the path of a document that nobody sees; nothing is stored."""
    make_copy("rung-2", kind="rung")

    page = signed_in(crew.owner).post(f"{RUNG}write/", filled(ENGLISH | changes, default_locale="en"))

    errors = page.context["words"].forms[0].errors
    assert page.status_code == 400
    assert list(errors) == [field]
    assert fact in errors[field][0]
    assert "$." not in words(page)
    assert not CopyVersion.objects.exists()


def test_every_mistake_is_told_at_once(signed_in):
    """Nobody submits five times to learn of five; a last resort that is not written is one of them."""
    make_copy("rung-2", kind="rung")
    browser = signed_in(crew.owner)
    wrong = {"banner": "{{no}}", "detail": "{{no}}", "html": "<img>", "mail_subject": "{{no}}", "mail_text": "{{no}}"}

    page = browser.post(f"{RUNG}write/", filled(ENGLISH | wrong))
    default = browser.post(f"{RUNG}write/", filled(ENGLISH, default_locale="fr"))

    assert set(page.context["words"].forms[0].errors) == set(wrong)
    assert default.status_code == 400
    assert default.context["form"].errors == {"default_locale": ["'fr' is not among the languages written"]}
    assert not CopyVersion.objects.exists()


def test_html_is_made_of_the_plain_text_on_request(signed_in):
    """Of the language whose button was pressed; what else was typed stays, and nothing is judged or stored yet."""
    make_copy("rung-2", kind="rung")
    unfinished = GERMAN | {"banner": "", "html": "mine"}

    page = signed_in(crew.owner).post(f"{RUNG}write/", filled(ENGLISH, unfinished, action="html-0", reason=""))

    english, german = page.context["words"]
    assert page.status_code == 200
    assert english["html"].value() == "<p>We are very busy.</p>\n<p>You are number {{position}}.</p>"
    assert german["html"].value() == "mine"
    assert "This field is required" not in words(page)
    assert not CopyVersion.objects.exists()


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("One\nline\r\n\r\n\nTwo", "<p>One<br>line</p>\n<p>Two</p>"),
        ("- a\n- b", "<ul><li>a</li><li>b</li></ul>"),
        ("1. a\n2) b", "<ol><li>a</li><li>b</li></ol>"),
        ('1 < 2 & "so" {{ surface }} {{"{{"}}', '<p>1 &lt; 2 &amp; "so" {{ surface }} {{"{{"}}</p>'),
        (
            "See https://a.example/?b=1&c=2.",
            '<p>See <a href="https://a.example/?b=1&amp;c=2">https://a.example/?b=1&amp;c=2</a>.</p>',
        ),
        ("See {{ status_url }}!", '<p>See <a href="{{status_url}}">{{status_url}}</a>!</p>'),
        ("See https://a.example/{{job}}", '<p>See <a href="https://a.example/">https://a.example/</a>{{job}}</p>'),
        ("", ""),
    ],
)
def test_plain_text_becomes_tags_of_text(text, html):
    """Paragraphs, lists, links; a placeholder is never a part of an address."""
    assert html_from_text(text) == html


@given(st.text(st.sampled_from("ab<>&\"'/:.=! \n-1{}") | st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_made_html_may_be_signed_and_says_what_the_text_says(text):
    """Whatever was typed, but for what no plain text may hold either."""
    plain = text.replace("{{", "{ {")
    html = html_from_text(f"x {plain}")

    signed = parse_rung_words(Node({"banner": "b", "detail": "x", "html": html, "mail": None}, "$"))

    read = unescape(re.sub(r"<[^<>]*>", " ", signed.html))
    assert "".join(read.split()) == "".join(f"x {plain}".split())


def test_words_are_drawn_while_they_are_typed(signed_in):
    """By what signs them: in both themes, or why they cannot be shown; nothing is stored."""
    make_copy("rung-2", kind="rung")
    make_copy("outage")
    make_copy("faq", kind="answers")
    browser = signed_in(crew.owner)
    typed = filled({}, ENGLISH, index="1")

    drawn = browser.post(f"{RUNG}preview/", typed).content.decode()
    refused = browser.post(f"{RUNG}preview/", typed | {"words-1-html": "<script>alert(1)</script>"}).content.decode()
    empty = browser.post(f"{RUNG}preview/", {"index": "none"})
    outage = {"words-0-locale": "en", "words-0-text": "Back in {{eta_minutes}} min"}
    other = browser.post("/ladder/copy/outage/preview/", outage).content.decode()
    wrong = browser.post("/ladder/copy/outage/preview/", outage | {"words-0-text": "{{no}}"}).content.decode()
    answers = browser.post("/ladder/copy/faq/preview/", {})

    assert drawn.count("Web chat is busy; about 4 min") == 2
    assert drawn.count("<p>We are <strong>very busy</strong>.</p>") == 2
    assert "You are number 12." in drawn
    assert "HTML: &lt;script&gt; must not be in it" in refused
    assert "<script" not in refused
    assert "Banner: This field is required" in empty.content.decode()
    assert "Back in 4 min" in other
    assert "placeholder &#x27;no&#x27; does not exist" in wrong
    assert answers.status_code == 200
    assert not CopyVersion.objects.exists()
    assert signed_in(crew.exec).post(f"{RUNG}preview/", typed).status_code == 403
    assert browser.post("/ladder/copy/gone/preview/", typed).status_code == 404


def test_reviewer_reads_it_as_users_will_and_sees_what_changed(signed_in):
    """Field by field and word by word against what is live, with the samples filled in and what was typed escaped."""
    live = live_rung("rung-2", en=said(), de=said())
    mail = {"subject": "Your answer from {{surface}}", "text": "<b>Here</b> it is"}
    version = version_of(live.copy, en=said(banner="{{surface}} is very busy", mail=mail), de=said())
    change = propose_version(version=version, reason="r", actor=crew.owner, now=NOW)

    pages = [signed_in(crew.exec).get(url) for url in (f"/reviews/{change.pk}/", version.get_absolute_url())]

    for page in pages:
        html = page.content.decode()
        assert html.count("Web chat is very busy") == 2
        assert 'data-bs-theme="dark" inert' in html
        assert "Your answer from Web chat" in html
        assert "&lt;b&gt;Here&lt;/b&gt; it is" in html
        assert "Banner in en" in words(page)
        assert "E-mail in en" in words(page)
        assert "HTML in en unchanged." in words(page)
        assert "Words in de unchanged." in words(page)
        assert re.search(r"<ins>[^<]*very[^<]*</ins>", html)


def test_language_that_other_rungs_have_is_missed_by_name(signed_in):
    """On the version's page, in its review and in the preview; 'pt' is read by who asks for 'pt-BR'."""
    live_rung("rung-1", en=said(), de=said(), **{"pt-BR": said()})
    live_rung("rung-3", en=said(), de=said(), fr=said())
    version = version_of(make_copy("rung-2", kind="rung"), en=said(), pt=said())
    change = propose_version(version=version, reason="r", actor=crew.owner, now=NOW)
    browser = signed_in(crew.owner)

    pages = [
        browser.get(version.get_absolute_url()),
        browser.get(f"/reviews/{change.pk}/"),
        browser.post(f"{RUNG}write/", filled(ENGLISH, action="preview")),
    ]

    missing = ["German (de) is missing here; rung-1 and rung-3 have it", "French (fr) is missing here; rung-3 has it"]
    assert missing_languages(version) == missing
    for page in pages:
        assert all(line in words(page) for line in missing)
    assert "Portuguese" not in words(pages[0])
    assert "pt-BR" in words(pages[2])


def test_only_rungs_of_the_same_surface_are_compared():
    """Another product's languages say nothing about this one's."""
    live_rung("rung-1", en=said(), de=said())
    live_rung("other-1", en=said(), fr=said())
    version = live_rung("rung-2", en=said())
    outage = make_live_copy()

    without_ladder = missing_languages(version)
    ladder_in_force("rung-1", "rung-2")

    assert [line.partition(" ")[0] for line in without_ladder] == ["German", "French"]
    assert missing_languages(version) == ["German (de) is missing here; rung-1 has it"]
    assert missing_languages(outage) == []


@pytest.mark.parametrize("kind", CopyKind.values)
def test_every_placeholder_is_offered_with_its_meaning_and_a_sample(kind):
    """Of every kind; a banner takes fewer, and answers none."""
    offered = {one.name: one for one in placeholders(kind)}

    assert all(one.meaning and one.sample == SAMPLES[one.name] for one in offered.values())
    assert bool(offered) == (kind != CopyKind.ANSWERS)
    if kind == CopyKind.RUNG:
        assert not offered["position"].is_in_banner
        assert offered["surface"].is_in_banner


def test_pages_take_as_many_queries_for_many_rungs_and_languages_as_for_one(signed_in, queries):
    """Neither per rung nor per language."""
    live = live_rung("rung-2", en=said())
    live_rung("rung-1", de=said())
    version = version_of(live.copy, en=said(banner="other"))
    change = propose_version(version=version, reason="r", actor=crew.owner, now=NOW)
    browser = signed_in(crew.owner)
    urls = ("/ladder/copy/", RUNG, version.get_absolute_url(), f"/reviews/{change.pk}/", f"{RUNG}write/")
    for url in urls:
        browser.get(url)
    few = [queries(lambda url=url: browser.get(url)) for url in urls]
    for number in range(3, 7):
        live_rung(f"rung-{number}", en=said(), de=said(), fr=said(), it=said())

    assert [queries(lambda url=url: browser.get(url)) for url in urls] == few
