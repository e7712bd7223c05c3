"""A role's guide, read: what it says to press, what it says one then sees, its pictures, links and examples.

A guide keeps to four signs, so that tests can hold it to the console: **bold** is what stands on a button, a link or a
field that the reader uses; "quoted" is what a page then says; a picture is one that the role's walk takes; a fenced
block of `python` or `sh` is run, and a block of `text` behind it is what it prints. `…` stands for anything, as a
number or a time of the reader's own.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ROOT / "docs" / "guides"
PICTURES = ROOT / "docs" / "img" / "guides"
WALKS = Path(__file__).parent
ROLES = ("application-developer", "approver", "auditor", "exec", "on-call", "platform-engineer", "prompt-owner")
RUN = ("python", "sh")
NOT_RUN = "*Not run by our tests:"
# What each method of a walk takes from the guide, by how many of its first arguments.
ACTS = {"open": 1, "press": 1, "fill": 1, "check": 1, "choose": 2}
WORDS = {"sees": 1, "is_told": 1}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BOLD = re.compile(r"\*\*(.+?)\*\*", re.DOTALL)
_QUOTED = re.compile(r'"([^"]+)"', re.DOTALL)
_PICTURE = re.compile(r"!\[([^\]]+)\]\(([^)]+)\)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    `line`: where its first line of code stands, from 1. `is_run`: False where the guide says why not. `prints`: what
    the guide says that it prints, None where it says nothing.
    """

    language: str
    code: str
    line: int
    is_run: bool
    prints: str | None


@dataclass(frozen=True, slots=True)
class Guide:
    """One guide. `text`: its Markdown; `prose`: the same without fenced blocks and code between backticks."""

    role: str
    path: Path
    text: str
    prose: str

    @property
    def acts(self) -> set[str]:
        """What the reader is told to press, open, fill in or choose."""
        return {_one_line(found) for found in _BOLD.findall(self.prose)}

    @property
    def words(self) -> set[str]:
        """What the reader is told that a page says."""
        return {_one_line(found) for found in _QUOTED.findall(self.prose)}

    @property
    def pictures(self) -> list[str]:
        """The pictures that it shows, as the addresses that it gives, in their order."""
        return [address for _, address in _PICTURE.findall(self.prose)]

    @property
    def links(self) -> list[str]:
        """Every address that it links to or shows."""
        return _LINK.findall(self.prose)

    @property
    def examples(self) -> list[Block]:
        """Its blocks of code, in their order."""
        found: list[Block] = []
        for match in _FENCE.finditer(self.text):
            language, code = match.groups()
            before = self.text[: match.start()].rstrip().rpartition("\n\n")[2]
            if language == "text":
                last = found.pop()
                assert last.prints is None, f"{self.path.name}: two blocks of text behind the code of line {last.line}"
                found.append(Block(last.language, last.code, last.line, last.is_run, code))
                continue
            line = self.text.count("\n", 0, match.start(2)) + 1
            found.append(Block(language, code, line, not before.startswith(NOT_RUN), None))
        return found


def read_guide(role: str) -> Guide:
    """The guide of a role of `ROLES`."""
    path = GUIDES / f"{role}.md"
    text = path.read_text()
    return Guide(role, path, text, re.sub(r"`[^`]+`", "", _FENCE.sub("", text)))


def walked(role: str) -> tuple[set[str], set[str], list[str]]:
    """What the role's walk presses, what it looks for, and the pictures it takes, as its source says."""
    source = (WALKS / f"test_{role.replace('-', '_')}.py").read_text()
    acts: set[str] = set()
    words: set[str] = set()
    pictures: list[str] = []
    for call in ast.walk(ast.parse(source)):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and _is_walk(call.func.value)):
            continue
        name, said = call.func.attr, [one.value for one in call.args if isinstance(one, ast.Constant)]
        acts.update(map(str, said[: ACTS.get(name, 0)]))
        words.update(map(str, said[: WORDS.get(name, 0)]))
        pictures += map(str, said[: name == "picture"])
    return acts, words, pictures


def pattern(words: str) -> re.Pattern[str]:
    """What words of a guide match, from their first to their last letter."""
    # Not `re.escape`, which escapes what browsers' expressions do not let be escaped.
    escaped = re.sub(r"([.*+?^${}()|\[\]\\/])", r"\\\1", words)
    return re.compile(f"^{escaped.replace('…', '.+')}$")


def printed(said: str, output: str) -> bool:
    """Whether a program printed what the guide says; a line that is `…` alone stands for any lines, none too."""
    lines = ["(?:.*\n)*" if line == "…" else re.escape(line).replace("…", ".+") + "\n" for line in said.splitlines()]
    return re.fullmatch("".join(lines), output.rstrip("\n") + "\n") is not None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _is_walk(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "walk"
