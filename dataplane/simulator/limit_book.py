"""Limits set by admin calls: whom they bound, what is admitted under them, and what they have counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dataplane.simulator.limits import (
    CONCURRENCY,
    DIMENSIONS,
    RATES,
    AccountLimiter,
    Charge,
    Entry,
    Limit,
    LimitKind,
    Shortage,
    Standing,
)

ANYONE = "*"
_FIELDS = ("account", "model", "kind", "window_seconds", *DIMENSIONS)
_LONGEST_WINDOW_SECONDS = 86_400.0
_HIGHEST_LIMIT = 10**12


class BadLimit(Exception):
    """A limit that was asked for makes no sense; the message names the field and what would be right."""


class LimitReached(Exception):
    """A request is not admitted: why, and how its account stands."""

    def __init__(self, model: str, shortage: Shortage, standings: tuple[Standing, ...]) -> None:
        super().__init__(
            f"{shortage.asked} {shortage.dimension} for model {model!r} are more than is left of {shortage.limit}; "
            f"come again in {shortage.wait_seconds:.3f} s"
        )
        self.model = model
        self.shortage = shortage
        self.standings = standings


@dataclass(slots=True)
class Permit:
    """A request that was admitted, by as many limits as bound it. `standings` None: by none.

    Whoever was given it closes it, however the answer ends.
    """

    held: tuple[tuple[AccountLimiter, Entry], ...] = ()
    standings: tuple[Standing, ...] | None = None
    closed: bool = False

    def close(self, used: Charge, *, now: float) -> None:
        """Give back what was not used; once."""
        if self.closed:
            return
        self.closed = True
        for limiter, entry in self.held:
            limiter.finish(entry, used, now=now)


UNBOUND = Permit(closed=True)
"""The permit of a request that no limit bounds."""


class LimitBook:
    """All limits in force, and a limiter of each for every account that it bounds."""

    def __init__(self) -> None:
        self._limits: list[Limit] = []
        # By whom a limit names, what it names, and whom it bounds.
        self._limiters: dict[tuple[str, str | None, str], AccountLimiter] = {}

    def bounds(self, account: str) -> bool:
        """Say whether any request of this account may be limited."""
        return bool(self._limits) and any(limit.account in (ANYONE, account) for limit in self._limits)

    def add(self, value: Any, *, now: float) -> list[Limit]:
        """Add one limit or a list of them, all or none, and return them. One of the same account and model as an
        earlier one takes its place, and has counted nothing yet.

        Shape: {"account": "sk-main" or "*" for each account by itself, "model": "gpt-4o*" or null, "kind":
        token_bucket | fixed_window | sliding_window, "window_seconds": 60, "requests": 600, "tokens": 90000,
        "input_tokens": 60000, "output_tokens": 30000, "concurrency": 20}; at least one of the last five.

        Raises:
            BadLimit: naming the field that is wrong.
        """
        limits = [_read_limit(entry) for entry in (value if isinstance(value, list) else [value])]
        for limit in limits:
            self._drop([old for old in self._limits if (old.account, old.model) == (limit.account, limit.model)])
            self._limits.append(limit)
            if limit.account != ANYONE:
                self._limiter(limit, limit.account, now=now)
        return limits

    def clear(self) -> int:
        """Remove every limit and return how many there were; what is under way goes on."""
        count = len(self._limits)
        self._drop(list(self._limits))
        return count

    def list_limits(self) -> list[Limit]:
        """Return every limit, oldest first."""
        return list(self._limits)

    def admit(self, account: str, model: str, charge: Charge, *, now: float) -> Permit:
        """Admit a request under every limit that covers it, or under none.

        Raises:
            LimitReached: with the shortage that lasts longest.
        """
        limiters = self._covering(account, model, now=now)
        if not limiters:
            return UNBOUND
        shortages = [short for limiter in limiters if (short := limiter.shortage(charge, now=now)) is not None]
        if shortages:
            for limiter in limiters:
                limiter.refused += 1
            longest = max(shortages, key=lambda one: one.wait_seconds)
            raise LimitReached(model, longest, _tightest(limiters, now=now))
        held = tuple((limiter, limiter.take(charge, now=now)) for limiter in limiters)
        return Permit(held, _tightest(limiters, now=now))

    def standings(self, account: str, model: str, *, now: float) -> tuple[Standing, ...] | None:
        """How an account stands; None where nothing limits it."""
        limiters = self._covering(account, model, now=now)
        return _tightest(limiters, now=now) if limiters else None

    def books(self, *, now: float) -> list[tuple[str, dict[str, Any]]]:
        """Return what each limiter has counted, with its account."""
        return [(limiter.account, limiter.to_json(now=now)) for limiter in self._limiters.values()]

    def _covering(self, account: str, model: str, *, now: float) -> list[AccountLimiter]:
        return [self._limiter(limit, account, now=now) for limit in self._limits if limit.covers(account, model)]

    def _limiter(self, limit: Limit, account: str, *, now: float) -> AccountLimiter:
        key = (limit.account, limit.model, account)
        if key not in self._limiters:
            self._limiters[key] = AccountLimiter(limit, account, now=now)
        return self._limiters[key]

    def _drop(self, limits: list[Limit]) -> None:
        self._limits = [limit for limit in self._limits if limit not in limits]
        self._limiters = {key: limiter for key, limiter in self._limiters.items() if limiter.limit not in limits}


def _tightest(limiters: list[AccountLimiter], *, now: float) -> tuple[Standing, ...]:
    """Of each dimension the standing with the least left: a vendor's headers have room for one."""
    tightest: dict[str, Standing] = {}
    for limiter in limiters:
        for standing in limiter.standings(now=now):
            known = tightest.get(standing.dimension)
            if known is None or standing.left < known.left:
                tightest[standing.dimension] = standing
    return tuple(tightest[name] for name in RATES if name in tightest)


