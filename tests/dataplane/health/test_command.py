"""The two commands: what they are told, what they print, and a whole sidecar beside an engine that is not one."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import yaml

from dataplane.__main__ import main
from dataplane.health.command import BadArgument, ProbeSettings, add_commands, probe_settings
from dataplane.health.manifest import PodPlan, pod_yaml
from dataplane.health.measured import BadMeasurements, high_load, note_load, read_loads
from dataplane.health.mirror import mirror_check
from tests.dataplane.health.health_world import FakeEngine
from tests.ports import pick_port

ROOT = Path(__file__).resolve().parents[3]
AT = datetime(2026, 11, 27, tzinfo=UTC)


def settings(*flags: str, **variables: str) -> ProbeSettings:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(dest="command"))
    return probe_settings(parser.parse_args(["probe", *flags]), variables)


def test_engine_and_address_are_enough():
    """All else has a default; the engine's own size of a step is one of them."""
    found = settings("--engine", "vllm", "--url", "http://127.0.0.1:9000/")

    assert (found.engine, found.url, found.host, found.port) == ("vllm", "http://127.0.0.1:9000/", "127.0.0.1", 8085)
    assert (found.policy.step_tokens, settings("--engine", "llama.cpp").policy.step_tokens) == (8192, 2048)
    assert (found.mirror, found.measure_to, found.no_gpu) == ("", None, False)


def test_flags_win_over_variables_and_variables_over_defaults():
    """Every flag has its variable."""
    found = settings(
        "--engine",
        "tgi",
        "--canary-failures",
        "5",
        BALLAST_PROBE_ENGINE="vllm",
        BALLAST_PROBE_CANARY_FAILURES="4",
        BALLAST_PROBE_KV_LIMIT="0.9",
        BALLAST_PROBE_NO_GPU="true",
        BALLAST_PROBE_MEASURE_TO="/loads",
        BALLAST_PROBE_NO_CANARY="1",
        BALLAST_PROBE_READY_SILENCE="90",
    )

    assert (found.engine, found.policy.canary_failures, found.policy.kv_limit) == ("tgi", 5, 0.9)
    assert (found.no_gpu, found.measure_to, found.policy.canary_enabled) == (True, Path("/loads"), False)
    assert found.policy.ready_silence_max_seconds == 90


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ([], "--engine: '' is none of"),
        (["--engine", "vllm", "--url", "127.0.0.1:80"], "--url: '127.0.0.1:80' is not an address"),
        (["--engine", "vllm", "--longest-prompt", "1.5"], "--longest-prompt: '1.5' is not a whole number"),
        (["--engine", "vllm", "--look-every", "0"], "--look-every: 0 has to be above 0"),
        (["--engine", "vllm", "--look-every", "nan"], "--look-every: nan has to be above 0"),
        (["--engine", "vllm", "--port", "70000"], "--port: 70000 is outside"),
        (["--engine", "triton"], "--model: Triton does not say"),
    ],
)
def test_what_is_wrong_is_named(flags, names):
    """By its flag, with what it holds."""
    with pytest.raises(BadArgument, match=names.replace("(", r"\(")):
        settings(*flags)


def test_wrong_setting_is_one_line_and_status_1(capsys):
    """As of every other process of the data plane."""
    status = main(["probe", "--engine", "vllm"], {"BALLAST_PROBE_URL": "nonsense"})

    assert status == 1
    assert capsys.readouterr().err.startswith("ballast probe: --url: 'nonsense' is not an address")


def test_yaml_gives_a_start_what_it_measurably_takes(tmp_path, capsys):
    """p99 of the engine's own loads, with a margin, in whole periods; other engines' loads do not count."""
    path = tmp_path / "loads.jsonl"
    for seconds in (300.0, 310.0, 402.0):
        note_load(path, engine="vllm", model="m", seconds=seconds, ended_at=AT)
    note_load(path, engine="tgi", model="m", seconds=5000, ended_at=AT)

    status = main(["probe-yaml", "--engine", "vllm", "--measured", str(path), "--mirror", "https://mirror/w"], {})
    text = capsys.readouterr().out
    spec = yaml.safe_load(text)["spec"]
    engine, sidecar = spec["containers"][0], spec["initContainers"][0]

    assert status == 0
    assert text.startswith("# p99 of 3 measured loads is 402 s; times 1.5 that is 603 s,\n# 61 failures of 10 s.")
    assert engine["startupProbe"]["failureThreshold"] * engine["startupProbe"]["periodSeconds"] == 610
    assert {engine[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        "/startupz",
        "/readyz",
        "/livez",
    }
    assert spec["terminationGracePeriodSeconds"] > engine["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sidecar["restartPolicy"] == "Always"
    told = engine["lifecycle"]["postStart"]["exec"]["command"][-1]
    assert settings(*sidecar["command"][4:]).gpus in told
    mounts = {one["mountPath"]: one["name"] for one in engine["volumeMounts"] + sidecar["volumeMounts"]}
    assert set(mounts.values()) == {one["name"] for one in spec["volumes"]}
    assert sidecar["livenessProbe"]["httpGet"]["path"] == "/selfz"


def test_command_of_the_yaml_is_one_that_runs():
    """The sidecar's own arguments are read without complaint, its budget below kubelet's patience."""
    spec = yaml.safe_load(
        pod_yaml(
            PodPlan(
                engine="triton",
                engine_port=8000,
                probe_port=8085,
                load_seconds=20,
                loads=0,
                image="i",
                model="ensemble",
            )
        )
    )["spec"]
    command = spec["initContainers"][0]["command"]

    found = settings(*command[4:])

    assert command[:4] == ["python", "-m", "dataplane", "probe"]
    assert (found.host, found.model) == ("0.0.0.0", "ensemble")  # noqa: S104  # compared, not bound
    patience = spec["containers"][0]["startupProbe"]["failureThreshold"] * 10
    assert found.policy.load_budget_seconds < patience == 60


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--load-seconds", "0"], "--load-seconds: 0 has to be above 0"),
        (["--load-seconds", "60", "--margin", "0.5"], "--margin: 0.5 is below 1"),
        (["--measured", "/nowhere/loads"], "--measured: /nowhere/loads cannot be read"),
    ],
)
def test_yaml_of_nonsense_is_refused(capsys, flags, names):
    """One line, and nothing printed."""
    status = main(["probe-yaml", "--engine", "vllm", *flags], {})

    assert status == 1
    assert names in capsys.readouterr().err


