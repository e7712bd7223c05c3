"""The manifests: every process is there, told what it needs and no more, probed where it answers, and stopped in
time.
"""

from __future__ import annotations

import re

import pytest
from honcho.environ import parse_procfile

from controlplane.celery import app
from dataplane.gateway import METHODS
from dataplane.keeper import STOP_SECONDS
from dataplane.settings import GatewaySettings
from dataplane.supervisor import STOP_MARGIN_SECONDS
from dataplane.vitals import LIVE, READY, STARTED
from tests.deploy.manifests import KUBERNETES, OVERLAYS, PROJECT, containers, of_kind, overlay, pods, render

PROCFILE = parse_procfile((PROJECT / "Procfile").read_text()).processes
DEMO_ONLY = {"simulator", "embedder", "engine", "engine-probe", "traffic"}
PROCESSES = sorted(set(PROCFILE) - DEMO_ONLY)
# Which pod a process is in, where that is not one of its own.
POD_OF = {"agent": "gateway", "shadow": "gateway"}
# Variables that no manifest sets, and why.
LEFT_OUT = {
    "BALLAST_SIMULATOR_PORT": "the demo's",
    "BALLAST_EMBEDDER_PORT": "the demo's",
    "BALLAST_DEMO_ENGINE": "the demo's",
    "BALLAST_ENGINE_PORT": "the demo's",
    "BALLAST_ENGINE_PROBE_PORT": "the demo's",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "one endpoint is enough, and the rest has good defaults",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "as above",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "as above",
    "OTEL_TRACES_SAMPLER": "as above",
    "OTEL_SERVICE_NAME": "as above",
    "OTEL_BSP_MAX_QUEUE_SIZE": "as above",
    "OTEL_SDK_DISABLED": "as above",
    "OTEL_TRACES_EXPORTER": "as above",
    "BALLAST_NATIVE": "the image has a build, and requires it",
    "BALLAST_OFFLINE": "of make check",
    "BALLAST_RELEASE_FILE": "under the data directory, which the containers of a gateway's pod share",
    "BALLAST_SHADOW_SOCKET": "as above",
    "BALLAST_SPOOL_DIR": "as above",
    "BALLAST_STATIC_DIR": "the image has the files, and says where",
    "BALLAST_NEW_PASSWORD": "typed by a person who runs create_admin",
    "BALLAST_TEST_DATABASE_URL": "the tests'",
    "BALLAST_TEST_REDIS_URL": "the tests'",
    "BALLAST_CHROMIUM": "the tests'",
    "BALLAST_RABBITMQ": "the tests'",
    "BALLAST_PROMTOOL": "as above",
}
# Who is given what: a secret, and the components whose pods may see it. Nobody else's may.
SIGNERS = {"console", "worker", "work", "indexer"}
DJANGO = {
    "console", "worker", "work", "urgent", "beat", "ingest", "capture", "indexer", "migrate", "clear-sessions",
    "verify-audit",
}  # fmt: skip
SECRETS = {
    "ballast-signing-key": SIGNERS,
    "ballast-providers": {"gateway"},
    "ballast-gateway-database": {"gateway"},
    "ballast-cursor-keys": {"gateway", "jobs"},
    "ballast-payload-keys": {"console", "worker", "work"},
    "ballast-console": DJANGO,
    "ballast-agent-token": DJANGO | {"gateway"},
    "ballast-database": DJANGO | {"jobs"},
    "ballast-redis": DJANGO | {"gateway"},
    "ballast-broker": DJANGO | {"gateway", "jobs"},
    "ballast-object-store": {"console", "worker", "work"},
    "ballast-qdrant": {"console", "gateway", "indexer", "worker", "work"},
    "ballast-sources": {"capture", "worker", "work"},
    "ballast-oidc": {"console"},
    "ballast-mail": {"console", "worker", "work", "urgent"},
}
each_overlay = pytest.mark.parametrize("name", OVERLAYS)


@each_overlay
@pytest.mark.parametrize("process", PROCESSES)
def test_every_process_of_the_procfile_runs_somewhere(name, process):
    """With the Procfile's own words, up to where it listens and what it is called."""
    pod = pods(overlay(name))[POD_OF.get(process, process)]
    [container] = [one for one in pod["spec"]["containers"] if one["name"] == process]

    command = [word for word in container["command"] if word != "keep"]
    asked = PROCFILE[process].replace("$BALLAST_HOST_NAME", "$(BALLAST_HOST_NAME)").split()
    assert command[: len(asked)] == asked or set(asked) <= set(command)


