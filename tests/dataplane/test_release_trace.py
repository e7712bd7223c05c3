"""The trace of a release, in a file beside the release's own."""

from __future__ import annotations

import pytest

from dataplane.release_trace import read_release_trace, trace_file, write_release_trace

TRACEPARENT = f"00-{'a1' * 16}-{'b2' * 8}-01"
DIGEST = "d" * 64


@pytest.fixture
def release_file(tmp_path):
    file = tmp_path / "release.json"
    file.write_text("{}")
    return file


def test_trace_is_read_for_its_own_release(release_file):
    """With when the release was written; for another digest there is none."""
    write_release_trace(release_file, digest=DIGEST, traceparent=TRACEPARENT)

    found = read_release_trace(release_file, digest=DIGEST)

    assert found is not None
    assert (found.traceparent, found.written_at_ns) == (TRACEPARENT, release_file.stat().st_mtime_ns)
    assert read_release_trace(release_file, digest="e" * 64) is None


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "[]",
        "no JSON",
        f'{{"digest": "{DIGEST}"}}',
        f'{{"digest": "{DIGEST}", "traceparent": 7}}',
        f'{{"digest": "{DIGEST}", "traceparent": "{TRACEPARENT}\\n"}}',
    ],
)
def test_damaged_file_is_no_trace(release_file, content):
    """Nothing rests on it."""
    if content is not None:
        trace_file(release_file).write_text(content)

    assert read_release_trace(release_file, digest=DIGEST) is None


def test_release_without_a_trace_leaves_no_file(release_file):
    """As where nobody traces."""
    write_release_trace(release_file, digest=DIGEST, traceparent="")

    assert not trace_file(release_file).exists()
