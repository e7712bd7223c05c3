"""Dashboard, alert rules and guide fit what processes really show: no name that nobody shows, and none forgotten."""

from __future__ import annotations

import re
from types import SimpleNamespace

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from controlplane.figures import COMPUTED_AT, KNOWN
from controlplane.request_metrics import RequestMetrics
from controlplane.task_metrics import RAISED, TASKS
from controlplane.vitals import task_families
from dataplane.jobs import Figures
from dataplane.loop_lag import LoopLag
from dataplane.metrics import GatewayMetrics
from dataplane.retrieval.counting import RetrievalCounts
from dataplane.shadow.counting import CANDIDATE, ShadowCounting, ShadowSeries
from dataplane.shadow.figures import load_families
from dataplane.vitals import Vitals
from tests.dataplane.gateway.conftest import make_release, release_sections
from tests.deploy.manifests import KUBERNETES, Address, allows, of_kind, pods, render
from tests.observed import FILES, GUIDE, alerts, dashboard, documented, exposed, expressions, recorded, rules, selected

# Of all that a library shows of a process, what the guide has a line for.
LIBRARYS = {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"}


TRIED = FILES / "prometheus" / "ballast.rules.test.yaml"
# Of which no moment is tried at which it keeps quiet.
FIRES_AT_ONCE = {"BallastRouteWithoutLanes"}


class Shown(Collector):
    """A registry for families that have none."""

    def __init__(self, families):
        self._families = families

    def collect(self):
        return self._families()


def text_of(families):
    registry = CollectorRegistry()
    registry.register(Shown(families))
    return generate_latest(registry).decode()


def shadow_counts():
    """What a shadow process has counted that has seen one of everything."""
    counts, series = ShadowCounting(), ShadowSeries("p", "d", "r", CANDIDATE, "")
    counts.offer(series)
    counts.discard(series, "queue_full")
    counts.ask(series, input_tokens=1, output_tokens=1, cost_micros=1, failure="")
    return counts


def gateway_text():
    """What a gateway shows that has seen one of everything."""
    stream = SimpleNamespace(generating=1, resumes=1, endings={"completed": 1}, is_log_up=True)
    pool = SimpleNamespace(name="p", granted=1, throttled=1, waiting=1, paused_seconds=0.0, is_alone=False)
    ladder = {"surface": "s", "level": 1, "engaged": {"vip": 1}, "readings": {"queue": 1.0}, "is_alone": False}
    retrievals = RetrievalCounts()
    retrievals.count("c", "serve")
    retrievals.note_lag("c", 1.0)
    metrics = GatewayMetrics(
        release=lambda: make_release(release_sections("http://127.0.0.1:1")),
        breakers=lambda: [{"lane": "l", "state": "open"}],
        quotas=lambda: [pool],
        streams=lambda: stream,
        jobs=lambda: Figures(queued=1, running=1, ended={}, span_seconds=1.0),
        ladders=lambda: [ladder],
        retrievals=retrievals,
        spans=SimpleNamespace(exported=1, failed=1, dropped=1, waiting=1),
        reports=SimpleNamespace(
            spooled_bytes=1,
            spool_max_bytes=2,
            is_delayed=False,
            dropped_batches=0,
            outliving=SimpleNamespace(unguarded_rows=0, unread_rings=0, unguarded_attempts=0),
        ),
        lag=LoopLag(),
        shadows=shadow_counts(),
    )
    metrics.validators.of([("v", "rules", "pass")])
    metrics.count("chat", "ok", 1.0)
    metrics.count_fallback("r", "outage")
    metrics.count_fields("l", dropped=["a"], adjusted=["b"])
    metrics.counts.count_request("r", result="ok", seconds=1.0, first_token=1.0, rung=1, queued_seconds=1.0)
    metrics.counts.count_attempt(
        "l", kind="primary", outcome="ok", seconds=1.0, input_tokens=1, output_tokens=1, cost_micros=1
    )
    return metrics.render().decode()


@pytest.fixture(scope="module")
def shown():
    """Every series that a process of Ballast shows, with its labels."""
    requests, vitals = RequestMetrics(), Vitals()
    requests.count("view", 200, 0.1)
    TASKS.took("task", 0.1)
    TASKS.failed("task", RAISED)
    load = SimpleNamespace(in_flight=1, waiting=1, lag_seconds=1.0)
    vitals.pulse("loop").beat()
    found = exposed(gateway_text())
    families = (requests.families, task_families, lambda: load_families(load))
    for text in (*map(text_of, families), vitals.render().decode()):
        for name, labels in exposed(text).items():
            found.setdefault(name, set()).update(labels)
    found |= {name: {label} - {""} for name, (_, label) in KNOWN.items()} | {COMPUTED_AT: set()}
    found |= {"ballast_agent_release_revision": set(), "ballast_worker_tasks_total": {"task"}}
    return found


@pytest.mark.parametrize(("place", "expression"), list(expressions()), ids=lambda value: str(value)[:60])
def test_expression_asks_for_what_there_is(shown, place, expression):
    """PromQL that Prometheus reads, about series that a process shows, by labels that these have."""
    for name, labels in selected(expression):
        if name in recorded():
            continue
        assert name in shown, f"{place}: nobody shows {name}"
        assert set(labels) <= shown[name], f"{place}: {name} has no label {set(labels) - shown[name]}"


def test_labels_that_are_grouped_by_exist(shown):
    """`by (…)` names labels of what is summed, or what every scrape adds."""
    added = {"instance", "job", "le"}
    for place, expression in expressions():
        names = {name for name, _ in selected(expression)}
        known = added.union(*(shown.get(name, set()) for name in names))
        for group in re.findall(r"by \(([^)]*)\)", expression):
            assert {one.strip() for one in group.split(",")} <= known, place


def test_expression_that_names_nothing_of_ours_would_be_found(shown):
    """The check itself: a name with a letter too many, and a label that there is none of."""
    [(name, labels)] = selected('sum(rate(ballast_gateway_requestss_total{outcom="x"}[5m]))')

    assert name not in shown
    assert "outcom" in labels
    with pytest.raises(ValueError, match=r".+"):
        promql_parser.parse("sum(rate(x[5m])")


def test_every_series_is_in_the_guide_and_nothing_else(shown):
    """With its unit and its labels, as a line of a table."""
    names = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in shown if name.startswith("ballast_")}

    assert documented() == names | LIBRARYS
    text = GUIDE.read_text()
    for name in names:
        labels = shown.get(name) or shown.get(f"{name}_bucket") or set()
        [line] = re.findall(rf"^\| `{name}`.*$", text, flags=re.MULTILINE)
        assert all(f"`{label}`" in line for label in labels - {"le"}), line


