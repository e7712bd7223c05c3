"""The tags and components that every page is made of."""

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from django import forms
from django.template import Context, RequestContext, Template
from django.test import RequestFactory
from django.utils.safestring import SafeString

from controlplane.console.diffs import diff_rows
from controlplane.console.stream_content import bars
from controlplane.console.templatetags import ballast
from controlplane.ledger.figures import Figures

TEMPLATES = Path(__file__).parents[2] / "templates"
ICONS = set(
    re.findall(r'<symbol id="([^"]+)"', (Path(__file__).parents[2] / "static" / "img" / "icons.svg").read_text())
)


def render(source: str, **values: object) -> str:
    return Template("{% load ballast %}" + source).render(Context(values))


def test_part_gives_its_content_to_the_component_and_nothing_else():
    """A component sees its arguments and the content between the tags, not the page's variables."""
    html = render('{% part "card" title="Versions" %}<b>{{ inner }}</b>{% endpart %}', inner="twelve", note="leaked")

    assert "<h2>Versions</h2>" in html
    assert "<b>twelve</b>" in html
    assert "leaked" not in html


def test_form_in_an_isolated_component_still_carries_the_csrf_token():
    """`only` hides the page's variables; the token comes from the request itself."""
    request = RequestFactory().get("/")

    html = Template(
        '{% include "components/_confirm.html" with id="d" title="Revoke" action="/x/" verb="Revoke" only %}'
    ).render(RequestContext(request, {}))

    assert re.search(r'name="csrfmiddlewaretoken" value="\w{64}"', html)


def test_component_escapes_what_people_typed():
    """A reason or a name is text, never markup."""
    html = render('{% include "components/_pill.html" with tone="bad" text=text only %}', text="<script>")

    assert "&lt;script&gt;" in html


def test_field_ties_label_help_and_error_to_its_control():
    """A screen reader hears the help and the error with the control."""

    class Named(forms.Form):
        slug = forms.SlugField(help_text="Lower case")

    html = render('{% include "components/_field.html" with field=form.slug only %}', form=Named({"slug": "A b!"}))

    described = re.search(r'aria-describedby="([^"]+)"', html)
    assert described is not None
    assert all(f'id="{name}"' in html for name in described.group(1).split())
    assert 'aria-invalid="true"' in html


@pytest.mark.parametrize(
    ("distance", "words"),
    [
        (timedelta(seconds=-2), "just now"),
        (timedelta(seconds=-59), "59 s ago"),
        (timedelta(minutes=-12, seconds=-30), "12 min ago"),
        (timedelta(hours=3), "in 3 h"),
        (timedelta(days=-40), "40 d ago"),
    ],
)
def test_relative_time_is_rounded_down_to_one_unit(distance: timedelta, words: str):
    """The server's first words are those that the browser keeps current."""
    assert ballast.in_words(distance) == words


def test_polyline_breaks_where_a_value_is_missing():
    """A sparkline shows a gap as a gap."""
    assert len(ballast.polyline([1, 2, None, 2, 1])) == 2


def test_polyline_of_one_value_is_no_line():
    """One point has no direction."""
    assert ballast.polyline([None, 3]) == []


@pytest.mark.parametrize(
    ("micros", "words"), [(1234, "$0.001234"), (804_202, "$0.80"), (0, "$0.00"), (31_200_000, "$31.20"), (None, "–")]
)
def test_money_keeps_the_digits_that_tell_small_amounts_apart(micros: int | None, words: str):
    """A tenth of a cent is not shown as nothing."""
    assert ballast.micros(micros) == words


def test_time_says_its_moment_in_utc():
    """The machine-readable time is exact and in UTC, whatever zone the value had."""
    html = render('{% include "components/_time.html" with at=at only %}', at=datetime(2026, 3, 1, 12, tzinfo=UTC))

    assert 'datetime="2026-03-01T12:00:00Z"' in html