def _read_limit(entry: Any) -> Limit:
    if not isinstance(entry, Mapping):
        raise BadLimit(f"limit {entry!r} is not an object")
    for field in entry:
        if field not in _FIELDS:
            raise BadLimit(f"unknown field {field!r} in a limit; known: {', '.join(_FIELDS)}")
    limits = {name: _read_units(entry, name) for name in DIMENSIONS if entry.get(name) is not None}
    if not limits:
        raise BadLimit(f"a limit needs at least one of {', '.join(DIMENSIONS)}")
    return Limit(
        account=_read_account(entry.get("account")),
        model=_read_model(entry.get("model")),
        kind=_read_kind(entry.get("kind")),
        window_seconds=_read_window(entry.get("window_seconds")),
        limits=limits,
    )


def _read_account(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise BadLimit(f"field 'account' is {value!r}; expected an API key, or '*' for each account by itself")
    return value


def _read_model(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise BadLimit(f"field 'model' is {value!r}; expected a glob, or null for all models together")
    return value


def _read_kind(value: Any) -> LimitKind:
    try:
        return LimitKind(value)
    except ValueError as exc:
        known = ", ".join(kind.value for kind in LimitKind)
        raise BadLimit(f"field 'kind' is {value!r}; expected one of {known}") from exc


def _read_window(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LONGEST_WINDOW_SECONDS:
        raise BadLimit(
            f"field 'window_seconds' is {value!r}; expected a number above 0, at most {_LONGEST_WINDOW_SECONDS:g}"
        )
    return float(value)


def _read_units(entry: Mapping[str, Any], name: str) -> int:
    value = entry[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _HIGHEST_LIMIT:
        what = "requests at once" if name == CONCURRENCY else "units in one window"
        raise BadLimit(f"field {name!r} is {value!r}; expected a whole number of {what}, from 1 to {_HIGHEST_LIMIT}")
    return value