@each_overlay
def test_every_variable_is_set_or_left_out_for_a_reason(name):
    """`.env.example` is the one list; what is blank in the ConfigMap counts as unset, and is there to be filled in."""
    listed = {
        line.split("=")[0]
        for line in (PROJECT / ".env.example").read_text().splitlines()
        if re.match(r"[A-Z_]+=", line)
    }
    manifests = overlay(name)
    [config] = [one for key, one in of_kind(manifests, "ConfigMap").items() if key.startswith("ballast-config")]
    told = set(config["data"]) | {
        entry["name"] for pod in pods(manifests).values() for one in containers(pod) for entry in one.get("env", [])
    }

    assert listed - told - set(LEFT_OUT) == set()
    assert told & set(LEFT_OUT) == set()
    # The second is what BALLAST_QDRANT_KEY refers to.
    assert told - listed == {"PYTHONUNBUFFERED", "QDRANT_API_KEY"}


@each_overlay
def test_secrets_are_references_and_reach_only_who_needs_them(name):
    """No Secret is in the manifests, no variable that a Secret holds has a value, and the private signing key is seen
    by those who sign alone: no gateway can cut a release.
    """
    manifests = overlay(name)
    given: dict[str, set[str]] = {}
    for component, pod in pods(manifests).items():
        for one in containers(pod):
            for entry in one.get("env", []):
                reference = entry.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    given.setdefault(reference["name"], set()).add(component)
            for source in one.get("envFrom", []):
                if "secretRef" in source:
                    given.setdefault(source["secretRef"]["name"], set()).add(component)
        for volume in pod["spec"].get("volumes", []):
            if "secret" in volume:
                given.setdefault(volume["secret"]["secretName"], set()).add(component)

    assert of_kind(manifests, "Secret") == {}
    assert given == SECRETS
    [config] = [one for key, one in of_kind(manifests, "ConfigMap").items() if key.startswith("ballast-config")]
    secret_words = re.compile(r"PASSWORD|TOKEN|SECRET|_URL$")
    addresses = {key: value for key, value in config["data"].items() if secret_words.search(key) and value}
    assert not any("@" in value for value in addresses.values())
    assert set(config["data"]) & {"DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "BALLAST_SECRET_KEY"} == set()


@each_overlay
def test_every_example_of_a_secret_is_one_that_somebody_is_given(name):
    """The ExternalSecrets that are shown are the Secrets that are referred to, and have the keys that are asked for."""
    examples = render_file("external-secrets.yaml")
    shown = {one["spec"]["target"]["name"]: {each["secretKey"] for each in one["spec"]["data"]} for one in examples}
    asked: dict[str, set[str]] = {}
    for pod in pods(overlay(name)).values():
        for one in containers(pod):
            for entry in one.get("env", []):
                if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
                    asked.setdefault(reference["name"], set()).add(reference["key"])

    assert set(shown) >= set(SECRETS)
    assert {key: asked[key] - shown[key] for key in asked if asked[key] - shown[key]} == {}


def render_file(name):
    import yaml

    return [one for one in yaml.safe_load_all((KUBERNETES / "examples" / name).read_text()) if one]


@each_overlay
@pytest.mark.parametrize("process", PROCESSES)
def test_every_process_is_probed_where_it_answers(name, process):
    """At paths that its server knows, at a port that the container has; a process beside a gateway is asked by what
    keeps it, at the port that it is told.
    """
    pod = pods(overlay(name))[POD_OF.get(process, process)]
    [container] = [one for one in pod["spec"]["containers"] if one["name"] == process]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}

    if process in POD_OF:
        assert container["command"][:4] == ["python", "-m", "dataplane", "keep"]
        assert int(variables["BALLAST_HEALTH_PORT"]) in ports.values()
        assert not [key for key in container if key.endswith("Probe")]
        return
    probes = {key: container[key]["httpGet"] for key in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {key: probe["path"] for key, probe in probes.items()} == {
        "startupProbe": STARTED,
        "livenessProbe": LIVE,
        "readinessProbe": READY,
    }
    assert {probe["port"] for probe in probes.values()} <= set(ports)
    if process == "gateway":
        assert {STARTED, LIVE, READY} <= set(METHODS)
    elif process == "console":
        # The kubelet would name the pod's address, which the console does not answer to.
        assert all(probe["httpHeaders"] == [{"name": "Host", "value": "localhost"}] for probe in probes.values())
    else:
        assert int(variables["BALLAST_HEALTH_PORT"]) == ports["health"]


@each_overlay
def test_containers_of_a_pod_that_share_its_address_have_ports_of_their_own(name):
    """Agent, shadow and gateway are on one address."""
    for pod in pods(overlay(name)).values():
        ports = [port["containerPort"] for one in pod["spec"]["containers"] for port in one.get("ports", [])]
        assert len(ports) == len(set(ports))


@each_overlay
def test_gateway_has_time_to_say_that_it_stops_and_to_end_its_streams(name):
    """The grace, the streams' time and the supervisor's margin are within the pod's; a kept process' too."""
    [config] = [one for key, one in of_kind(overlay(name), "ConfigMap").items() if key.startswith("ballast-config")]
    grace = int(config["data"]["BALLAST_DRAIN_GRACE"])
    spec = pods(overlay(name))["gateway"]["spec"]

    drain = GatewaySettings.__dataclass_fields__["drain_seconds"].default
    assert spec["terminationGracePeriodSeconds"] >= grace + drain + STOP_MARGIN_SECONDS
    assert spec["terminationGracePeriodSeconds"] >= STOP_SECONDS + STOP_MARGIN_SECONDS
    probe = next(one for one in spec["containers"] if one["name"] == "gateway")["readinessProbe"]
    # It is not ready for longer than it takes to be noticed.
    assert grace >= probe["periodSeconds"]


@each_overlay
def test_containers_may_do_nothing_that_they_need_not(name):
    """Not root, no privileges, no capabilities, a root file system that is read-only, no token, bounded memory."""
    for component, pod in pods(overlay(name), ours=False).items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, component
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for one in containers(pod):
            context = one["securityContext"]
            assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert set(one["resources"]["requests"]) == {"cpu", "memory"}
            assert "memory" in one["resources"]["limits"]


@each_overlay
def test_nodes_can_be_drained(name):
    """No budget keeps the last pod of anything: whoever may not be away has more than one, and one may go at a time."""
    manifests = overlay(name)
    deployments = of_kind(manifests, "Deployment")
    scaled = of_kind(manifests, "HorizontalPodAutoscaler")
    for key, budget in of_kind(manifests, "PodDisruptionBudget").items():
        replicas = scaled[key]["spec"]["minReplicas"] if key in scaled else deployments[key]["spec"].get("replicas", 1)
        assert budget["spec"]["maxUnavailable"] >= 1
        assert replicas > budget["spec"]["maxUnavailable"], key
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert "ballast-beat" not in of_kind(manifests, "PodDisruptionBudget")


def test_autoscaler_alone_says_how_many_there_are():
    """A number in the Deployment would be put back with each `apply`."""
    manifests = overlay("production")
    deployments = of_kind(manifests, "Deployment")

    for key, scaler in of_kind(manifests, "HorizontalPodAutoscaler").items():
        assert scaler["spec"]["scaleTargetRef"]["name"] == key
        assert "replicas" not in deployments[key]["spec"]


def test_queue_lengths_can_be_added_to_the_autoscalers(tmp_path):
    """The component fits the production overlay, and names metrics that exist: the gateway's own is one."""
    (KUBERNETES / "overlays").resolve()
    overlay_file = tmp_path / "kustomization.yaml"
    relative = "../" * len(tmp_path.resolve().parts[1:])
    base = (KUBERNETES / "overlays" / "production").resolve()
    component = (KUBERNETES / "components" / "queue-length").resolve()
    overlay_file.write_text(
        f"resources: ['{relative}{base.relative_to('/')}']\ncomponents: ['{relative}{component.relative_to('/')}']\n"
    )

    scalers = of_kind(render(tmp_path), "HorizontalPodAutoscaler")

    names = {
        key: [metric["external"]["metric"]["name"] for metric in one["spec"]["metrics"] if metric["type"] == "External"]
        for key, one in scalers.items()
    }
    assert names["ballast-jobs"] == ["ballast_jobs_queued"]
    assert names["ballast-work"] == ["rabbitmq_queue_messages_ready"]
    assert '"ballast_jobs_queued"' in (PROJECT / "dataplane" / "job_metrics.py").read_text()
    [metric] = [one for one in scalers["ballast-work"]["spec"]["metrics"] if one["type"] == "External"]
    assert metric["external"]["metric"]["selector"]["matchLabels"]["queue"] in {
        route["queue"] for route in app.conf.task_routes.values()
    }


@each_overlay
def test_image_is_named_in_one_place(name):
    """By its digest, in the overlay; everything of ours runs the same one."""
    images = {one["image"] for pod in pods(overlay(name)).values() for one in containers(pod)}

    assert len(images) == 1
    assert re.fullmatch(r"registry\.example\.com/ballast@sha256:[0-9a-f]{64}", images.pop())
    for pod in pods(overlay(name), ours=False).values():
        for one in containers(pod):
            assert "@sha256:" in one["image"] or re.search(r":\d[\w.-]+$", one["image"]), one["image"]
            assert ":latest" not in one["image"]


@each_overlay
def test_control_plane_waits_for_the_migrations_of_its_version(name):
    """Whoever uses Django's models. A gateway starts without PostgreSQL, and a runner of jobs looks again and again;
    neither is told the console's secrets, which to ask would take.
    """
    found = pods(overlay(name))
    waiting = {
        component
        for component, pod in found.items()
        if any("migrate --check" in " ".join(one["command"]) for one in pod["spec"].get("initContainers", []))
    }

    assert waiting == DJANGO - {"migrate", "clear-sessions", "verify-audit"}
    assert found["migrate"]["spec"]["containers"][0]["command"] == ["python", "manage.py", "migrate", "--noinput"]
