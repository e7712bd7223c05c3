"""`probe` and `probe-yaml`: their arguments, and what they start."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from dataplane.health.engines import ENGINES
from dataplane.health.measured import BadMeasurements, high_load, note_load, read_loads
from dataplane.health.policy import HealthPolicy
from dataplane.health.sidecar import Pace
from dataplane.health.startup import Load

if TYPE_CHECKING:
    from dataplane.health.sidecar import Sidecar

VARIABLE_PREFIX: Final = "BALLAST_PROBE_"
IMAGE: Final = "ballast:latest"

log = logging.getLogger("ballast.health")


class BadArgument(Exception):
    """A flag, or the variable that stands for it, does not hold what it should; the message names it."""


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """One sidecar. `model` empty: the first that the engine lists. `mirror` is an http(s) address or a path that has to
    exist; empty: none. `api_key` is shown to the engine. `gpus` are the engine's: see `nvml.chosen_gpus`; empty:
    all that are seen.
    """

    engine: str
    url: str
    metrics_url: str
    model: str
    api_key: str
    host: str
    port: int
    mirror: str
    load_log: Path | None
    measure_to: Path | None
    no_gpu: bool
    gpus: str
    policy: HealthPolicy
    pace: Pace


# Flags of numbers, by the field that each sets; their variables are BALLAST_PROBE_ and the flag in capitals.
NUMBERS: Final[dict[str, tuple[type[HealthPolicy] | type[Pace], str]]] = {
    "--load-budget": (HealthPolicy, "load_budget_seconds"),
    "--load-silence": (HealthPolicy, "load_silence_seconds"),
    "--ready-silence": (HealthPolicy, "ready_silence_seconds"),
    "--ready-silence-max": (HealthPolicy, "ready_silence_max_seconds"),
    "--kill-floor": (HealthPolicy, "kill_floor_seconds"),
    "--kill-unmeasured": (HealthPolicy, "kill_unmeasured_seconds"),
    "--longest-prompt": (HealthPolicy, "longest_prompt_tokens"),
    "--step-tokens": (HealthPolicy, "step_tokens"),
    "--canary-interval": (HealthPolicy, "canary_interval_seconds"),
    "--canary-deadline": (HealthPolicy, "canary_deadline_seconds"),
    "--canary-failures": (HealthPolicy, "canary_failures"),
    "--queue-limit": (HealthPolicy, "queue_limit"),
    "--queue-wait": (HealthPolicy, "queue_wait_seconds"),
    "--kv-limit": (HealthPolicy, "kv_limit"),
    "--clear": (HealthPolicy, "clear_seconds"),
    "--flips-per-hour": (HealthPolicy, "flips_per_hour"),
    "--kills-per-hour": (HealthPolicy, "kills_per_hour"),
    "--look-every": (Pace, "look_seconds"),
    "--warm-up-tokens": (Pace, "warm_up_tokens"),
    "--warm-up-deadline": (Pace, "warm_up_deadline_seconds"),
}


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands' arguments."""
    probe = commands.add_parser(
        "probe",
        help="answers Kubernetes' probes about the model server beside it",
        description="Each flag may be given as a variable: BALLAST_PROBE_READY_SILENCE for --ready-silence.",
    )
    probe.add_argument("--engine", choices=sorted(ENGINES), help="which model server it is")
    probe.add_argument("--url", help="where it answers, such as http://127.0.0.1:8000")
    probe.add_argument("--metrics-url", help="where its metrics are, if not there; Triton's are on port 8002")
    probe.add_argument("--model", help="the model that has to be loaded [the first that it lists]")
    probe.add_argument("--api-key", help="what it wants to be shown; better as a variable")
    probe.add_argument("--bind", help="the address to listen on [127.0.0.1]; 0.0.0.0 in a pod, where kubelet asks")
    probe.add_argument("--port", help="the port to listen on [8085]")
    probe.add_argument("--mirror", help="where weights come from at a restart: an address, or a path")
    probe.add_argument("--load-log", help="the engine's log; while it grows, a load gets on")
    probe.add_argument("--measure-to", help="the file to append how long loads took to")
    probe.add_argument("--gpus", help="the engine's GPUs: UUIDs, or a file of them [all that are seen]")
    probe.add_argument("--no-gpu", action="store_true", default=None, help="do not ask NVML")
    probe.add_argument("--no-canary", action="store_true", default=None, help="never ask for a token once it serves")
    for flag, (owner, name) in NUMBERS.items():
        default = next(field.default for field in fields(owner) if field.name == name)
        probe.add_argument(flag, help=f"{name.replace('_', ' ')} [{default:g}]")
    made = commands.add_parser("probe-yaml", help="prints probes and sidecar for a pod, from measured loads")
    made.add_argument("--engine", choices=sorted(ENGINES), required=True)
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--measured", type=Path, help="the file that --measure-to wrote")
    source.add_argument("--load-seconds", type=float, help="how long a load takes at worst")
    made.add_argument("--margin", type=float, default=1.5, help="what that is multiplied by [1.5]")
    made.add_argument("--engine-port", type=int, default=8000)
    made.add_argument("--probe-port", type=int, default=8085)
    made.add_argument("--image", default=IMAGE)
    made.add_argument("--model", default="")
    made.add_argument("--mirror", default="")
    made.add_argument("--answer-seconds", type=int, default=120, help="what the longest answer may take [120]")


