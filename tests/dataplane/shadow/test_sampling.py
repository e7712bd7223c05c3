"""Which requests are asked again: the same at every gateway and every time, and as many as the policy says."""

from __future__ import annotations

import hashlib

import pytest

from dataplane.messages import ChatRequest
from dataplane.release import parse_document
from dataplane.shadow.sampling import canonical_bytes, draw

from .shadow_world import shadow_policy, shadow_routing


def request(number=0, *, route="chat", stream=False, **parameters):
    return ChatRequest(route, [{"role": "user", "content": f"Question {number}"}], parameters, stream=stream)


@pytest.fixture
def policy(make_document):
    """Makes policies of some percent."""

    def make(**changes):
        document = make_document(routing=shadow_routing(shadow_policy(**changes)))
        return parse_document(document, digest="0" * 64).routing.shadows["trial"]

    return make


def test_draw_is_what_the_documentation_says():
    """Whoever reads the rule can work it out, in whatever language."""
    canonical = b'{"messages":[{"content":"Question 0","role":"user"}],"parameters":{},"route":"chat"}'
    digest = hashlib.sha256(b"shadow:trial:" + canonical).digest()

    drawn = draw("trial", canonical_bytes(request()))

    assert canonical_bytes(request()) == canonical
    assert drawn.bucket == int.from_bytes(digest[:8]) % 10_000
    assert drawn.noise_bucket == int.from_bytes(digest[8:16]) % 10_000


def test_second_try_is_drawn_like_the_first_however_it_is_written():
    """The order of its fields, and whether it is streamed, are no part of a request's content."""
    first = canonical_bytes(request(temperature=0, seed=7))

    again = canonical_bytes(request(stream=True, seed=7, temperature=0))

    assert again == first


@pytest.mark.parametrize("other", [request(1), request(route="other"), request(seed=7), request(tools=[])])
def test_other_content_is_another_draw(other):
    """Route, messages, parameters and tools all count."""
    assert draw("trial", canonical_bytes(other)) != draw("trial", canonical_bytes(request()))


@pytest.mark.parametrize("percent", [0, 0.5, 25, 100])
def test_share_is_what_the_policy_says(policy, percent):
    """Of 8,000 different requests, about so many: five standard errors, and none or all at the ends."""
    meant = policy(percent=percent)

    drawn = sum(draw("trial", canonical_bytes(request(number))).is_sampled(meant) for number in range(8000))

    share = percent / 100
    assert abs(drawn - 8000 * share) <= 5 * (8000 * share * (1 - share)) ** 0.5


def test_noise_is_drawn_apart_from_the_sample(policy):
    """Of those that are asked again, and of those that are not, as many would be noise."""
    meant = policy(percent=50, noise_percent=50)
    draws = [draw("trial", canonical_bytes(request(number))) for number in range(8000)]

    both = sum(one.is_sampled(meant) and one.is_noise(meant) for one in draws)

    assert abs(both - 2000) <= 5 * (8000 * 0.25 * 0.75) ** 0.5
