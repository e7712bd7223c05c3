"""What a worker says of its ladders is what the control plane reads, member by member."""

from __future__ import annotations

from controlplane.telemetry.reports import parse_report
from dataplane.reports import ReportShipper
from dataplane.settings import ReportSettings
from tests.dataplane.conftest import make_document  # noqa: F401  # a fixture
from tests.dataplane.ladder.look_world import World, document_of
from tests.dataplane.virtual_time import in_virtual_time
from tests.ladders import activation, trigger

MEMBERS = {"surface", "level", "engaged", "ids", "readings", "generation", "is_alone", "reserved"}


class Sink:
    """Keeps what is shipped."""

    def __init__(self):
        self.batches = []

    async def send(self, batches, *, urgent=False):
        self.batches += batches

    async def close(self):
        pass


@in_virtual_time
async def test_heartbeat_of_a_worker_that_serves_a_surface_is_read(make_document, tmp_path):  # noqa: F811
    """As it is shipped, with a rung engaged for a tier and a reading that nobody could take."""
    gpu = trigger(signal="gpu_utilisation", enter=0.9, leave=0.5)
    gpu |= {"url": "http://vllm.internal:8000/metrics", "metric": "load", "full": 1}
    document = document_of(
        make_document, activations=[activation(tiers=["free"])], triggers={"load": trigger(), "gpu": gpu}
    )
    world, sink = World(document), Sink()
    shipper = ReportShipper(
        worker="host/gateway-0",
        kind="gateway",
        host="host",
        settings=ReportSettings(redis_url=None, spool_dir=tmp_path, interval_seconds=3600),
        sink=sink,
    )
    shipper.ladders = world.ladders.states
    await world.ladders.fleet.exchange()
    await shipper.start()
    await shipper.flush()
    await shipper.stop()

    (state,) = parse_report(sink.batches[-1])["state"]["ladders"]

    assert state.keys() == MEMBERS
    assert state["engaged"] == {"free": 3, "standard": 0, "vip": 0}
    assert (state["ids"], state["readings"]) == (["a0"], {"load": 0.0, "gpu": None})
    await world.end()
