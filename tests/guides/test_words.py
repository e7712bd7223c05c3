"""Guides say what their walks do, show the pictures that these take, and link to what is there."""

import re

import pytest

from tests.guides.guide import GUIDES, NOT_RUN, PICTURES, ROLES, RUN, pattern, printed, read_guide, walked

MAX_BYTES = 3 * 1024 * 1024
MAX_LINES = 130


def test_every_role_has_its_guide_and_stands_in_the_index():
    """No guide without a role, no role without a guide, and none that nobody finds."""
    guides = {path.stem for path in GUIDES.glob("*.md")} - {"README"}

    linked = set(re.findall(r"\]\(([\w-]+)\.md\)", (GUIDES / "README.md").read_text()))

    assert guides == set(ROLES)
    assert linked == set(ROLES)
    assert "docs/guides/README.md" in (GUIDES.parents[1] / "README.md").read_text()


@pytest.mark.parametrize("role", ROLES)
def test_guide_says_what_is_pressed_and_read_and_nothing_else(role):
    """Each name in bold is one that the walk presses, each quotation one that it reads, and the other way round."""
    guide = read_guide(role)

    acts, words, _ = walked(role)

    assert guide.acts == acts
    assert guide.words == words


@pytest.mark.parametrize("role", ROLES)
def test_guide_shows_each_picture_of_its_walk_once(role):
    """By a name that says whose it is; and none that no walk takes."""
    shown = read_guide(role).pictures

    _, _, taken = walked(role)

    assert sorted(shown) == sorted(f"../img/guides/{role}-{step}.png" for step in taken)
    assert shown


def test_pictures_are_those_of_the_guides_and_small_enough():
    """Every one is there, none is left over from a step that is gone, and all together are soon loaded."""
    shown = {address.rpartition("/")[2] for role in ROLES for address in read_guide(role).pictures}

    kept = {path.name: path.stat().st_size for path in PICTURES.iterdir()}

    assert set(kept) == shown
    assert sum(kept.values()) <= MAX_BYTES


@pytest.mark.parametrize("role", [*ROLES, "README"])
def test_links_lead_somewhere(role):
    """To files that are here, and to headings that are in them."""
    missing = []
    for address in read_guide(role).links:
        if address.startswith("http"):
            continue
        name, _, anchor = address.partition("#")
        target = (GUIDES / name).resolve() if name else GUIDES / f"{role}.md"
        if not target.exists() or (anchor and anchor not in _anchors(target.read_text())):
            missing.append(address)

    assert missing == []


@pytest.mark.parametrize("role", ROLES)
def test_code_is_run_or_says_why_not(role):
    """Blocks are of a language that is run, and one that is not run has a reason that readers see."""
    guide = read_guide(role)

    assert {block.language for block in guide.examples if block.is_run} <= set(RUN)
    for block in guide.examples:
        assert block.is_run or block.prints is None
    for found in re.findall(rf"^{re.escape(NOT_RUN)}(.*)", guide.text, re.MULTILINE):
        assert len(found) > len("because.*")


@pytest.mark.parametrize("role", ROLES)
def test_guide_is_short(role):
    """Beside its examples: somebody reads it at three in the morning."""
    assert len(read_guide(role).prose.splitlines()) <= MAX_LINES


@pytest.mark.parametrize(
    ("said", "output", "fits"),
    [
        ("a\n", "a\n", True),
        ("a\n", "a\nb\n", False),
        ("a … c\n", "a b c\n", True),
        ("a … c\n", "a\nb c\n", False),
        ("a\n…\nd\n", "a\nb\nc\nd\n", True),
        ("a\n…\nd\n", "a\nd\n", True),
        ("a\n…\n", "b\na\n", False),
        ("1.5\n", "125\n", False),
    ],
)
def test_what_a_program_printed_is_held_against_what_is_said(said, output, fits):
    """Word by word; the ellipsis stands for anything of its line, and alone for any lines."""
    assert printed(said, output) is fits


def test_names_with_an_ellipsis_match_whole_names():
    """So that a guide need not say a number that is another one every time."""
    assert pattern("Review CR-…").search("Review CR-21")
    assert not pattern("Review CR-…").search("Review CR-")
    assert not pattern("Roll back to v2").search("Roll back to v21")


def _anchors(text: str) -> set[str]:
    """The addresses of its headings, as they are made of their words."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
