"""JSON as models write it, and the ways in which they break it: what tests and `benchmarks/json_repair.py` are fed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

WORDS = (
    *("alpha", "beta", "refund", "order", "parcel", "customer's", "customer’s", "city", "New-York", "12:30", "a,b"),
    *("{x}", "[y]", "naïve", "https://example.org/a?b=c", "3/4", "#", "//", "\\d+", "10%", "-5", "null", "true"),
)
KEYS = ("name", "id", "order id", "items", "total", "a", "b", "note", "is_paid", "größe")
STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)


def text_value(rng: Random) -> str:
    """What stands in a string: words with what confuses readers of JSON, a quotation, a line break."""
    words = [rng.choice(WORDS) for _ in range(rng.randrange(1, 6))]
    if rng.random() < 0.15:
        words.append('"quoted"')
    if rng.random() < 0.15:
        words.append("\nnext line")
    rng.shuffle(words)
    return " ".join(words)


def value(rng: Random, depth: int = 0) -> Any:
    """A value, nested at most four deep."""
    kind = rng.random()
    if depth < 3 and kind < 0.3:
        return document(rng, depth)
    if depth < 3 and kind < 0.5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(5))]
    if kind < 0.6:
        return rng.choice([True, False, None])
    if kind < 0.75:
        return rng.choice([0, 1, -2.5, 12.5, 1e30, 12345678901234567890, 0.1])
    return text_value(rng)


def document(rng: Random, depth: int = 0) -> dict[str, Any]:
    """An object, as the arguments of a tool."""
    keys = rng.sample(KEYS, rng.randrange(1, 6))
    return {key: value(rng, depth + 1) for key in keys}


def written(document: Any, rng: Random) -> str:
    """A document as text, compact or on many lines."""
    separators = rng.choice([None, (",", ":")])
    return json.dumps(document, indent=rng.choice([None, None, 2]), separators=separators, ensure_ascii=False)


def outside_strings(text: str, change: Callable[[str], str]) -> str:
    """The text with everything between its strings changed."""
    parts, at = [], 0
    for match in STRING.finditer(text):
        parts += [change(text[at : match.start()]), match.group()]
        at = match.end()
    return "".join([*parts, change(text[at:])])


def without_one(marks: str) -> Callable[[str, Random], str]:
    """Leaves out one of the marks, wherever it stands."""

    def leave_out(text: str, rng: Random) -> str:
        places = [place for place, char in enumerate(text) if char in marks]
        if not places:
            return text
        place = rng.choice(places)
        return text[:place] + text[place + 1 :]

    return leave_out


def truncated(text: str, rng: Random) -> str:
    """Ends too early."""
    return text[: rng.randrange(1, len(text))]


def single_quoted(text: str, rng: Random) -> str:
    """Strings in single quotes, with those in them escaped."""
    return STRING.sub(lambda match: "'" + match.group()[1:-1].replace('\\"', '"').replace("'", "\\'") + "'", text)


def smart_quoted(text: str, rng: Random) -> str:
    """Strings in typographic quotes, as a text editor makes them."""
    return STRING.sub(lambda match: "“" + match.group()[1:-1] + "”", text)


def with_trailing_comma(text: str, rng: Random) -> str:
    """A comma behind the last member of an object or list."""
    places = [match.start(1) for match in re.finditer(r"(?<=[\w\"}\]])(\s*[}\]])", outside_strings(text, str))]
    strings = [match.span() for match in STRING.finditer(text)]
    places = [place for place in places if not any(start < place < end for start, end in strings)]
    if not places:
        return text
    place = rng.choice(places)
    return text[:place] + "," + text[place:]


def fenced(text: str, rng: Random) -> str:
    """In a fence, with or without a language."""
    before = rng.choice(["", "Here is the JSON:\n\n", "Sure!\n"])
    return f"{before}```{rng.choice(['json', '', 'JSON'])}\n{text}\n```{rng.choice(['', chr(10), ' '])}"


def in_prose(text: str, rng: Random) -> str:
    """Between sentences."""
    before = rng.choice(["The arguments are: ", "Sure, here you go:\n", "I used [1] and {braces}. Result: ", ""])
    behind = rng.choice([" Let me know!", "\n\nIs there anything else (a refund)?", "</tool_call>"])
    return before + text + behind


def commented(text: str, rng: Random) -> str:
    """A comment where white space can stand."""
    places = [match.end() for match in STRING.finditer(text)]
    ends = [place for place in places if text[place : place + 1] in (",", ":", "}", "]")]
    if not ends:
        return text
    place = rng.choice(ends)
    return text[:place] + rng.choice([" /* as asked */", " // as asked\n", " # as asked\n"]) + text[place:]


def with_python_literals(text: str, rng: Random) -> str:
    """True, False and None."""
    names = {"true": "True", "false": "False", "null": "None"}
    return outside_strings(text, lambda part: re.sub(r"\b(?:true|false|null)\b", lambda m: names[m.group()], part))


def with_raw_newlines(text: str, rng: Random) -> str:
    """Line breaks in strings that are not escaped."""
    return STRING.sub(lambda match: match.group().replace("\\n", "\n"), text)


def doubled(text: str, rng: Random) -> str:
    """The same twice."""
    return text + rng.choice(["", "\n", "\n\n", " "]) + text


NUMBER = re.compile(r"(?<![\w.])-?\d[\d.e+]*(?![\w.])")


def with_nan(text: str, rng: Random) -> str:
    """NaN in the place of the last number."""
    parts: list[str] = []
    outside_strings(text, lambda part: parts.append(part) or part)
    if not any(NUMBER.search(part) for part in parts):
        return text
    last = max(index for index, part in enumerate(parts) if NUMBER.search(part))
    count = iter(range(len(parts)))
    return outside_strings(text, lambda part: NUMBER.sub("NaN", part, count=1) if next(count) == last else part)


MUTATIONS: dict[str, Callable[[str, Random], str]] = {
    "truncate": truncated,
    "drop quote": without_one('"'),
    "drop comma": without_one(","),
    "drop colon": without_one(":"),
    "drop brace": without_one("{}[]"),
    "single quotes": single_quoted,
    "trailing comma": with_trailing_comma,
    "fences": fenced,
    "prose": in_prose,
    "comments": commented,
    "Python literals": with_python_literals,
    "unescaped newline": with_raw_newlines,
    "doubled output": doubled,
    "smart quotes": smart_quoted,
    "NaN": with_nan,
}


def meant(mutation: str, text: str, mutant: str) -> Any:
    """The value that was meant: that of the text; where a number became NaN, with null in its place."""
    if mutation == "NaN":
        return json.loads(outside_strings(mutant, lambda part: part.replace("NaN", "null")))
    return json.loads(text)


def is_json(text: str) -> bool:
    """Whether it is JSON, NaN not being any."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


ADVERSARIAL: dict[str, str] = {
    "[": "[",
    '{"a":': '{"a":',
    '"\\': '"\\',
    '["\\': '["\\',
    ",": ",",
    "[1,": "[1,",
    '"': '"',
    '{"': '{"',
    "`": "`",
    "```json\n": "```json\n",
    "mixed brackets": "[{(]})",
    "{}": "{}",
    "[1]": "[1]",
    "{'a':": "{'a':",
    "# ": "# ",
    "/*": "{/*",
    "spaces": "   ",
    '("': '("',
    "a": "a",
    "1": "[1",
    "\\u": '{"\\u',
    "no-break spaces": "\u00a0{",
}
"""By name, what one text of a million characters is made of, again and again."""
