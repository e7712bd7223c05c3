"""Hold the demo's routes and prompts against the capability matrix; reads files only."""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from controlplane.console.management.commands.seed_demo import read_demo
from controlplane.routing.matrix import matrix
from dataplane.capabilities import PromptUse, check_table
from dataplane.prompts import Problem
from dataplane.routing import RoutingTable


class Command(BaseCommand):
    help = "Fail when a route or a prompt of the demo asks a lane for what it lacks by fixtures/capabilities.yaml."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        demo = read_demo(timezone.now().date(), simulator="http://127.0.0.1:8090", embedder="http://127.0.0.1:8070")
        problems = demo_problems(demo)
        for problem in problems:
            self.stdout.write(f"{'error' if problem.is_error else 'warning'}: {problem.path}: {problem.message}")
        errors = sum(problem.is_error for problem in problems)
        if errors:
            raise CommandError(f"{errors} of the demo's claims are not what the capability matrix says")
        versions = sum(len(prompt["versions"]) for prompt in demo["prompts"].values())
        lanes = len(demo["routing"]["lanes"])
        self.stdout.write(f"{lanes} lanes and {versions} versions of prompts ask for nothing that is not there")


def demo_problems(demo: Mapping[str, Any]) -> list[Problem]:
    """What the matrix has against the lanes, routes and prompts of the demo, for every tenant's pin."""
    uses = [
        PromptUse(
            f"{slug}@{number}",
            prompt["route"],
            prompt["parameters"],
            f"$.prompts.{slug}.versions[{number - 1}]",
        )
        for slug, prompt in demo["prompts"].items()
        for number in range(1, len(prompt["versions"]) + 1)
    ]
    pins = [frozenset(tenant["residency"]) for tenant in demo["tenants"].values()]
    return check_table(matrix(), RoutingTable.parse(demo["routing"]), uses=uses, pins=pins)
