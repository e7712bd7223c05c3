"""Asking a process whether it can really be used."""

import http.client
from dataclasses import dataclass
from urllib.parse import urlsplit

PROBE_SECONDS = 2.0
MAX_ANSWER_BYTES = 300


@dataclass(frozen=True, slots=True)
class Readiness:
    """The answer to one probe: ready or not, and in words."""

    is_ready: bool
    said: str


def probe(url: str) -> Readiness:
    """GET `url` and say whether it answered 200, within 2 s; never raises."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", parts.path, headers={"Accept": "application/json"})
        answer = connection.getresponse()
        body = answer.read(MAX_ANSWER_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as exc:
        return Readiness(False, f"did not answer ({exc.__class__.__name__})")
    finally:
        connection.close()
    if answer.status == http.client.OK:
        return Readiness(True, "ready")
    return Readiness(False, f"answered {answer.status}: {' '.join(body.split())}")
