"""The probes and the sidecar as YAML for a pod, computed from how long loads take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import yaml

STARTUP_PERIOD_SECONDS: Final = 10
# kubelet's own defaults are one second and three failures; answers come from memory, so a second is plenty.
READY: Final = {"periodSeconds": 5, "timeoutSeconds": 1, "failureThreshold": 1}
LIVE: Final = {"periodSeconds": 10, "timeoutSeconds": 1, "failureThreshold": 3}
SELF: Final = {"periodSeconds": 10, "timeoutSeconds": 2, "failureThreshold": 6}
LEAST_SECONDS: Final = 60.0
# Where the engine's container tells the sidecar which GPUs it was given.
SHARED: Final = "/run/ballast"
TELL_GPUS: Final = ["sh", "-c", f"nvidia-smi -L > {SHARED}/gpus || true"]


@dataclass(frozen=True, slots=True)
class PodPlan:
    """What the YAML is made of. `load_seconds` is a high load; `margin` is what it is multiplied by.

    `drain_seconds` is how long preStop waits, so that endpoints are told before the engine is; `answer_seconds` is what
    the longest answer may still take after that.
    """

    engine: str
    engine_port: int
    probe_port: int
    load_seconds: float
    loads: int
    image: str
    margin: float = 1.5
    mirror: str = ""
    model: str = ""
    drain_seconds: int = 15
    answer_seconds: int = 120

    @property
    def startup_seconds(self) -> float:
        """How long a start may take until it is held for failed."""
        return max(LEAST_SECONDS, self.load_seconds * self.margin)

    @property
    def startup_failures(self) -> int:
        """failureThreshold of the startup probe."""
        return math.ceil(self.startup_seconds / STARTUP_PERIOD_SECONDS)


def pod_yaml(plan: PodPlan) -> str:
    """Return the part of a pod's `spec` that has to do with probes, as YAML.

    The probes are the engine container's, so that what they end is the engine; they ask the sidecar's port, which is
    the pod's own.
    """
    command = ["python", "-m", "dataplane", "probe", "--engine", plan.engine]
    command += ["--url", f"http://127.0.0.1:{plan.engine_port}", "--bind", "0.0.0.0", "--port", str(plan.probe_port)]  # noqa: S104  # kubelet asks from outside of the pod
    # Beyond it kubelet ends the start anyway; a little before, /startupz says what is wrong with it.
    command += ["--load-budget", str(max(30, math.floor(plan.startup_seconds * 0.9)))]
    command += ["--measure-to", "/var/lib/ballast/loads.jsonl", "--gpus", f"{SHARED}/gpus"]
    if plan.model:
        command += ["--model", plan.model]
    if plan.mirror:
        command += ["--mirror", plan.mirror]
    spec: dict[str, Any] = {
        "terminationGracePeriodSeconds": plan.drain_seconds + plan.answer_seconds,
        "containers": [
            {
                "name": "engine",
                "startupProbe": {
                    **_get("/startupz", plan.probe_port),
                    "periodSeconds": STARTUP_PERIOD_SECONDS,
                    "timeoutSeconds": 1,
                    "failureThreshold": plan.startup_failures,
                },
                "readinessProbe": {**_get("/readyz", plan.probe_port), **READY},
                "livenessProbe": {**_get("/livez", plan.probe_port), **LIVE},
                "lifecycle": {
                    "postStart": {"exec": {"command": TELL_GPUS}},
                    "preStop": {"sleep": {"seconds": plan.drain_seconds}},
                },
                "volumeMounts": [{"name": "ballast-shared", "mountPath": SHARED}],
            }
        ],
        # A sidecar in Kubernetes' sense (1.29): it starts before the engine, stops after it, and is restarted alone.
        "initContainers": [
            {
                "name": "ballast-probe",
                "image": plan.image,
                "restartPolicy": "Always",
                "command": command,
                "ports": [{"name": "probe", "containerPort": plan.probe_port}],
                "env": [
                    # All GPUs of the node are seen, and none is taken; which are the engine's, its container tells.
                    {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"},
                    {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "utility"},
                ],
                "livenessProbe": {**_get("/selfz", plan.probe_port), **SELF},
                "resources": {"requests": {"cpu": "20m", "memory": "96Mi"}, "limits": {"memory": "192Mi"}},
                "volumeMounts": [
                    {"name": "ballast-loads", "mountPath": "/var/lib/ballast"},
                    {"name": "ballast-shared", "mountPath": SHARED, "readOnly": True},
                ],
            }
        ],
        # On the node, so that loads of pods that are gone are there for the next computation.
        "volumes": [
            {"name": "ballast-shared", "emptyDir": {}},
            {"name": "ballast-loads", "hostPath": {"path": "/var/lib/ballast/loads", "type": "DirectoryOrCreate"}},
        ],
    }
    measured = f"p99 of {plan.loads} measured loads" if plan.loads else "a load, as it was given,"
    head = (
        f"# {measured} is {plan.load_seconds:.0f} s; times {plan.margin:g} that is {plan.startup_seconds:.0f} s,\n"
        f"# {plan.startup_failures} failures of {STARTUP_PERIOD_SECONDS} s. Merge this into the pod's spec.\n"
    )
    return head + yaml.safe_dump({"spec": spec}, sort_keys=False, width=120)


def _get(path: str, port: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": port}}