def test_measured_loads_survive_a_line_that_was_cut_off(tmp_path):
    """The last line may be half; any other that is none is told by its number."""
    path = tmp_path / "deep" / "loads.jsonl"
    note_load(path, engine="vllm", model="m", seconds=12.3456, ended_at=AT)
    path.write_text(path.read_text() + '{"engine": "vl')

    assert read_loads(path, engine="vllm") == [12.346]
    path.write_text('nothing\n{"engine": "vllm", "seconds": 1}\n')
    with pytest.raises(BadMeasurements, match="line 1 is no measured load"):
        read_loads(path, engine="vllm")
    path.write_text('{"engine": "vllm", "seconds": 1}\n')
    with pytest.raises(BadMeasurements, match="no load of engine 'tgi'"):
        read_loads(path, engine="tgi")


def test_high_load_is_the_longest_of_few_and_the_99th_of_many():
    """By nearest rank: no load is invented."""
    assert high_load([3, 9, 5]) == 9
    assert high_load([float(number) for number in range(1, 201)]) == 198


@pytest.mark.parametrize(("status", "is_there"), [(200, True), (403, True), (404, True), (500, False), (503, False)])
async def test_mirror_is_there_when_it_answers(status, is_there):
    """A bucket that shows us nothing is there; one that errs is not."""
    check = mirror_check("https://mirror/w", transport=httpx.MockTransport(lambda _: httpx.Response(status)))

    assert (await check() == "") is is_there


async def test_mirror_may_be_a_path(tmp_path):
    """Of a file system that is mounted, or is not."""
    assert await mirror_check(str(tmp_path))() == ""
    assert await mirror_check(str(tmp_path / "gone"))() == f"{tmp_path}/gone is not there"


@contextmanager
def probing(*flags: str):
    process = subprocess.Popen([sys.executable, "-m", "dataplane", "probe", *flags], cwd=ROOT, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def until(url: str, status: int) -> str:
    """Ask until the answer has `status`, for a minute at most; return its text."""
    async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(60):
        while True:
            try:
                response = await http.get(url)
                if response.status_code == status:
                    return response.text
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


@pytest.mark.end_to_end
async def test_sidecar_beside_an_engine(tmp_path):
    """As a process: warm-up, readiness, the load measured, a wedge that comes and goes, and an end when it is told."""
    metrics = (Path(__file__).parent / "metrics" / "llama.cpp.txt").read_bytes()
    idle = metrics.replace(b"requests_processing 1", b"requests_processing 0").replace(
        b"requests_deferred 2", b"requests_deferred 0"
    )
    fake = FakeEngine(
        {
            "/health": (200, {"status": "ok"}),
            "/v1/models": (200, {"data": [{"id": "gemma"}]}),
            "/metrics": (200, idle),
            "/tokenize": (200, {"tokens": [1]}),
            "/v1/completions": (200, {"choices": [], "usage": {"prompt_tokens": 4}}),
        }
    )
    engine_port, port = pick_port(), pick_port()
    loads, base = tmp_path / "loads.jsonl", f"http://127.0.0.1:{port}"
    flags = ["--engine", "llama.cpp", "--url", f"http://127.0.0.1:{engine_port}", "--port", str(port), "--no-gpu"]
    flags += ["--look-every", "0.05", "--warm-up-tokens", "4", "--measure-to", str(loads)]
    flags += ["--canary-interval", "0.2", "--canary-deadline", "0.2", "--ready-silence", "0.5", "--clear", "0.2"]
    async with fake.served(engine_port):
        with probing(*flags) as process:
            ready = await until(f"{base}/readyz", 200)
            measured = json.loads(loads.read_text())
            fake.holds.add("/v1/completions")
            wedged = await until(f"{base}/readyz", 503)
            dead = await until(f"{base}/livez", 503)
            fake.holds.clear()
            await until(f"{base}/readyz", 200)
            alive = await until(f"{base}/livez", 200)
            metrics_text = await until(f"{base}/metrics", 200)

    assert ready == "yes: it serves\n"
    assert (measured["engine"], measured["model"]) == ("llama.cpp", "gemma")
    assert "canary_failed" in wedged
    assert "no: wedged: idle, and 3 canaries in a row failed" in dead
    assert alive.startswith("yes")
    assert "ballast_probe_kills_total 1.0" in metrics_text
    assert process.returncode == 0 or process.returncode == -signal.SIGTERM
