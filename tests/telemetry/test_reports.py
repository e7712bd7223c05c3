import copy

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.telemetry.reports import MalformedReport, parse_report
from dataplane.evidence import CELL, Evidence, Part
from tests.worker_reports import (
    FRAMES,
    ack,
    cell,
    cells,
    delivery,
    exposure,
    lane_state,
    quota_state,
    report,
    rollup,
    sample,
    sketch,
    stream_row,
    usage_row,
)

WHOLE = report(
    rollup(outputs={"repair:none:r0_strict:lossless": 7}),
    acks=(ack(),),
    usage=(usage_row(),),
    events=({"at": 1.5, "kind": "reports.delayed", "data": {"reason": "x"}},),
    lanes=(lane_state(), lane_state("azure/x", "open")),
    quotas=(quota_state(learned={"requests": 8000.5}),),
    streams=(stream_row(transcript=FRAMES), stream_row("6" * 32, resumed=True)),
    deliveries=(delivery(),),
    samples=(sample(),),
    evidence=(cells(cell(3), cell(63, 2)), cells(arm="control")),
    exposures=(exposure(1), exposure(2, "control", arm="control")),
)
CELLS = ("evidence", 0, "cells")


def changed(path, value):
    made = copy.deepcopy(WHOLE)
    *way, last = path
    node = made
    for step in way:
        node = node[step]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return orjson.dumps(made)


def test_a_report_is_read_as_it_was_sent():
    """Nothing is lost or renamed, and what is not known here does no harm."""
    assert parse_report(orjson.dumps(WHOLE | {"since_tomorrow": 1})) == WHOLE | {"since_tomorrow": 1}


def test_a_report_of_an_older_worker_is_taken_in():
    """During an upgrade some workers do not know attempts yet: what they cannot tell is zero, and nothing measured."""
    older = copy.deepcopy(WHOLE)
    newer = ("fallbacks", "attempts", "failures", "timeouts", "throttled", "drain_tps")
    for name in newer:
        del older["rollups"][0][name]
    del older["rollups"][0]["outputs"]
    del older["state"]["lanes"], older["state"]["quotas"], older["usage"][0]["cause"]
    del older["streams"], older["deliveries"], older["samples"], older["evidence"], older["exposures"]

    read = parse_report(orjson.dumps(older))

    assert [read["rollups"][0][name] for name in newer] == [0, 0, 0, 0, 0, sketch()]
    assert read["rollups"][0]["outputs"] == {}
    assert (read["streams"], read["deliveries"], read["samples"]) == ([], [], [])
    assert (read["evidence"], read["exposures"]) == ([], [])


@pytest.mark.parametrize("result", ["ok", "error", "cancelled"])
@pytest.mark.parametrize("seen", [True, False, None])
def test_whatever_a_gateway_counts_of_a_canary_is_taken_in(result, seen):
    """No part of a cell is more than its whole, however a request ends and whatever looked at it."""
    evidence = Evidence(clock=lambda: 0.0)
    evidence.adopt(["c"])
    for arm in ("canary", "control"):
        part = Part("c", arm, "0123456789abcdef", 63, 2, "candidate", is_compared=True, is_told=True)
        looked_at = dict.fromkeys(("schema_passed", "blocked", "grounded"), seen)
        evidence.record(
            part, result=result, cost_micros=300, milliseconds=0.0, is_copy=False, refused=bool(seen), **looked_at
        )
    rows = {"evidence": evidence.drain(), "exposures": evidence.drain_exposures()}

    read = parse_report(orjson.dumps(WHOLE | rows))

    assert {name: read[name] for name in rows} == rows
    assert [len(row["cells"][0]) for row in read["evidence"]] == [1 + len(CELL)] * 2


