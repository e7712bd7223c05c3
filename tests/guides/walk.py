"""A guide that is followed at the console, step by step, with pictures where it shows some."""

import re
from pathlib import Path

from playwright.sync_api import Locator, expect

from tests.browser.people import Person
from tests.guides.guide import Guide, pattern


class Walk:
    """Somebody who does what a guide says: whatever they press or read must stand in it.

    Args:
        album: Where pictures are kept; None takes none.
    """

    def __init__(self, guide: Guide, person: Person, album: Path | None) -> None:
        self.person = person
        self.page = person.page
        self._guide = guide
        self._album = album

    def open(self, room: str) -> None:
        """Go to a room of the console by the rail."""
        self._acts(room)
        rail = self.page.get_by_role("navigation", name="Main", exact=True)
        rail.get_by_role("link", name=re.compile(f"^{room}( \\d+ waiting)?$")).click()
        expect(self.page.get_by_role("heading", level=1, name=room)).to_be_visible()

    def press(self, name: str, *, within: Locator | None = None) -> None:
        """Press a button, or follow a link."""
        self._acts(name)
        place, called = within or self.page.get_by_role("main"), pattern(name)
        place.get_by_role("button", name=called).or_(place.get_by_role("link", name=called)).first.click()

    def fill(self, label: str, words: str, *, within: Locator | None = None) -> None:
        """Fill in a field."""
        self._acts(label)
        self._field(label, within).fill(words)

    def check(self, label: str, *, within: Locator | None = None) -> None:
        """Tick a box, or choose among several."""
        self._acts(label)
        self._field(label, within).check()

    def choose(self, label: str, option: str, *, within: Locator | None = None) -> None:
        """Choose from a list."""
        self._acts(label)
        self._acts(option)
        self._field(label, within).select_option(label=option)

    def dialog(self) -> Locator:
        """The dialog that has opened."""
        found = self.page.get_by_role("dialog").and_(self.page.locator("[open]"))
        expect(found).to_be_visible()
        return found

    def sees(self, words: str) -> None:
        """Read words on the page."""
        self._reads(words)
        expect(self.page.locator("main, dialog[open]").get_by_text(_within(words)).first).to_be_visible()

    def is_told(self, words: str) -> None:
        """Read the message about the last act."""
        self._reads(words)
        expect(self.page.locator("[data-toast]").filter(has_text=_within(words)).last).to_be_visible()

    def picture(self, step: str, *, top: Locator | None = None) -> None:
        """Take the guide's picture of this moment: the window, with `top` at its upper edge where there is one."""
        if self._album is None:
            return
        self.page.mouse.move(0, 0)
        if top is not None:
            top.evaluate("(found) => window.scrollTo(0, found.getBoundingClientRect().top + window.scrollY - 72)")
        expect(self.page.locator("[data-live-mark]").first).to_have_attribute("data-state", "live")
        self.page.evaluate("() => document.fonts.ready")
        self._album.mkdir(parents=True, exist_ok=True)
        name = f"{self._guide.role}-{step}.png"
        self.page.screenshot(path=self._album / name, animations="disabled", scale="css")

    def _field(self, label: str, within: Locator | None) -> Locator:
        words = pattern(label).pattern.removeprefix("^").removesuffix("$")
        called = re.compile(rf"^\s*{words}(\s|$)")  # with what is said of it
        return (within or self.page.get_by_role("main")).get_by_label(called).first

    def _acts(self, name: str) -> None:
        assert name in self._guide.acts, f"{self._guide.path.name} does not say **{name}**"

    def _reads(self, words: str) -> None:
        assert words in self._guide.words, f'{self._guide.path.name} does not say "{words}"'


def _within(words: str) -> re.Pattern[str]:
    return re.compile(pattern(words).pattern.removeprefix("^").removesuffix("$"))
