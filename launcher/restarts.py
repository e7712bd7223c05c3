"""How often a process that dies is started again before the whole copy gives up."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """At most `max_restarts` within `window_seconds`, after waits that double from `base_seconds` to `cap_seconds`.

    Five in five minutes: a database hiccup or one bad request does not end the night, and a process that cannot run
    does not spin for ever.
    """

    max_restarts: int = 5
    window_seconds: float = 300.0
    base_seconds: float = 0.5
    cap_seconds: float = 8.0


@dataclass(slots=True)
class RestartHistory:
    """When one process died lately, in monotonic seconds."""

    policy: RestartPolicy
    deaths: list[float] = field(default_factory=list)

    def note_death(self, *, now: float) -> float | None:
        """Count a death at `now` and return the seconds to wait before the next start, or None to give up."""
        self.deaths = [at for at in self.deaths if now - at < self.policy.window_seconds] + [now]
        if len(self.deaths) > self.policy.max_restarts:
            return None
        return min(self.policy.cap_seconds, self.policy.base_seconds * 2.0 ** (len(self.deaths) - 1))