def probe_settings(arguments: argparse.Namespace, variables: Mapping[str, str]) -> ProbeSettings:
    """Return the settings: flags first, then variables, then defaults.

    Raises:
        BadArgument: naming the first that is wrong.
    """

    def given(flag: str) -> str:
        value = getattr(arguments, flag.replace("-", "_"), None)
        variable = VARIABLE_PREFIX + flag.replace("-", "_").upper()
        return (variables.get(variable, "") if value is None else str(value)).strip()

    def number(flag: str, kind: type[int] | type[float]) -> float | int | None:
        text = given(flag)
        if not text:
            return None
        try:
            value = kind(text)
        except ValueError:
            raise BadArgument(f"--{flag}: {text!r} is not a {'whole ' if kind is int else ''}number") from None
        if not 0 < value < 1e9:
            raise BadArgument(f"--{flag}: {text} has to be above 0")
        return value

    engine = given("engine")
    if engine not in ENGINES:
        raise BadArgument(f"--engine: {engine!r} is none of {', '.join(sorted(ENGINES))}")
    url = _address("url", given("url") or "http://127.0.0.1:8000")
    metrics_url = _address("metrics-url", given("metrics-url")) if given("metrics-url") else ""
    model = given("model")
    if engine == "triton" and not model:
        raise BadArgument("--model: Triton does not say which of its models matters; name it")
    step = ENGINES[engine].step_tokens
    policy, pace = HealthPolicy(), Pace()
    if step is not None:
        policy = replace(policy, step_tokens=step)
    for flag, (owner, name) in NUMBERS.items():
        kind = int if isinstance(getattr(policy if owner is HealthPolicy else pace, name), int) else float
        value = number(flag.removeprefix("--"), kind)
        if value is None:
            continue
        if owner is HealthPolicy:
            policy = replace(policy, **{name: cast("Any", value)})
        else:
            pace = replace(pace, **{name: cast("Any", value)})
    if policy.ready_silence_max_seconds < policy.ready_silence_seconds:
        policy = replace(policy, ready_silence_max_seconds=policy.ready_silence_seconds)
    if given("no-canary").lower() in {"true", "1", "yes"}:
        policy = replace(policy, canary_enabled=False)
    port = int(number("port", int) or 8085)
    if port > 65535:
        raise BadArgument(f"--port: {port} is outside 1..65535")
    return ProbeSettings(
        engine=engine,
        url=url,
        metrics_url=metrics_url,
        model=model,
        api_key=given("api-key"),
        host=given("bind") or "127.0.0.1",
        port=port,
        mirror=given("mirror"),
        load_log=Path(given("load-log")) if given("load-log") else None,
        measure_to=Path(given("measure-to")) if given("measure-to") else None,
        no_gpu=given("no-gpu").lower() in {"true", "1", "yes"},
        gpus=given("gpus"),
        policy=policy,
        pace=pace,
    )