def test_alert_says_what_it_means_and_where_to_read_on():
    """How bad it is, a summary, a description, and a chapter of the guide of its own; no two of a name."""
    text = GUIDE.read_text()
    chapters = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.+)$", text, re.M)
    }
    names = [alert["alert"] for alert in alerts()]

    assert len(set(names)) == len(names) >= 20
    for alert in alerts():
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert alert["annotations"]["runbook_url"].endswith(f"docs/observability.md#{alert['alert'].lower()}")
        assert alert["alert"].lower() in chapters
        assert alert["for"]
    assert all(rule["record"].startswith("ballast:") for rule in rules() if "record" in rule)


def test_every_alert_is_tried_by_promtool():
    """Each is seen to fire, and to keep quiet: `make rules` runs what stands there."""
    tests = yaml.safe_load(TRIED.read_text())["tests"]
    tried = [one for test in tests for one in test["alert_rule_test"]]
    names = {alert["alert"] for alert in alerts()}

    assert {one["alertname"] for one in tried if one["exp_alerts"]} == names
    assert {one["alertname"] for one in tried if not one["exp_alerts"]} >= names - FIRES_AT_ONCE


def test_dashboard_can_be_provisioned_and_says_what_each_panel_is():
    """A variable for the data source and no data source by name; a unit and words for each panel; rows of questions."""
    board = dashboard()
    panels = [one for one in board["panels"] if one["type"] != "row"]
    rows = [one for one in board["panels"] if one["type"] == "row"]

    assert [one["type"] for one in board["templating"]["list"]] == ["datasource"]
    assert {target["datasource"]["uid"] for one in panels for target in one["targets"]} == {"${datasource}"}
    assert all(len(one["description"]) > 15 and one["fieldConfig"]["defaults"]["unit"] for one in panels)
    assert all(one["title"].endswith("?") for one in rows)
    assert len({one["id"] for one in board["panels"]}) == len(board["panels"])
    boxes = [one["gridPos"] for one in board["panels"]]
    cells = [
        (x, y)
        for box in boxes
        for x in range(box["x"], box["x"] + box["w"])
        for y in range(box["y"], box["y"] + box["h"])
    ]
    assert len(cells) == len(set(cells))  # none lies over another
    assert max(x for x, _ in cells) < 24


def test_monitors_find_every_process_and_policies_let_them(tmp_path):
    """The component fits the production overlay: each port that it scrapes is one of a pod's, and can be reached from
    where Prometheus is; those who trace reach the collector.
    """
    relative = "../" * len(tmp_path.resolve().parts[1:])
    base = (KUBERNETES / "overlays" / "production").resolve().relative_to("/")
    component = (KUBERNETES / "components" / "observability").resolve().relative_to("/")
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: ['{relative}{base}']\ncomponents: ['{relative}{component}']\n"
    )
    manifests = render(tmp_path)
    [monitor] = of_kind(manifests, "PodMonitor").values()
    scraped = {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]}
    [matching] = monitor["spec"]["selector"]["matchExpressions"]
    ports = {
        component: {
            port["name"]: port["containerPort"] for one in pod["spec"]["containers"] for port in one.get("ports", [])
        }
        for component, pod in pods(manifests).items()
    }
    running = {name for name, named in ports.items() if named}

    assert set(matching["values"]) == running
    assert scraped == {name for named in ports.values() for name in named if name != "http"}
    assert ports["gateway"].keys() >= {"metrics-0", "metrics-1", "agent-health", "shadow-health"}
    policies = of_kind(manifests, "NetworkPolicy")
    opened = {one["port"] for rule in policies["from-prometheus"]["spec"]["ingress"] for one in rule["ports"]}
    assert opened == {number for named in ports.values() for name, number in named.items() if name != "http"}
    [collector] = policies["to-collector"]["spec"]["egress"]
    assert [one["port"] for one in collector["ports"]] == [4318]
    assert not allows(
        policies, {"app.kubernetes.io/component": "gateway"}, Address("10.1.1.1", 1), 4318, direction="egress"
    )


@pytest.mark.parametrize(
    "name", ["prometheus/prometheus.yaml", "otel-collector.yaml", "grafana/provisioning/ballast.yaml"]
)
def test_examples_are_yaml_and_name_files_that_exist(name):
    """What they refer to beside them is there."""
    content = yaml.safe_load((FILES / name).read_text())

    assert content
    for file in content.get("rule_files", []):
        assert ((FILES / name).parent / file).is_file()
