"""What every answer of the console says, so that other sites, and our own mistakes, do no harm in a browser."""

import re
from collections.abc import Iterator

from django.http.response import HttpResponseBase

POLICY = {
    "default-src": "'self'",
    "script-src": "'self'",
    "style-src": "'self'",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# What no page has inside: a script or a style of its own, and what it would load from elsewhere.
UNWANTED = {
    "a script in the page": re.compile(r"<script(?![^>]*\bsrc=)(?![^>]*type=\"application/json\")"),
    "a script in an attribute": re.compile(r"<[^>]+\son[a-z]+="),
    "a file of another host": re.compile(r"(?:src|href)=\"(?:https?:)?//(?!testserver)[^\"]*\.(?:js|css|woff2)"),
}


def faults_of(answer: HttpResponseBase) -> Iterator[str]:
    """Yield what is wrong with an answer, headers first; nothing if it is as it is to be."""
    told = answer.get("Content-Security-Policy", "")
    policy = {name: " ".join(values) for name, *values in (part.split() for part in told.split(";") if part.strip())}
    yield from (f"{name} is {policy.get(name)!r}" for name, value in POLICY.items() if policy.get(name) != value)
    if "unsafe" in told:
        yield f"unsafe: {told}"
    yield from (f"{name} is {answer.get(name)!r}" for name, value in HEADERS.items() if answer.get(name) != value)
    if answer.get("Content-Type", "").startswith("text/html") and not answer.streaming:
        page = answer.content.decode()  # type: ignore[attr-defined]
        for fault, pattern in UNWANTED.items():
            if found := pattern.search(page):
                yield f"{fault}: {found[0][:200]}"
