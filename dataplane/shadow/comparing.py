"""Puts two answers side by side: what schema and validators say of either, how far they are apart, and a sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dataplane.chat import Chat
from dataplane.schema_check import SchemaChecker
from dataplane.shadow.compare import Comparison, Side, compare
from dataplane.shadow.counting import ShadowSeries
from dataplane.shadow.offers import Given, Offer
from dataplane.validators.check import check

# Of each text of a sample, and of a sample in all; words of a longer one are not kept.
MAX_TEXT_CHARACTERS: Final = 32_000
MAX_SAMPLE_CHARACTERS: Final = 96_000


class Comparing:
    """See the module. One per process."""

    def __init__(self) -> None:
        self._schemas = SchemaChecker()

    def compare(self, chat: Chat, control: Given, shadow: Given) -> Comparison:
        """Compare the shadow's answer to a request with control's."""
        return compare(self._side(chat, control), self._side(chat, shadow))

    def _side(self, chat: Chat, given: Given) -> Side:
        """An answer with what schema and validators say of it, which look at both with the same eyes."""
        if given.refused:
            return Side(given)
        schema, policy = chat.request.response_schema, chat.route.validators
        passed = None if schema is None or given.tool_calls else self._schemas.check(schema, given.text)
        report = None if policy is None else check(policy, chat.output(given.text, given.tool_calls))
        return Side(given, passed, report)


def sample_of(
    offer: Offer,
    series: ShadowSeries,
    shadow: Given,
    found: Comparison,
    *,
    question: str,
    may_keep: bool,
    at: float,
) -> dict[str, Any]:
    """One comparison as it is kept; its words only if `may_keep`. `at` is epoch seconds.

    Shape: {"at", "request_id", "tenant", "policy", "digest", "route", "arm", "lane", "control_lane", "prompt",
            "version", "diff": see `Comparison.to_json`, "texts": null or {"question", "control", "shadow",
            "control_tools", "shadow_tools": [[name, arguments]]}}.
    """
    control = offer.given
    texts = {
        "question": question[:MAX_TEXT_CHARACTERS],
        "control": control.text,
        "shadow": shadow.text,
        "control_tools": [list(call) for call in control.tool_calls],
        "shadow_tools": [list(call) for call in shadow.tool_calls],
    }
    return {
        "at": at,
        "request_id": offer.request_id,
        "tenant": offer.tenant,
        **series._asdict(),
        "control_lane": control.lane,
        "prompt": offer.prompt,
        "version": offer.version,
        "diff": found.to_json(),
        "texts": texts if may_keep and _can_be_kept(texts) else None,
    }


def _can_be_kept(texts: Mapping[str, Any]) -> bool:
    """Whether a sample's words are short enough, and such as PostgreSQL can hold."""
    words = [texts["question"], texts["control"], texts["shadow"]]
    words += [part for side in ("control_tools", "shadow_tools") for call in texts[side] for part in call]
    is_short = max(map(len, words)) <= MAX_TEXT_CHARACTERS and sum(map(len, words)) <= MAX_SAMPLE_CHARACTERS
    return is_short and not any("\0" in word for word in words)
