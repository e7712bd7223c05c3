"""Orders for hosts that this control plane may not reach when they are needed: signed with every release, one for each
rung that can be engaged. See `dataplane.ladder.emergency`.
"""

from typing import Any

from controlplane.ladder.checks import signed_words
from controlplane.ladder.policies import ladder_policies
from controlplane.releases.signing import signing_key
from dataplane.documents import MalformedRelease
from dataplane.ladder.emergency import orders_of, sign_order
from dataplane.ladder.policy import Ladder


def compile_emergency() -> dict[str, Any]:
    """The section 'emergency', of the policy in force and the words that are live; two queries. The same state and key
    give the same orders.

    Shape: {surface: {"1".."6": see `Envelope.to_mapping`}}.
    Raises:
        SigningKeyMissing: there is something to sign.
    """
    signed = signed_words()
    try:
        ladder = Ladder.parse(ladder_policies.compile()).with_words(signed)
    except MalformedRelease:
        return {}  # whoever cuts the release has the section 'ladder' parsed too, and says what is wrong with it
    words = {slug: (f"{slug}@{version.number}", version.digest) for slug, version in signed.items()}
    section: dict[str, Any] = {}
    for order in orders_of(ladder, words):
        section.setdefault(order.surface, {})[str(order.rung)] = sign_order(order, signing_key()).to_mapping()
    return section
