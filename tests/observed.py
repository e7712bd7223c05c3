"""What dashboard, alert rules and guide say of metrics: the names that they use, read as Prometheus reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml
from prometheus_client.parser import text_string_to_metric_families

PROJECT = Path(__file__).resolve().parents[1]
FILES = PROJECT / "deploy" / "observability"
DASHBOARD = FILES / "grafana" / "ballast.json"
RULES = FILES / "prometheus" / "ballast.rules.yaml"
GUIDE = PROJECT / "docs" / "observability.md"
# What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "1m"}


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    return json.loads(DASHBOARD.read_text())


def rules() -> list[dict[str, Any]]:
    """Every rule, recording ones too."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """The alerts."""
    return [rule for rule in rules() if "alert" in rule]


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression, and where it stands."""
    for rule in rules():
        yield str(rule.get("alert") or rule["record"]), str(rule["expr"])
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            yield f"panel {panel['title']}", text
    for annotation in dashboard()["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]


def selected(expression: str) -> list[tuple[str, dict[str, str]]]:
    """The series that an expression asks for: their names, and what it wants their labels to be."""
    found: list[tuple[str, dict[str, str]]] = []

    def walk(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            matchers = {one.name: one.value for one in node.matchers.matchers}
            found.append((node.name, matchers))
        if isinstance(node, promql_parser.MatrixSelector):
            walk(node.vector_selector)
        for name in ("expr", "lhs", "rhs", "param"):
            child = getattr(node, name, None)
            if child is not None and not isinstance(child, str):
                walk(child)
        for child in getattr(node, "args", None) or ():
            walk(child)

    walk(promql_parser.parse(expression))
    return found


def recorded() -> set[str]:
    """What recording rules make."""
    return {rule["record"] for rule in rules() if "record" in rule}


def exposed(text: str) -> dict[str, set[str]]:
    """The series in the text of a scrape: names, each with its labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def documented() -> set[str]:
    """The names in the tables of the guide."""
    return set(re.findall(r"^\| `((?:ballast|process)_\w+)", GUIDE.read_text(), flags=re.MULTILINE))