@pytest.mark.parametrize("path", sorted(TEMPLATES.rglob("*.html")), ids=lambda path: str(path.relative_to(TEMPLATES)))
def test_template_keeps_to_the_content_security_policy(path: Path):
    """No inline style, handler or script: the policy would drop it in silence."""
    source = path.read_text()

    assert not re.search(r"\sstyle=|\son[a-z]+=|javascript:|hx-on", source)
    assert not re.search(r"<style|<script(?![^>]*(src=|application/json))", source)


@pytest.mark.parametrize("path", sorted(TEMPLATES.rglob("*.html")), ids=lambda path: str(path.relative_to(TEMPLATES)))
def test_template_uses_only_icons_of_the_sprite(path: Path):
    """An icon that is not in the sprite would be an empty square."""
    used = set(re.findall(r'{%\s*icon "([^"]+)"', path.read_text())) | set(
        re.findall(r'\bicon="([^"]+)"', path.read_text())
    )

    assert used <= ICONS


def test_phone_shows_four_rooms_in_the_order_of_its_thumb():
    """Overview, Inbox, Ladder, Canaries; who may not see one of them has the others, and the rest is under More."""
    rail = [{"label": label, "url": f"/{label}/"} for label in ("Overview", "Prompts", "Reviews", "Canaries", "Ladder")]

    shown = ballast.phone_bar(rail)
    without_ladder = ballast.phone_bar(rail[:-1])

    assert [item["label"] for item in shown] == ["Overview", "Inbox", "Ladder", "Canaries"]
    assert shown[1]["url"] == "/Reviews/"
    assert [item["label"] for item in without_ladder] == ["Overview", "Inbox", "Canaries"]
    assert ballast.phone_bar(None) == []


