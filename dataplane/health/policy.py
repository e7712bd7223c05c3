"""The numbers that decide. Each can be set; the defaults keep the promise that a wedge is not ready within 30 s."""

from __future__ import annotations

from dataclasses import dataclass

HOUR_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How long what may take, in seconds unless the name says otherwise.

    Loading: `load_budget_seconds` is what a load may take; `load_silence_seconds` without any growth is a stuck one.

    Silence: with requests running, `ambiguous_seconds` without progress ask a canary, `ready_silence_seconds` take the
    engine out of service, and what its longest prompt (`longest_prompt_tokens`) takes at the slowest prefill rate that
    was measured, `prefill_margin` times, is when a wedge may be held for proven; never sooner than
    `kill_floor_seconds`, and after `kill_unmeasured_seconds` while no rate is known. One step of the engine
    (`step_tokens`) may raise the limit of readiness up to `ready_silence_max_seconds`.

    Canary: one token every `canary_interval_seconds` at most, each with its deadline; `canary_failures` in a row prove
    that an idle engine is wedged.

    Queue: more than `queue_limit` requests that wait, or a wait of `queue_wait_seconds` by the rate at which requests
    end, for `strain_seconds`; likewise more than `kv_limit` of the KV cache in use while requests are thrown out of it.

    Readiness comes back when nothing was wrong for `clear_seconds`; after `flips_per_hour` losses of it in an hour, for
    `flap_hold_seconds`. `kills_per_hour` bounds what liveness ends. `throttle_seconds` of a throttled GPU are a
    finding; `mirror_failures` in a row mean that the mirror is away. An application's XID stands for `xid_seconds`.
    """

    load_budget_seconds: float = 2700.0
    load_silence_seconds: float = 300.0
    ask_pause_seconds: float = 5.0
    ambiguous_seconds: float = 8.0
    ready_silence_seconds: float = 20.0
    ready_silence_max_seconds: float = 22.0
    kill_floor_seconds: float = 120.0
    kill_unmeasured_seconds: float = 600.0
    prefill_margin: float = 2.0
    longest_prompt_tokens: int = 32_768
    step_tokens: int = 8_192
    canary_interval_seconds: float = 10.0
    canary_deadline_seconds: float = 8.0
    canary_failures: int = 3
    canary_enabled: bool = True
    queue_limit: int = 100
    queue_wait_seconds: float = 30.0
    kv_limit: float = 0.98
    strain_seconds: float = 10.0
    clear_seconds: float = 15.0
    flips_per_hour: int = 4
    flap_hold_seconds: float = 600.0
    kills_per_hour: int = 2
    throttle_seconds: float = 60.0
    corrected_per_hour: int = 1000
    mirror_failures: int = 3
    xid_seconds: float = 600.0
