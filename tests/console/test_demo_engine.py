"""The demo's own model server: what `make run ENGINE=1` adds, and that nothing of it is there without."""

from controlplane.console.management.commands.check_capabilities import demo_problems
from controlplane.console.management.commands.seed_demo import ENGINE_ROUTE, read_demo
from dataplane.routing import RoutingTable
from launcher.engine import MODEL_NAME
from tests.factories import NOW

PLAIN = {"simulator": "http://127.0.0.1:8090", "embedder": "http://127.0.0.1:8070"}


def test_demo_with_an_engine_has_a_lane_and_a_route_on_it():
    """The lane names the model that the launcher starts, at the engine's address; another lane stands behind it."""
    demo = read_demo(NOW.date(), **PLAIN, engine="http://127.0.0.1:8060")

    table = RoutingTable.parse(demo["routing"])
    first, second = table.routes[ENGINE_ROUTE].lanes

    assert first.upstream_model == MODEL_NAME
    assert table.accounts[first.account].base_url == "http://127.0.0.1:8060/v1"
    assert second.account != first.account
    assert [one.message for one in demo_problems(demo) if one.is_error] == []


def test_demo_without_an_engine_has_nothing_of_it():
    """Its routing is the same as ever, and every other route is untouched by the engine."""
    without = read_demo(NOW.date(), **PLAIN)["routing"]
    beside = read_demo(NOW.date(), **PLAIN, engine="http://127.0.0.1:8060")["routing"]

    assert ENGINE_ROUTE not in without["routes"]
    assert {name: beside["routes"][name] for name in without["routes"]} == without["routes"]
    assert {name: beside["lanes"][name] for name in without["lanes"]} == without["lanes"]