def test_transcript_may_quote_what_no_column_could_hold():
    """A NUL that a model wrote is escaped in the payload; only one that the report itself holds is refused."""
    payload = orjson.dumps({"choices": [{"index": 0, "delta": {"content": "a\0b"}}]}).decode()

    read = parse_report(changed(("streams", 0, "transcript"), [payload]))

    assert read["streams"][0]["transcript"] == [payload]
    for words in ("\0", "\\\0"):
        with pytest.raises(MalformedReport, match="NUL"):
            parse_report(changed(("streams", 0, "transcript"), [words]))


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("worker",), ..., r"\$\.worker"),
        (("worker",), "w" * 121, r"\$\.worker"),
        (("seq",), -1, r"\$\.seq"),
        (("seq",), True, r"\$\.seq"),
        (("seq",), 2**63, r"\$\.seq"),
        (("sent_at",), 1e18, r"\$\.sent_at"),
        (("state",), None, r"\$\.state"),
        (("state", "pid"), "12", r"\$\.state\.pid"),
        (("state", "region"), "r" * 101, r"\$\.state\.region"),
        (("rollups",), {}, r"\$\.rollups"),
        (("rollups", 0), 5, r"\$\.rollups\[0\]"),
        (("rollups", 0, "bucket"), 1001, r"\$\.rollups\[0\]\.bucket"),
        (("rollups", 0, "requests"), 1.5, r"\$\.rollups\[0\]\.requests"),
        (("rollups", 0, "latency_ms", "count"), 7, r"\$\.rollups\[0\]\.latency_ms"),
        (("usage", 0, "attempt_id"), "", r"\$\.usage\[0\]\.attempt_id"),
        (("usage", 0, "ttft_ms"), "soon", r"\$\.usage\[0\]\.ttft_ms"),
        (("acks", 0, "verdict"), "maybe", r"\$\.acks\[0\]\.verdict"),
        (("events", 0, "data"), [], r"\$\.events\[0\]\.data"),
        (("events", 0, "kind"), "a\0b", r"\$"),
        (("rollups", 0, "attempts"), -1, r"\$\.rollups\[0\]\.attempts"),
        (("rollups", 0, "requests"), ..., r"\$\.rollups\[0\]\.requests"),
        (("rollups", 0, "drain_tps", "count"), 7, r"\$\.rollups\[0\]\.drain_tps"),
        (("rollups", 0, "outputs"), [], r"\$\.rollups\[0\]\.outputs"),
        (("rollups", 0, "outputs"), {"repair:x:y:z": -1}, r"\$\.rollups\[0\]\.outputs"),
        (("rollups", 0, "outputs"), {"repair:x:y:z": 1.5}, r"\$\.rollups\[0\]\.outputs"),
        (("rollups", 0, "outputs"), {"r" * 201: 1}, r"\$\.rollups\[0\]\.outputs"),
        (("rollups", 0, "outputs"), {f"repair:{at}:y:z": 1 for at in range(401)}, r"\$\.rollups\[0\]\.outputs"),
        (("usage", 0, "cause"), "c" * 61, r"\$\.usage\[0\]\.cause"),
        (("streams", 0, "stream_id"), "5" * 33, r"\$\.streams\[0\]\.stream_id"),
        (("streams", 1, "outcome"), "lost", r"\$\.streams\[1\]\.outcome"),
        (("streams", 0, "acked_tokens"), ..., r"\$\.streams\[0\]\.acked_tokens"),
        (("streams", 0, "transcript"), [5], r"\$\.streams\[0\]\.transcript"),
        (("streams", 0, "segments", 0, "how"), "again", r"\$\.streams\[0\]\.segments\[0\]\.how"),
        (("streams", 0, "segments", 0), [], r"\$\.streams\[0\]\.segments\[0\]"),
        (("deliveries", 0, "reader"), "somebody", r"\$\.deliveries\[0\]\.reader"),
        (("deliveries", 0, "delivered"), -1, r"\$\.deliveries\[0\]\.delivered"),
        (("deliveries",), {}, r"\$\.deliveries"),
        (("samples",), {}, r"\$\.samples"),
        (("samples", 0, "request_id"), "", r"\$\.samples\[0\]\.request_id"),
        (("samples", 0, "text"), "t" * 32_001, r"\$\.samples\[0\]\.text"),
        (("samples", 0, "version"), None, r"\$\.samples\[0\]\.version"),
        (("samples", 0, "tool_calls"), [["refund"]], r"\$\.samples\[0\]\.tool_calls"),
        (("samples", 0, "tool_calls"), [["refund", {"days": 14}]], r"\$\.samples\[0\]\.tool_calls"),
        (("samples", 0, "sources", 0), "1", r"\$\.samples\[0\]\.sources\[0\]"),
        (("samples", 0, "sources", 0, "text"), ..., r"\$\.samples\[0\]\.sources\[0\]\.text"),
        (("samples", 0, "is_json"), 1, r"\$\.samples\[0\]\.is_json"),
        (("evidence",), {}, r"\$\.evidence"),
        (("evidence", 0, "canary"), "", r"\$\.evidence\[0\]\.canary"),
        (("evidence", 0, "canary"), "c" * 101, r"\$\.evidence\[0\]\.canary"),
        (("evidence", 1, "arm"), "none", r"\$\.evidence\[1\]\.arm"),
        (CELLS, ..., r"\$\.evidence\[0\]\.cells"),
        (CELLS, [cell(3), cell(3)], r"\$\.evidence\[0\]\.cells"),
        (CELLS, [cell(64)], r"\$\.evidence\[0\]\.cells"),
        (CELLS, [cell(-1)], r"\$\.evidence\[0\]\.cells"),
        (CELLS, [cell(3)[:-1]], r"\$\.evidence\[0\]\.cells"),
        (CELLS, [[*cell(3), 0]], r"\$\.evidence\[0\]\.cells"),
        (CELLS, [cell(3, errors=0.5)], r"\$\.evidence\[0\]\.cells"),
        (CELLS, [cell(3, cost_micros=True)], r"\$\.evidence\[0\]\.cells"),
        (CELLS, [cell(3, cost_micros=2**63)], r"\$\.evidence\[0\]\.cells"),
        (CELLS, [cell(3, log2_ms=-0.5)], r"\$\.evidence\[0\]\.cells"),
        (CELLS, [cell(3, log2_ms="9")], r"\$\.evidence\[0\]\.cells"),
        (CELLS, [cell(3, 10, errors=11)], r"\$\.evidence\[0\]\.cells"),
        (CELLS, [cell(3, 10, grounded=1)], r"\$\.evidence\[0\]\.cells"),
        (("exposures", 0, "unit"), "1" * 15 + "G", r"\$\.exposures\[0\]\.unit"),
        (("exposures", 0, "unit"), "1" * 17, r"\$\.exposures\[0\]\.unit"),
        (("exposures", 0, "group"), 64, r"\$\.exposures\[0\]\.group"),
        (("exposures", 0, "arm"), "none", r"\$\.exposures\[0\]\.arm"),
        (("exposures", 0, "version"), 0, r"\$\.exposures\[0\]\.version"),
        (("exposures", 1, "served"), "both", r"\$\.exposures\[1\]\.served"),
        (("exposures", 1, "served"), ..., r"\$\.exposures\[1\]\.served"),
        (("state", "lanes"), {}, r"\$\.state\.lanes"),
        (("state", "lanes", 0, "lane"), "", r"\$\.state\.lanes\[0\]\.lane"),
        (("state", "lanes", 0, "state"), "ajar", r"\$\.state\.lanes\[0\]\.state"),
        (("state", "lanes", 0, "probes"), ..., r"\$\.state\.lanes\[0\]\.probes"),
        (("state", "lanes", 0, "open_for_seconds"), -1, r"\$\.state\.lanes\[0\]\.open_for_seconds"),
        (("state", "quotas"), {}, r"\$\.state\.quotas"),
        (("state", "quotas", 0, "pool"), "", r"\$\.state\.quotas\[0\]\.pool"),
        (("state", "quotas", 0, "limits"), {"hunger": 1}, r"\$\.state\.quotas\[0\]\.limits"),
        (("state", "quotas", 0, "learned", "requests"), "8000", r"\$\.state\.quotas\[0\]\.learned"),
        (("state", "quotas", 0, "ramp"), 1.1, r"\$\.state\.quotas\[0\]\.ramp"),
        (("state", "quotas", 0, "paused_seconds"), None, r"\$\.state\.quotas\[0\]\.paused_seconds"),
        (("state", "quotas", 0, "waiting", "batch"), ..., r"\$\.state\.quotas\[0\]\.waiting\.batch"),
        (("state", "quotas", 0, "eta_seconds", "batch"), -1, r"\$\.state\.quotas\[0\]\.eta_seconds\.batch"),
    ],
)
def test_what_no_column_could_hold_is_refused_with_its_place(path, value, place):
    """A malformed report names the member that is wrong, so that its sender can be found."""
    with pytest.raises(MalformedReport, match=place):
        parse_report(changed(path, value))


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(st.none() | st.text(max_size=5) | st.integers(0, 9), st.lists, max_leaves=4).map(orjson.dumps),
    )
)
def test_any_bytes_are_a_report_or_refused(raw):
    """Whatever stands in the stream, reading it ends in a report or in one kind of error."""
    with pytest.raises(MalformedReport):
        parse_report(raw)