def run_command(arguments: argparse.Namespace, variables: Mapping[str, str]) -> None:
    """Run one of the two.

    Raises:
        BadArgument: a setting is wrong.
        OSError: the address cannot be listened on.
    """
    if arguments.command == "probe-yaml":
        sys.stdout.write(_yaml(arguments))
    else:
        serve(probe_settings(arguments, variables))


def serve(settings: ProbeSettings) -> None:
    """Serve the sidecar until SIGTERM or SIGINT."""
    import uvicorn

    from dataplane.health.face import Face
    from dataplane.supervisor import bind

    sidecar = build(settings)
    face = Face(sidecar, policy=settings.policy, engine=settings.engine)
    config = uvicorn.Config(
        face,
        lifespan="on",
        http="httptools",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    listener = bind(settings.host, settings.port)
    log.info("probing %s at %s; listening on %s:%d", settings.engine, settings.url, settings.host, settings.port)
    uvicorn.Server(config).run(sockets=[listener])


def build(settings: ProbeSettings) -> Sidecar:
    """Return the sidecar of these settings, not started."""
    from dataplane.health.client import EngineClient
    from dataplane.health.mirror import mirror_check
    from dataplane.health.nvml import NvmlReader, chosen_gpus, load_nvml
    from dataplane.health.sidecar import Sidecar

    engine = ENGINES[settings.engine]
    client = EngineClient(
        engine,
        url=settings.url,
        metrics_url=settings.metrics_url,
        model=settings.model,
        api_key=settings.api_key,
        scrape_seconds=min(4.0, settings.pace.look_seconds * 2),
    )
    mirror: Callable[[], Awaitable[str]] | None = mirror_check(settings.mirror) if settings.mirror else None
    load_log, measure_to = settings.load_log, settings.measure_to
    chosen = chosen_gpus(settings.gpus) if settings.gpus else None

    def loaded(load: Load) -> None:
        if measure_to is None:
            return
        try:
            note_load(
                measure_to,
                engine=settings.engine,
                model=client.model,
                seconds=load.seconds,
                ended_at=datetime.now(UTC),
            )
        except OSError as exc:
            log.warning("how long the load took cannot be written to %s: %s", measure_to, exc.strerror)

    return Sidecar(
        client,
        policy=settings.policy,
        pace=settings.pace,
        has_tokenizer=bool(engine.tokenize),
        read_gpus=None if settings.no_gpu else NvmlReader(load_nvml(), chosen=chosen).read,
        mirror=mirror,
        log_size=None if load_log is None else lambda: load_log.stat().st_size,
        loaded=loaded,
    )


def _yaml(arguments: argparse.Namespace) -> str:
    from dataplane.health.manifest import PodPlan, pod_yaml

    if arguments.measured is not None:
        try:
            loads = read_loads(arguments.measured, engine=arguments.engine)
        except BadMeasurements as exc:
            raise BadArgument(f"--measured: {exc}") from exc
        seconds = high_load(loads)
    else:
        loads, seconds = [], arguments.load_seconds
        if not 0 < seconds < 1e6:
            raise BadArgument(f"--load-seconds: {seconds:g} has to be above 0")
    if arguments.margin < 1:
        raise BadArgument(f"--margin: {arguments.margin:g} is below 1, so that ordinary loads would be ended")
    return pod_yaml(
        PodPlan(
            engine=arguments.engine,
            engine_port=arguments.engine_port,
            probe_port=arguments.probe_port,
            load_seconds=seconds,
            loads=len(loads),
            image=arguments.image,
            margin=arguments.margin,
            mirror=arguments.mirror,
            model=arguments.model,
            answer_seconds=arguments.answer_seconds,
        )
    )


def _address(flag: str, text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise BadArgument(f"--{flag}: {text!r} is not an address such as http://127.0.0.1:8000")
    return text
