"""Reading what real engines show: texts of their /metrics, their models, slots and answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplane.health.engines import (
    ENGINES,
    read_models,
    read_numbers,
    read_slots,
    token_request,
    tokenize_request,
)
from dataplane.health.exposition import pick, read_samples, series

METRICS = Path(__file__).parent / "metrics"


def numbers(engine: str, name: str = ""):
    return read_numbers(ENGINES[engine].numbers, (METRICS / f"{name or engine}.txt").read_text())


def test_vllm_is_summed_over_its_engines():
    """Requests and tokens of both data-parallel engines, and the fuller of their caches."""
    told = numbers("vllm")

    assert (told["running"], told["waiting"], told["kv_used"], told["preemptions"]) == (8, 2, 0.6215, 5)
    assert (told["tokens"], told["finished"]) == (39751, 114)
    assert (told["prompt_tokens"], told["prompt_seconds"]) == (31210, 14.5527)
    assert told["started"] == 1764203123.45
    assert told["signs"] == {
        "vllm:generation_tokens_total": 39751,
        "vllm:prompt_tokens_total": 99445,
        "vllm:iteration_tokens_total_count": 6120,
        "vllm:request_success_total": 114,
        "vllm:kv_cache_usage_perc": pytest.approx(1.0342),
    }


def test_names_of_an_older_version_are_found_and_absent_ones_unknown():
    """0.9 has another name for the cache, and here no waiting at all: that is not zero."""
    told = numbers("vllm", "vllm-0.9")

    assert (told["running"], told["kv_used"]) == (1, 0.012)
    assert (told["waiting"], told["preemptions"], told["finished"], told["started"]) == (None, None, None, None)
    assert told["signs"] == {"vllm:generation_tokens_total": 77, "vllm:gpu_cache_usage_perc": 0.012}


def test_tgi_shows_its_batch_and_queue():
    """Both methods of inference are signs of life."""
    told = numbers("tgi")

    assert (told["running"], told["waiting"], told["tokens"], told["finished"]) == (4, 7, 41022, 381)
    assert told["signs"]["tgi_batch_inference_count"] == 40687
    assert told["kv_used"] is None


def test_triton_tells_series_apart_by_their_labels():
    """Active and waiting requests of TensorRT-LLM share a name."""
    told = numbers("triton")

    assert (told["running"], told["waiting"], told["kv_used"], told["finished"]) == (4, 1, 0.4875, 240)
    assert told["signs"]['nv_trt_llm_general_metrics{general_type="iteration_counter"}'] == 58012
    assert told["signs"]['nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used"}'] == 3042


def test_llama_cpp_as_a_server_of_october_2026_wrote_it():
    """Recorded while it read a long prompt: two batches further than its totals of tokens say."""
    told = numbers("llama.cpp")

    assert (told["running"], told["waiting"], told["kv_used"]) == (1, 2, None)
    assert (told["prompt_tokens"], told["prompt_seconds"]) == (514, 2.419412)
    assert told["signs"]["llamacpp:n_decode_total"] == 3


def test_slots_tell_how_far_prompts_and_answers_are():
    """As recorded from llama.cpp; a slot that was never used has neither."""
    slots = [
        {"id": 0, "n_ctx": 16384, "is_processing": True, "n_prompt_tokens": 6144, "n_prompt_tokens_processed": 4096,
         "n_prompt_tokens_cache": 0, "next_token": [{"has_next_token": True, "n_remain": 200, "n_decoded": 0}]},
        {"id": 1, "n_ctx": 16384, "speculative": False, "is_processing": False},
        {"id": 2, "n_prompt_tokens_processed": 7, "next_token": {"n_decoded": 3}},
    ]  # fmt: skip

    assert read_slots(slots) == {"slot 0 prompt": 4096, "slot 0 answer": 0, "slot 2 prompt": 7, "slot 2 answer": 3}


@pytest.mark.parametrize("shape", [None, {}, "x", [1], [{"id": "a"}], [{"id": 0, "next_token": []}]])
def test_slots_of_another_shape_are_no_signs(shape):
    """A version that changes them is read without them."""
    assert read_slots(shape) == {}


@pytest.mark.parametrize(
    ("engine", "status", "body", "asked_for", "told"),
    [
        ("vllm", 200, {"data": [{"id": "llama"}, {"id": "lora-a"}]}, "", (True, "llama")),
        ("vllm", 200, {"data": [{"id": "llama"}]}, "lora-a", (False, "lora-a")),
        ("vllm", 200, {"data": []}, "", (False, "")),
        ("vllm", 503, None, "", (False, "")),
        ("vllm", 200, ["odd"], "", (False, "")),
        ("tgi", 200, {"model_id": "bigscience/bloom"}, "", (True, "bigscience/bloom")),
        ("triton", 200, None, "ensemble", (True, "ensemble")),
        ("triton", 400, None, "ensemble", (False, "ensemble")),
    ],
)
def test_model_is_loaded_when_the_engine_lists_it(engine, status, body, asked_for, told):
    """By name where one is expected, else the first."""
    assert read_models(ENGINES[engine], status, body, asked_for) == told


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_every_engine_can_be_asked_for_one_token(engine):
    """Path and body say one token, and carry the prompt."""
    path, body = token_request(ENGINES[engine], model="m", prompt="the the")

    assert path.startswith("/")
    assert "the the" in str(body)
    assert {"max_tokens": 1}.items() <= body.items() or body["parameters"] == {"max_new_tokens": 1}


@pytest.mark.parametrize(("engine", "field"), [("vllm", "prompt"), ("tgi", "inputs"), ("llama.cpp", "content")])
def test_tokenizers_are_asked_in_their_own_words(engine, field):
    """Three engines, three shapes."""
    path, body = tokenize_request(ENGINES[engine], model="m")

    assert (path, body[field]) == ("/tokenize", "ok")


def test_lines_that_cannot_be_read_are_left_out():
    """Half a line of an answer that was cut off, NaN, and what is no number."""
    text = 'a 1\na{x="1"} 2 1764203123\nb nan\nc{x="q\\"uo}te"} 3\nd abc\ne{x="1" 4\n# a 9\nf +Inf\n'

    samples = read_samples(text, "abcdef")

    assert samples == {
        "a": [({}, 1.0), ({"x": "1"}, 2.0)],
        "c": [({"x": 'q\\"uo}te'}, 3.0)],
        "f": [({}, float("inf"))],
    }
    assert pick(samples, ("b", "a")) == 3.0
    assert pick(samples, ('a{x="1"}',)) == 2.0
    assert pick(samples, ("d", "e")) is None


def test_series_that_names_nothing_is_refused():
    """A table with a slip of the pen fails at once."""
    with pytest.raises(ValueError, match="names no series"):
        series("1abc")