# --- parts that tags draw are what their templates were ---------------------------------------------------------------
PILL = (
    """<span class="pill pill-{{ tone|default:'off' }}">{% if icon %}{% icon icon %}{% elif tone == "good" %}"""
    """{% icon "check-circle-fill" %}{% elif tone == "watch" %}{% icon "exclamation-triangle-fill" %}"""
    """{% elif tone == "bad" %}{% icon "x-circle-fill" %}{% elif tone == "info" %}{% icon "info-circle-fill" %}"""
    """{% elif tone == "canary" or tone == "control" %}<span class="dot" aria-hidden="true"></span>"""
    """{% else %}{% icon "slash-circle" %}{% endif %}"""
    """<span{% if live_key %} data-live-key="{{ live_key }}"{% endif %}>{{ text }}</span></span>\n"""
)
TIME = (
    """{% if at %}<time datetime="{{ at|utc_iso }}" title="{{ at|utc_iso }}" data-relative>{{ at|relative }}</time>"""
    """{% else %}<span class="muted">{{ empty|default:"–" }}</span>{% endif %}"""
)
DIGEST = (
    """{% if digest %}<button type="button" class="digest" data-copy="{{ digest }}" title="{{ digest }}" """
    """aria-label="Copy {{ label|default:'digest' }} {{ digest|short_digest }}">{{ digest|short_digest }}"""
    """{% icon "copy" %}</button>{% else %}<span class="muted">–</span>{% endif %}"""
)
TONES = ("", "good", "watch", "bad", "off", "info", "canary", "control", "<b>")
TEXTS = ("in force", "", "<b> & 'c'", 12, 12_345.5, None, True, SafeString("<i>x</i>"))
MOMENT = datetime(2026, 3, 1, 12, 30, 59, 900_000, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize("tone", TONES)
@pytest.mark.parametrize(("icon", "live_key"), [("", ""), ("lock-fill", ""), ("", 'a"b'), ("<x>", "fleet")])
def test_pill_is_what_its_template_was(tone: str, icon: str, live_key: str):
    """The tag, and the component that stands for it, give the HTML of the template that they took the place of."""
    for text in TEXTS:
        values = {"tone": tone, "text": text, "icon": icon, "live_key": live_key}

        drawn = render("{% pill tone=tone text=text icon=icon live_key=live_key %}", **values)

        assert drawn == render(PILL, **values)
        assert drawn == render('{% include "components/_pill.html" %}', **values)
    assert render("{% pill %}") == render(PILL) == render('{% include "components/_pill.html" only %}')


@pytest.mark.parametrize("at", [None, MOMENT, datetime(2190, 1, 1, tzinfo=UTC)])
@pytest.mark.parametrize("empty", ["", "never", "<b>", None])
def test_time_is_what_its_template_was(at: datetime | None, empty: str | None):
    """Also where there is none, and where it is still to come."""
    drawn = render("{% time at empty=empty %}", at=at, empty=empty)

    assert drawn == render(TIME, at=at, empty=empty)
    assert drawn == render('{% include "components/_time.html" %}', at=at, empty=empty)


@pytest.mark.parametrize("digest", ["", None, "sha256:" + "0f" * 32, "a<b>c&d'e" * 3])
@pytest.mark.parametrize("label", ["", "signed digest", "<b>"])
def test_digest_is_what_its_template_was(digest: str | None, label: str):
    """Whatever stands in it is text."""
    drawn = render("{% digest digest label=label %}", digest=digest, label=label)

    assert drawn == render(DIGEST, digest=digest, label=label)
    assert drawn == render('{% include "components/_digest.html" %}', digest=digest, label=label)


FIGURES = (
    """<div class="figures{% if not in_order %} tone-bad{% endif %}"><svg class="figures-bar" viewBox="0 0 100 8" """
    """preserveAspectRatio="none" aria-hidden="true" focusable="false">{% for bar in bars %}"""
    """<rect class="figure-{{ forloop.counter }}" x="0" y="0" width="{{ bar.width|stringformat:'.1f' }}" height="8">"""
    """</rect>{% endfor %}</svg>\n<div class="figures-numbers">{% for bar in bars %}<span title="{{ bar.name }}">"""
    """{{ bar.tokens|compact }}</span>{% if not forloop.last %}<span class="muted" aria-hidden="true">/</span>"""
    """{% endif %}{% endfor %}</div>{% if not in_order %}"""
    """{% include "components/_pill.html" with tone="bad" text="out of order" only %}{% endif %}</div>\n"""
)


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("tokens", [(0, 0, 0, 0, 0), (12_400, 12_399, 900, 1, 0), (3_100_000, 5, 4, 3, 2)])
def test_figures_are_what_their_template_was(tokens: tuple[int, ...], in_order: bool):
    """The bar, the numbers, and what is said where they do not add up."""
    values = {"bars": bars(Figures(*tokens)), "in_order": in_order}

    assert render("{% figures bars in_order %}", **values) == render(FIGURES, **values)
    assert render('{% include "usage/_figures.html" %}', **values) == render(FIGURES, **values)


PARTS = (
    """{% for piece in parts %}{% if piece.op == "insert" %}<ins>{{ piece.text }}</ins>"""
    """{% elif piece.op == "delete" %}<del>{{ piece.text }}</del>{% else %}<span>{{ piece.text }}</span>"""
    """{% endif %}{% endfor %}\n"""
)
ROW = (
    """<div class="diff-row is-{{ row.kind }}"><span class="diff-no" aria-hidden="true">"""
    """{{ row.before|default_if_none:"" }}</span><div class="diff-cell">{% with parts=row.parts %}PARTS{% endwith %}"""
    """</div><span class="diff-no" aria-hidden="true">{{ row.after|default_if_none:"" }}</span>"""
    """<div class="diff-cell diff-after" aria-hidden="true">{% with parts=row.parts %}PARTS{% endwith %}</div></div>"""
).replace("PARTS", PARTS)


def test_rows_of_a_diff_are_what_their_template_was():
    """Lines that are equal, changed, inserted and deleted, whatever is written in them."""
    before = "same\n<b>old & 'words'</b>\ngone\n" + "tail\n" * 9
    after = "same\n<b>new & 'words'</b>\n" + "tail\n" * 9 + "&amp; more"
    rows = [row for group in diff_rows(before, after) for row in group.rows]

    assert {row.kind for row in rows} == {"equal", "changed", "insert", "delete"}
    for row in rows:
        assert render("{% diff_row row %}", row=row) == render(ROW, row=row)
        assert render("{% diff_parts row.parts %}", row=row) == render(PARTS, parts=row.parts)
