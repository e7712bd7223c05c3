"""One whole Ballast, one Chromium, and people who are signed in: what every walk through the console starts from."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, expect, sync_playwright

from launcher.chromium import find_or_install_chromium
from tests.browser.people import House, Person, Wallet
from tests.end_to_end.stack import Stack, make_data_dir

# Chromium draws the lists below its address bar as pages of their own, two in every window, seen by nobody here.
# Of several lists of features the last counts, so those of Playwright's that matter to us are said again.
UNUSED = (
    "WebUIOmniboxPopup",
    "WebUIOmniboxAimPopup",
    "WebUIOmniboxFullPopup",
    "PreloadTopChromeWebUI",
    "AimEnabled",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsUpgrades",
    "HttpsFirstBalancedModeAutoEnable",
    "MediaRouter",
    "NetworkTimeServiceQuerying",
    "OptimizationHints",
    "PaintHolding",
    "PreconnectToSearch",
)
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    f"--disable-features={','.join(UNUSED)}",
)
EXPECT_SECONDS = 60
WIDE, PHONE = (1280, 800), (390, 844)
PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "var" / "photographs"
SIZES = {"wide": WIDE, "phone": PHONE}
REPLAY_ONCE = """
from controlplane.rollouts.models import Canary
from controlplane.verdicts.replay import run_pairs
run_pairs(Canary.objects.running().get().pk, range(1, 3))
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Console, ingest, agent, two gateway processes, a runner of jobs, the simulator and the embedder, with the demo's
    data and collected files.
    """
    directory = make_data_dir()
    stack = Stack(
        directory,
        processes=("simulator", "embedder", "console", "ingest", "agent", "gateway", "jobs"),
        gateway_processes=2,
    )
    try:
        stack.manage("collectstatic", "--noinput")
        with stack:
            stack.wait_ready()
            _replay_once(stack)
            yield stack
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _replay_once(stack: Stack) -> None:
    """Have the running canary's versions asked one held-out query, as workers would."""
    stack.manage("shell", "-c", REPLAY_ONCE)


@pytest.fixture(scope="session")
def wallet() -> Wallet:
    """Who has signed in so far."""
    return Wallet()


class Kept:
    """Playwright's driver and a headless Chromium, from the first test that needs them to the last of its directory:
    to start them takes longer than most tests with them.
    """

    def __init__(self) -> None:
        self._driver: Playwright | None = None
        self._browser: Browser | None = None

    def browser(self) -> Browser:
        """The Chromium, which is started if need be; another one if it has died."""
        if self._browser is None or not self._browser.is_connected():
            self.end()
            program = find_or_install_chromium(os.environ)
            expect.set_options(timeout=EXPECT_SECONDS * 1000)
            self._driver = sync_playwright().start()
            self._browser = self._driver.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        return self._browser

    def end(self) -> None:
        """End both, if they were started."""
        if self._browser is not None:
            self._browser.close()
        if self._driver is not None:
            self._driver.stop()
        self._browser = self._driver = None


KEPT = pytest.StashKey[Kept]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """End the Chromium before a test of another directory: while it lives, its driver's event loop counts as running,
    and no asyncio test could run.
    """
    try:
        return (yield)
    finally:
        if nextitem is None or nextitem.path.parent != item.path.parent:
            item.config.stash.setdefault(KEPT, Kept()).end()


@pytest.fixture(scope="module")
def chromium(pytestconfig: pytest.Config) -> Browser:
    """A headless Chromium, see `Kept`."""
    return pytestconfig.stash.setdefault(KEPT, Kept()).browser()


@pytest.fixture(scope="module")
def house(stack: Stack, chromium: Browser, wallet: Wallet) -> House:
    """The running Ballast, into which people walk."""
    return House(stack, chromium, wallet, PHOTOGRAPHS)


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    """The window: once a desk's, once a phone's."""
    found: tuple[int, int] = request.param
    return found


@pytest.fixture
def enter(house: House) -> Iterator["Enter"]:
    """Let a person in for one test; at its end their browser must have had nothing to complain about."""
    entered = Enter(house)
    yield entered
    entered.leave()


class Enter:
    """Calls bring people in; `leave` shows them out and fails if a page of theirs went wrong."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._people: list[Person] = []

    def __call__(self, username: str, *, size: tuple[int, int] = WIDE, theme: str = "light") -> Person:
        """`username` in a browser of their own, signed in."""
        person = self._house.let_in(username, size=size, theme=theme)
        self._people.append(person)
        return person

    def leave(self) -> None:
        """Close every browser, then say what went wrong in any of them."""
        complaints = [complaint for person in self._people for complaint in person.leave()]
        assert complaints == []
