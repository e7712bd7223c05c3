"""GPU utilisation as Prometheus endpoints tell it: a real server, real pages."""

from __future__ import annotations

import asyncio
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dataplane.ladder.gauges import MAX_BYTES, Gauges, highest_of
from dataplane.release import parse_document
from tests.ladders import rung_copy, rungs, surface, trigger

DCGM = """\
# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-1",modelName="NVIDIA H100"} 41
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-2",modelName="NVIDIA H100"} 97
DCGM_FI_DEV_GPU_UTIL{gpu="2",UUID="GPU-3",modelName="NVIDIA H100"} NaN
# TYPE DCGM_FI_DEV_GPU_UTILITY gauge
DCGM_FI_DEV_GPU_UTILITY{gpu="0"} 4000
"""
VLLM = """\
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{model_name="llama"} 0.125
vllm:gpu_cache_usage_perc{model_name="mixtral, \\"large\\"\\n"} 0.75 1764129000000
vllm:num_requests_running 12
"""


class Endpoint:
    """A server whose pages tests set, by path; a page of None does not answer before the test is over."""

    def __init__(self):
        self.pages = {}
        self.asked = []
        self.came = threading.Semaphore(0)
        self.is_over = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                endpoint.asked.append(self.path)
                endpoint.came.release()
                page = endpoint.pages.get(self.path, 404)
                if page is None:
                    endpoint.is_over.wait(60)
                    return
                body = page if isinstance(page, bytes) else b"" if isinstance(page, int) else page.encode()
                self.send_response(page if isinstance(page, int) else 200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def close(self):
        self.is_over.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def endpoint():
    """A server on a port of its own."""
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def make_release(make_document):
    """Builds a release with a surface for each name, whose triggers read these gauges: slug -> (url, metric, full)."""
    signed = {number: rung for number, rung in rungs().items() if number not in ("3", "5")}

    def make(**gauges):
        triggers = {"load": trigger()} | {
            slug: trigger(signal="gpu_utilisation", enter=0.9, leave=0.5) | {"url": url, "metric": metric, "full": full}
            for slug, (url, metric, full) in gauges.items()
        }
        ladder = {"web-chat": surface(rungs=signed, triggers=triggers)}
        return parse_document(make_document(ladder=ladder, copy=rung_copy()) | {"schema": 4}, digest="d" * 64)

    return make


@pytest.fixture
async def gauges():
    """Those of a worker that leads."""
    made = Gauges(leads=lambda: True, timeout_seconds=60)
    yield made
    await made.stop()


async def test_highest_value_counts_as_a_share_of_full(gauges, endpoint, make_release):
    """Of all GPUs that a page names; one address is asked once, whatever reads it."""
    endpoint.pages = {"/dcgm": DCGM, "/vllm": VLLM}
    cards = (endpoint.url("/dcgm"), "DCGM_FI_DEV_GPU_UTIL", 100)
    cache = (endpoint.url("/vllm"), "vllm:gpu_cache_usage_perc", 1)
    running = (endpoint.url("/vllm"), "vllm:num_requests_running", 8)
    gauges.adopt(make_release(cards=cards, cache=cache, running=running))

    await gauges.read()

    assert gauges.values("web-chat") == {"cards": 0.97, "cache": 0.75, "running": 1.0}
    assert gauges.values("elsewhere") == {}
    assert sorted(endpoint.asked) == ["/dcgm", "/vllm"]


@pytest.mark.parametrize(
    "page",
    [
        404,
        500,
        302,
        "",
        "vllm:num_requests_running 12\n",
        "cache",
        "cache{ 1\n",
        "cache NaN\n",
        "cache{} many\n",
        b"\xff",
        b"# " + b"x" * MAX_BYTES,
    ],
    ids=lambda page: str(page)[:20],
)
async def test_what_cannot_be_read_is_missing(gauges, endpoint, make_release, page):
    """Never 0: an endpoint that is broken, moved or talks of something else says nothing of its GPUs."""
    endpoint.pages = {"/": "cache 0.5\n"}
    gauges.adopt(make_release(cache=(endpoint.url("/"), "cache", 1)))
    await gauges.read()
    before = gauges.values("web-chat")

    endpoint.pages = {"/": page}
    await gauges.read()

    assert before == {"cache": 0.5}
    assert gauges.values("web-chat") == {}


async def test_endpoint_that_does_not_answer_is_missing_and_holds_up_no_other(endpoint, make_release, caplog):
    """It is waited for so long and no longer; that it is gone and back is logged once each."""
    gauges = Gauges(leads=lambda: True, timeout_seconds=0.2)
    hanging, fine = (endpoint.url("/hanging"), "cache", 1), ("http://127.0.0.1:1/metrics", "cache", 1)
    endpoint.pages = {"/hanging": None}
    gauges.adopt(make_release(hanging=hanging, gone=fine))

    await gauges.read()
    await gauges.read()

    assert gauges.values("web-chat") == {}
    assert caplog.text.count("cannot be read") == 2
    await gauges.stop()


async def test_worker_that_does_not_lead_asks_nobody(endpoint, make_release):
    """And tells nothing of what it read while it did."""
    endpoint.pages = {"/": "cache 0.5\n"}
    leads = [True]
    gauges = Gauges(leads=lambda: leads[0], timeout_seconds=60)
    gauges.adopt(make_release(cache=(endpoint.url("/"), "cache", 1)))
    await gauges.read()
    leading = gauges.values("web-chat")
    leads[0] = False

    await gauges.read()

    assert leading == {"cache": 0.5}
    assert gauges.values("web-chat") == {}
    assert endpoint.asked == ["/"]
    await gauges.stop()


async def test_gauge_that_another_release_changed_is_not_taken_for_the_old_one(gauges, endpoint, make_release):
    """What was read of those that stay is kept until the next turn."""
    endpoint.pages = {"/": "cache 0.5\nload 3\n"}
    gauges.adopt(make_release(cache=(endpoint.url("/"), "cache", 1), load=(endpoint.url("/"), "load", 4)))
    await gauges.read()

    gauges.adopt(make_release(cache=(endpoint.url("/"), "cache", 1), load=(endpoint.url("/"), "load", 8)))

    assert gauges.values("web-chat") == {"cache": 0.5}


async def test_gauges_are_read_by_themselves(endpoint, make_release):
    """From the start on, again and again, until the worker stops."""
    endpoint.pages = {"/": "cache 0.5\n"}
    gauges = Gauges(leads=lambda: True, timeout_seconds=60, read_every_seconds=0.001)
    gauges.adopt(make_release(cache=(endpoint.url("/"), "cache", 1)))

    await gauges.start()
    async with asyncio.timeout(60):
        for _ in range(3):
            await asyncio.to_thread(endpoint.came.acquire, timeout=60)
    await gauges.stop()

    assert gauges.values("web-chat") == {"cache": 0.5}


def test_only_the_metric_itself_is_read():
    """Neither one whose name begins alike, nor what is not a number."""
    assert highest_of(DCGM, "DCGM_FI_DEV_GPU_UTIL") == 97
    assert highest_of(DCGM, "DCGM_FI_DEV_GPU") is None
    assert highest_of("a +Inf\na 2\n", "a") == 2
    assert math.isclose(highest_of("a 1e-3\n", "a"), 0.001)
