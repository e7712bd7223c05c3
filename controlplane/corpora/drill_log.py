"""How far a drill is, written down as it goes on: pages show it, and whoever takes it up goes on from there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from controlplane.corpora.models import RecoveryDrill
from controlplane.corpora.records import DrillState
from controlplane.corpora.telling import announce

# So often pages are told how far it is.
TOLD_EVERY_SECONDS: Final = 0.5


class CalledOff(Exception):
    """Somebody ended the drill meanwhile."""


class DrillLog:
    """The steps of one drill that runs. Each write finds out whether it still does.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, drill: RecoveryDrill, *, now: Callable[[], datetime], clock: Callable[[], float]) -> None:
        self._drill = drill
        self._now = now
        self._clock = clock
        self._told = clock()
        self._under_way: dict[str, Any] = {}
        self._since = self._told

    def is_done(self, name: str) -> bool:
        """Whether a step has ended."""
        return any(step["name"] == name and step["ended_at"] is not None for step in self._drill.steps)

    @contextmanager
    def step(self, name: str, *, is_counted: bool) -> Iterator[None]:
        """The step under way, begun or gone on with. Its seconds add up; it has ended when `end` was called.

        Args:
            is_counted: Whether its seconds are part of what a loss costs.
        Raises:
            CalledOff: nobody waits for it any more.
        """
        step = next((one for one in self._drill.steps if one["name"] == name), None)
        if step is None:
            step = {
                "name": name,
                "began_at": self._now().isoformat(),
                "ended_at": None,
                "seconds": 0.0,
                "done": 0,
                "of": None,
                "words": "",
            }
            self._drill.steps.append(step)
        self._under_way = step
        self.write(steps=self._drill.steps)
        self._since = self._clock() - step["seconds"]
        try:
            yield
        finally:
            # What a step says of itself, it has measured closer.
            step["seconds"] = step.pop("own_seconds", self.seconds)
            if is_counted:
                self._drill.seconds[name] = step["seconds"]
        self.write(steps=self._drill.steps, seconds=self._drill.seconds)

    @property
    def seconds(self) -> float:
        """Of the step under way, until now."""
        return self._clock() - self._since

    @property
    def began_at(self) -> datetime:
        """When the step under way was begun."""
        return datetime.fromisoformat(self._under_way["began_at"])

    def end(self, words: str) -> None:
        """Note that the step under way has ended, and what it found."""
        self._under_way["ended_at"], self._under_way["words"] = self._now().isoformat(), words

    def took(self, seconds: float) -> None:
        """Note how long the step under way took, in the place of all of its time."""
        self._under_way["own_seconds"] = seconds

    def tell(self, done: int, of: int) -> None:
        """Note how far the step under way is; now and then it is written down.

        Raises:
            CalledOff: as `write`.
        """
        self._under_way["done"], self._under_way["of"] = done, of
        if self._clock() - self._told >= TOLD_EVERY_SECONDS:
            self.write(steps=self._drill.steps)

    def write(self, **fields: Any) -> None:
        """Write what is known of the drill.

        Raises:
            CalledOff: it does not run any more; nothing was written.
        """
        self._told = self._clock()
        for name, value in fields.items():
            setattr(self._drill, name, value)
        if not RecoveryDrill.objects.filter(pk=self._drill.pk, state=DrillState.RUNNING).update(**fields):
            raise CalledOff
        announce(self._drill.corpus)
