"""What an answer is: right, clearly an error, wrong, or none. A stream is read event by event, over any connections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import orjson

from benchmarks.chaos.asking import answer
from benchmarks.chaos.log import Call, Ending
from benchmarks.chaos.rows import WITHHELD


class Reader:
    """Reads one stream, however many connections it takes."""

    def __init__(self, call: Call) -> None:
        self.have = 0
        self.is_over = False
        self._call = call
        self._words = ""
        self._number = 0
        self._signed = ""

    def note_head(self, headers: Mapping[str, str]) -> None:
        """What the head of a response says."""
        self._signed = signed_words(headers) or self._signed
        self._number = 0

    def take(self, line: str) -> None:
        """Read one line."""
        name, _, value = line.partition(": ")
        if name == "id":
            self._number = int(value)
        if name != "data" or self.is_over:
            return
        if not self._number:
            return  # `event: resumed`, the one without a number
        if self._number <= self.have:
            self._finish(Ending.WRONG, f"event {self._number} came again after {self.have}")
        elif self._number != self.have + 1:
            self._finish(Ending.WRONG, f"event {self._number} came after {self.have}")
        elif value == "[DONE]":
            judge_words(self._call, self._words, self._signed)
            self.is_over = True
        else:
            self.have, self._number = self._number, 0
            self._take_chunk(orjson.loads(value))

    def _take_chunk(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            self._call.code = chunk["error"]["code"]
            self._finish(Ending.TOLD, str(chunk["error"].get("reason", "")))
        for choice in chunk.get("choices", ()):
            self._words += choice["delta"].get("content") or ""

    def _finish(self, ending: Ending, why: str) -> None:
        self._call.ending, self._call.why, self.is_over = ending, why, True


def signed_words(headers: Mapping[str, str]) -> str:
    """What the head of a response says of signed words that stand in for an answer; empty: it is an answer."""
    fallback = headers.get("ballast-fallback", "")
    if fallback in {"cached", "template", "outage"}:
        return f"signed words ({fallback})"
    return WITHHELD if "=abstain" in headers.get("ballast-validation", "") else ""


def judge_whole(call: Call, status: int, headers: Mapping[str, str], content: bytes) -> None:
    """The answer to a request that was made once, or its error."""
    if status != httpx.codes.OK:
        judge_error(call, status, content)
        return
    judge_answer(call, orjson.loads(content), signed_words(headers))


def judge_answer(call: Call, said: Mapping[str, Any], signed: str = "") -> None:
    """A completion; `signed`: see `signed_words`."""
    call.accepted = True
    judge_words(call, said["choices"][0]["message"]["content"], signed)


def judge_words(call: Call, words: str, signed: str) -> None:
    """The words of an answer that says that it is complete; `signed`: see `signed_words`."""
    if words == answer(call.kind, call.number):
        call.ending, call.code, call.why = Ending.RIGHT, "", ""
    elif signed:
        call.ending, call.code = Ending.TOLD, signed
    else:
        call.ending, call.why = Ending.WRONG, words[:200]


def judge_error(call: Call, status: int, content: bytes) -> None:
    """An error: clear if it has a code."""
    try:
        error = orjson.loads(content)["error"]
        call.ending, call.code, call.why = Ending.TOLD, str(error["code"]), f"{status} {error.get('message', '')}"[:200]
    except (ValueError, LookupError, TypeError):
        call.ending, call.code, call.why = Ending.BROKEN, "", f"{status} without a code: {content[:100]!r}"
