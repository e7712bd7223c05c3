"""People at the console: each in a browser of their own, which notes whatever a page does that it must not."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request, StorageState, expect

from tests.end_to_end.stack import DEMO_PASSWORD, Stack

LOAD_SECONDS = 60
CSP_WATCH = """
    document.addEventListener("securitypolicyviolation", (event) => {
        console.error(`CSP ${event.violatedDirective} refused ${event.blockedURI} in ${event.sourceFile}`);
    });
"""
# Good news leaves its page by itself after eight seconds: on a machine that pauses, before anybody has read it.
LASTING_NEWS = """
    const leave = Element.prototype.remove;
    Element.prototype.remove = function () { if (!this.matches(".toast.tone-good")) leave.call(this); };
"""
NEW_PASSWORD = "quiet-harbour-1947"


@dataclass(frozen=True)
class Wallet:
    """What people keep from one test to the next: the cookies of who has signed in, and passwords that were changed."""

    sessions: dict[str, StorageState] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)


class House:
    """A running Ballast and a browser. `photographs`: where pictures of it are kept."""

    def __init__(self, stack: Stack, chromium: Browser, wallet: Wallet, photographs: Path) -> None:
        self.stack = stack
        self.photographs = photographs
        self._chromium = chromium
        self._sessions = wallet.sessions
        self.passwords = wallet.passwords

    def let_in(self, username: str, *, size: tuple[int, int], theme: str = "light") -> "Person":
        """A person who is signed in; they fill in the form once, and keep their session from then on."""
        if username not in self._sessions:
            visitor = self.open_door(size=size)
            visitor.sign_in(username)
            self._sessions[username] = visitor.context.storage_state()
            assert visitor.leave() == []
        return Person(self, self._context(size, theme, self._sessions[username]), username)

    def open_door(self, *, size: tuple[int, int], theme: str = "light") -> "Person":
        """Somebody who is not signed in."""
        return Person(self, self._context(size, theme, None), "")

    def let_in_again(self, username: str) -> None:
        """What an admin does at the server for somebody who is locked out: another password, and no second factor."""
        self.stack.manage("reset_sign_in", username, "--actor", "admin", stdin=NEW_PASSWORD)
        self.passwords[username] = NEW_PASSWORD
        self._sessions.pop(username, None)

    def _context(self, size: tuple[int, int], theme: str, session: StorageState | None) -> BrowserContext:
        width, height = size
        context = self._chromium.new_context(
            base_url=self.stack.console_url,
            viewport={"width": width, "height": height},
            color_scheme=theme,  # type: ignore[arg-type]
            reduced_motion="reduce",
            has_touch=width < 900,
            storage_state=session,
            timezone_id="Europe/Berlin",
            locale="en-GB",
        )
        context.set_default_timeout(LOAD_SECONDS * 1000)
        context.add_init_script(CSP_WATCH)
        context.add_init_script(LASTING_NEWS)
        return context


class Person:
    """One person and their browser."""

    def __init__(self, house: House, context: BrowserContext, username: str) -> None:
        self.house = house
        self.context = context
        self.username = username
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"{self.page.url}: {error}"))
        self.page.on("request", self._watch)
        self._expected: list[re.Pattern[str]] = []

    # --- what must not happen ---
    def _hear(self, message: ConsoleMessage) -> None:
        said = f"{self.page.url}: {message.text}"
        if message.type == "error" and not any(pattern.search(said) for pattern in self._expected):
            self.complaints.append(said)

    def _watch(self, request: Request) -> None:
        parts = urlsplit(request.url)
        home = urlsplit(self.house.stack.console_url).netloc
        if parts.scheme in {"http", "https", "ws", "wss"} and parts.netloc != home:
            self.complaints.append(f"{self.page.url}: asked another host: {request.url}")

    def expects(self, pattern: str) -> None:
        """Say that an error in the browser's console belongs to the story, such as a refused sign-in."""
        self._expected.append(re.compile(pattern))

    def say(self) -> list[str]:
        """Hand over what the browser has complained about since this was asked last."""
        complaints, self.complaints = self.complaints, []
        return complaints

    def leave(self) -> list[str]:
        """Close the browser and hand over what it complained about."""
        self.context.close()
        return self.say()

    # --- getting about ---
    def sign_in(self, username: str) -> None:
        """Fill in the sign-in form and arrive on the front page."""
        self.username = username
        self.go("/accounts/login/")
        self.page.get_by_label("Username").fill(username)
        self.page.get_by_label("Password").fill(self.house.passwords.get(username, DEMO_PASSWORD))
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("heading", name="Overview")).to_be_visible()

    def go(self, path: str) -> None:
        """Open a page, which must be there."""
        answer = self.page.goto(path)
        assert answer is not None, path
        assert answer.status < 400, f"{self.username} at {path}: {answer.status}"

    def press(self, name: str | re.Pattern[str]) -> None:
        """Press what is called so: a button, or a link that looks like one."""
        self.act(name).click()

    def act(self, name: str | re.Pattern[str]) -> Locator:
        """The button or link of that name, outside the dialogs that are closed."""
        exact = isinstance(name, str)
        main = self.page.get_by_role("main")
        return main.get_by_role("button", name=name, exact=exact).or_(main.get_by_role("link", name=name, exact=exact))

    def dialog(self, title: str | re.Pattern[str]) -> Locator:
        """The dialog of that title, which must have opened."""
        found = self.page.get_by_role("dialog", name=title)
        expect(found).to_be_visible()
        return found

    def is_told(self, words: str | re.Pattern[str]) -> None:
        """See a message about the last act."""
        expect(self.page.locator("[data-toast]").filter(has_text=words)).to_be_visible()

    def sees(self, words: str | re.Pattern[str]) -> None:
        """See words somewhere in the page."""
        expect(self.page.get_by_role("main").get_by_text(words).first).to_be_visible()

    def turn(self, size: tuple[int, int], theme: str) -> None:
        """See the page in a window of that size, in that theme, as their system would change them."""
        turn(self.page, size, theme)

    def photograph(self, name: str) -> Path:
        """Keep a picture of the whole page."""
        path = self.house.photographs / f"{name}.png"
        self.page.screenshot(path=path, full_page=True)
        return path

    def until(self, condition: Callable[[], bool], what: str, *, seconds: float = 60) -> None:
        """Wait until something outside the browser holds; errors as `Stack.wait_for`."""
        self.house.stack.wait_for(condition, what, seconds=seconds)


def turn(page: Page, size: tuple[int, int], theme: str) -> None:
    """Change a page's window and theme, and wait until no colour is on its way any more."""
    width, height = size
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    page.wait_for_function(
        "(theme) => document.documentElement.dataset.bsTheme === theme && document.getAnimations().length === 0",
        arg=theme,
    )
