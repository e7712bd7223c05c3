"""A key that was rotated, at a gateway that hears of nothing else meanwhile."""

import time
from datetime import UTC, datetime

import httpx

from dataplane.access import key_digest

from .conftest import release_sections, run_gateway, wait_until


def test_running_gateway_refuses_the_old_key_when_its_time_comes_and_serves_the_new_one(simulator_url):
    """Without a new release, in the middle of traffic: the one it has says when."""
    sections = release_sections(simulator_url)
    ends = time.time() + 2
    keys = sections["access"]["keys"]
    tenant = next(iter(keys.values()))["tenant"]
    keys[key_digest("bk-old")] = {
        "tenant": tenant,
        "id": "k90",
        "expires_at": datetime.fromtimestamp(ends, UTC).isoformat().replace("+00:00", "Z"),
    }
    keys[key_digest("bk-new")] = {"tenant": tenant, "id": "k91"}
    with run_gateway(sections) as gateway, httpx.Client(base_url=gateway.url) as client:

        def status(key):
            return client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code

        before = [status("bk-old"), status("bk-new")]
        wait_until(lambda: status("bk-old") == httpx.codes.UNAUTHORIZED)
        refused_at = time.time()
        refused = client.get("/v1/models", headers={"authorization": "Bearer bk-old"})

        assert before == [200, 200]
        assert refused_at >= ends
        assert status("bk-new") == httpx.codes.OK
        assert refused.json()["error"]["code"] == "unauthorized"
        assert "use the one that took its place" in refused.json()["error"]["message"]
