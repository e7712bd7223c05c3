"""How the places that a tier is promised are shared out among the workers of a fleet. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def allowance(reserved: int, demands: Mapping[str, int], *, worker: str) -> int:
    """How many of `reserved` places are this worker's: by what it has under way of the tier beside what others have.

    Workers that know the same share out exactly `reserved`. Each counts for one more than it has, so that one which has
    none yet is not left without. What is left over after rounding down goes to the largest remainders, then by name.

    Args:
        demands: Requests of the tier under way, by worker; `worker` among them.
    Source: Hamilton's method of apportionment.
    """
    total = sum(demands.values()) + len(demands)
    shares = {name: divmod(reserved * (demand + 1), total) for name, demand in demands.items()}
    left = reserved - sum(whole for whole, _ in shares.values())
    first = sorted(shares, key=lambda name: (-shares[name][1], name))[:left]
    return shares[worker][0] + (worker in first)
