"""The tags and components that every page is made of."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django import forms
from django.template import Context, RequestContext, Template
from django.test import RequestFactory

from controlplane.console.templatetags import ballast

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
