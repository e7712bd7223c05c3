"""What users read of a rung: which words and which HTML may be signed at all."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.documents import MalformedRelease, Node
from dataplane.rung_words import MAX_BANNER_CHARACTERS, Mail, RungWords, parse_rung_words
from tests.dataplane.conftest import copy_document

WORDS = copy_document("rung")["locales"]["en"]


def read(**changes: Any) -> RungWords:
    return parse_rung_words(Node(WORDS | changes, "$"))


def test_words_are_filled_in_and_what_fills_html_in_is_text() -> None:
    """Nobody gets a tag onto other people's pages by what a surface is called."""
    words = read(html="<p>{{surface}}: {{job}}</p>", mail={"subject": "{{surface}}", "text": "{{job}}"})

    filled = words.filled(
        {"surface": "<b>Q&A</b>", "eta_minutes": "5", "job": "j1", "request_id": "r", "position": "2"}
    )

    assert filled.banner == "<b>Q&A</b> answers more briefly; back to normal in about 5 min."
    assert filled.html == "<p>&lt;b&gt;Q&amp;A&lt;/b&gt;: j1</p>"
    assert filled.detail == "We are very busy. Request r, position 2."
    assert filled.mail == Mail("<b>Q&A</b>", "j1")
    assert (
        read(mail=None)
        .filled({"surface": "", "eta_minutes": "", "status_url": "", "request_id": "", "position": ""})
        .mail
        is None
    )


@pytest.mark.parametrize(
    "html",
    [
        "<p>Plain</p>",
        '<p lang="de">Viel los<br>heute</p>',
        "<ul><li>one</li><li><strong>two</strong> &amp; more</li></ul>",
        '<h2>Busy</h2><p>See <a href="https://status.example/x?a=1&amp;b=2">status</a></p>',
        '<p><a href="{{status_url}}">status</a> or <a href="mailto:help@example.com">mail</a></p>',
        "no tags at all",
        "1 &lt; 2 > 0",
    ],
)
def test_html_of_text_and_links_may_be_signed(html: str) -> None:
    """As it is written it is shown."""
    assert read(html=html).html == html


@pytest.mark.parametrize(
    ("html", "words"),
    [
        ("<script>alert(1)</script>", "<script> must not be in it"),
        ("<img src=x onerror=alert(1)>", "<img> must not be in it"),
        ('<p onclick="x()">a</p>', "attribute 'onclick' must not be on <p>"),
        ('<p style="color:red">a</p>', "attribute 'style' must not be on <p>"),
        ("<p lang={{surface}}>a</p>", "a language holds no placeholder"),
        ('<a href="javascript:alert(1)">a</a>', "is no address that a link may lead to"),
        ('<a href="java\tscript:alert(1)">a</a>', "is no address that a link may lead to"),
        ('<a href=" javascript:alert(1)">a</a>', "is no address that a link may lead to"),
        ('<a href="data:text/html,x">a</a>', "is no address that a link may lead to"),
        ('<a href="//evil.example/">a</a>', "is no address that a link may lead to"),
        ('<a href="https://x/{{surface}}">a</a>', "is no address that a link may lead to"),
        ("<a>a</a>", "a link without href leads nowhere"),
        ('<a href="https://x/"> </a>', "a link without words"),
        ("<p>open", "<p> is not closed"),
        ("<p><strong>crossed</p></strong>", "</p> closes nothing that was opened last"),
        ("</p>", "</p> closes nothing"),
        ("<p/>", "<p/> closes nothing in HTML"),
        ("<!-- secret -->", "comments must not be in it"),
        ("<!DOCTYPE html>", "declarations must not be in it"),
        ("<?php x ?>", "instructions must not be in it"),
        ("busy <script src=//evil.example/x ", "a '<' that begins no whole tag"),
        ("busy <p", "a '<' that begins no whole tag"),
        ("1 < 2", "a '<' that begins no whole tag"),
        ('<a href="https://x/<b">a</a>', "a '<' that begins no whole tag"),
        ("<p>{{eta_weeks}}</p>", "placeholder 'eta_weeks' does not exist here"),
        ("", "must not be empty"),
        ("<p>" + "x" * 5000 + "</p>", "at most 5000"),
    ],
)
def test_html_that_other_peoples_pages_could_not_take_is_refused(html: str, words: str) -> None:
    """When it is signed, not when it is shown."""
    with pytest.raises(MalformedRelease, match=words) as refusal:
        read(html=html)

    assert refusal.value.path == "$.html"


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"banner": "two\nlines"}, "$.banner", "a banner is one line"),
        ({"banner": "x" * (MAX_BANNER_CHARACTERS + 1)}, "$.banner", "201 characters; at most 200"),
        ({"banner": "{{request_id}}"}, "$.banner", "placeholder 'request_id' does not exist here"),
        ({"detail": "{{"}, "$.detail", "is no placeholder"),
        ({"mail": {"subject": "a\nBcc: x@y", "text": "t"}}, "$.mail.subject", "a subject is one line"),
        ({"mail": {"subject": "a"}}, "$.mail", "missing key 'text'"),
        ({"mail": "a"}, "$.mail", "expected an object, got a string"),
    ],
)
def test_words_that_would_not_fit_where_they_are_shown_are_refused(
    changes: dict[str, Any], path: str, words: str
) -> None:
    """Each by the path at which it stands."""
    with pytest.raises(MalformedRelease, match=words) as refusal:
        read(**changes)

    assert refusal.value.path == path
