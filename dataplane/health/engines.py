"""The engines that are known, as data: their paths, the names of their numbers, and how they are asked for one token.

Names differ between versions, so each number has its names in the order in which they are tried, the present one first;
a number that is not there is unknown, never zero. Sources, as of November 2026:

- vLLM: https://docs.vllm.ai/en/stable/usage/metrics/ and `vllm/v1/metrics/loggers.py`. `gpu_cache_usage_perc` became
  `kv_cache_usage_perc` in 0.10. Tokens of a long prompt are counted when all of it was read, and its scheduler sets the
  use of the KV cache at every step: so that gauge is among the signs. Its `/health` looks at whether the engine's
  process is there, not at whether it can compute: https://github.com/vllm-project/vllm/issues/36960.
- Triton: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html and, of
  the TensorRT-LLM backend, https://github.com/triton-inference-server/tensorrtllm_backend#triton-metrics. Its metrics
  are on a port of their own, 8002.
- TGI: https://huggingface.co/docs/text-generation-inference/reference/metrics.
- llama.cpp: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md, and a server of October 2026 that
  was asked. Its totals of tokens move when a prompt was read or an answer is over; `n_decode_total` moves at every
  batch, and `/slots` tells how far each prompt and answer is. `/metrics` and `/slots` want the flags of their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from dataplane.health.exposition import pick, read_samples, series

PROCESS_START: Final = ("process_start_time_seconds",)


@dataclass(frozen=True, slots=True)
class Numbers:
    """By which names an engine shows what: series, tried in order. Of `signs` all are taken, each for itself."""

    running: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    kv_used: tuple[str, ...] = ()
    preemptions: tuple[str, ...] = ()
    finished: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    prompt_tokens: tuple[str, ...] = ()
    prompt_seconds: tuple[str, ...] = ()
    started: tuple[str, ...] = PROCESS_START
    signs: tuple[str, ...] = ()

    def names(self) -> frozenset[str]:
        """Every name that may be looked for."""
        groups = (
            self.running,
            self.waiting,
            self.kv_used,
            self.preemptions,
            self.finished,
            self.tokens,
            self.prompt_tokens,
            self.prompt_seconds,
            self.started,
            self.signs,
        )
        return frozenset(series(text).name for group in groups for text in group)


@dataclass(frozen=True, slots=True)
class Engine:
    """One kind of engine. Paths may hold `{model}`; an empty one: there is none.

    `canary` names how it is asked for a token: completions, chat, tgi or triton. `step_tokens` is what it reads of a
    prompt in one step at most, as it is shipped; None: all of it.
    """

    name: str
    health: str
    models: str
    metrics: str
    canary: str
    numbers: Numbers
    metrics_port: int | None = None
    slots: str = ""
    tokenize: str = ""
    step_tokens: int | None = None


ENGINES: Final[dict[str, Engine]] = {
    one.name: one
    for one in (
        Engine(
            name="vllm",
            health="/health",
            models="/v1/models",
            metrics="/metrics",
            canary="completions",
            tokenize="/tokenize",
            step_tokens=8192,
            numbers=Numbers(
                running=("vllm:num_requests_running",),
                waiting=("vllm:num_requests_waiting",),
                kv_used=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
                preemptions=("vllm:num_preemptions_total", "vllm:num_preemptions"),
                finished=("vllm:request_success_total", "vllm:request_success"),
                tokens=("vllm:generation_tokens_total", "vllm:generation_tokens"),
                # Both are of requests that ended, so that their quotient is a rate; what came out of the prefix cache
                # was not computed, and would make it look quick.
                prompt_tokens=("vllm:request_prefill_kv_computed_tokens_sum", "vllm:request_prompt_tokens_sum"),
                prompt_seconds=("vllm:request_prefill_time_seconds_sum",),
                signs=(
                    "vllm:generation_tokens_total",
                    "vllm:prompt_tokens_total",
                    "vllm:iteration_tokens_total_count",
                    "vllm:request_success_total",
                    "vllm:kv_cache_usage_perc",
                    "vllm:gpu_cache_usage_perc",
                ),
            ),
        ),
        Engine(
            name="triton",
            health="/v2/health/ready",
            models="/v2/models/{model}/ready",
            metrics="/metrics",
            metrics_port=8002,
            canary="triton",
            numbers=Numbers(
                running=('nv_trt_llm_request_metrics{request_type="active"}', "vllm:num_requests_running"),
                waiting=(
                    'nv_trt_llm_request_metrics{request_type="waiting"}',
                    "vllm:num_requests_waiting",
                    "nv_inference_pending_request_count",
                ),
                kv_used=(
                    'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}',
                    "vllm:kv_cache_usage_perc",
                    "vllm:gpu_cache_usage_perc",
                ),
                finished=("nv_inference_request_success",),
                tokens=("vllm:generation_tokens_total", "nv_inference_count"),
                signs=(
                    "nv_inference_count",
                    "nv_inference_exec_count",
                    "nv_inference_request_success",
                    'nv_trt_llm_general_metrics{general_type="iteration_counter"}',
                    'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used"}',
                    "vllm:generation_tokens_total",
                    "vllm:prompt_tokens_total",
                    "vllm:iteration_tokens_total_count",
                ),
            ),
        ),
        Engine(
            name="tgi",
            health="/health",
            models="/info",
            metrics="/metrics",
            canary="tgi",
            tokenize="/tokenize",
            step_tokens=4096,
            numbers=Numbers(
                running=("tgi_batch_current_size",),
                waiting=("tgi_queue_size",),
                finished=("tgi_request_success",),
                tokens=("tgi_request_generated_tokens_sum",),
                signs=(
                    "tgi_batch_inference_count",
                    "tgi_batch_inference_success",
                    "tgi_request_generated_tokens_sum",
                    "tgi_request_success",
                    "tgi_batch_forward_duration_count",
                ),
            ),
        ),
        Engine(
            name="llama.cpp",
            health="/health",
            models="/v1/models",
            metrics="/metrics",
            canary="completions",
            slots="/slots",
            tokenize="/tokenize",
            step_tokens=2048,
            numbers=Numbers(
                running=("llamacpp:requests_processing",),
                waiting=("llamacpp:requests_deferred",),
                kv_used=("llamacpp:kv_cache_usage_ratio",),
                tokens=("llamacpp:tokens_predicted_total",),
                prompt_tokens=("llamacpp:prompt_tokens_total",),
                prompt_seconds=("llamacpp:prompt_seconds_total",),
                signs=(
                    "llamacpp:n_decode_total",
                    "llamacpp:prompt_tokens_total",
                    "llamacpp:tokens_predicted_total",
                ),
            ),
        ),
        Engine(name="openai", health="", models="/v1/models", metrics="", canary="chat", numbers=Numbers()),
    )
}


def read_numbers(numbers: Numbers, text: str) -> dict[str, Any]:
    """Return what `text`, in Prometheus' format, says of an engine, as fields of an `EngineReading`."""
    samples = read_samples(text, numbers.names())
    signs = {name: value for name in numbers.signs if (value := pick(samples, (name,))) is not None}
    return {
        "running": pick(samples, numbers.running),
        "waiting": pick(samples, numbers.waiting),
        # Of several engines behind one port, the fullest is the one that throws requests out.
        "kv_used": pick(samples, numbers.kv_used, fold=max),
        "preemptions": pick(samples, numbers.preemptions),
        "finished": pick(samples, numbers.finished),
        "tokens": pick(samples, numbers.tokens),
        "prompt_tokens": pick(samples, numbers.prompt_tokens),
        "prompt_seconds": pick(samples, numbers.prompt_seconds),
        "started": pick(samples, numbers.started, fold=max),
        "signs": signs,
    }


def read_slots(slots: object) -> dict[str, float]:
    """Return the signs that llama.cpp's `/slots` gives: how much of prompts was read, how much of answers is written.

    Shape: [{"id": int, "n_prompt_tokens_processed"?: int, "next_token"?: [{"n_decoded": int}] or {"n_decoded": int}}].
    Other shapes give nothing.
    """
    if not isinstance(slots, list):
        return {}
    signs: dict[str, float] = {}
    for slot in slots:
        if not isinstance(slot, dict) or not isinstance(slot.get("id"), int):
            continue
        processed = slot.get("n_prompt_tokens_processed")
        if isinstance(processed, int):
            signs[f"slot {slot['id']} prompt"] = processed
        after = slot.get("next_token")
        first = after[0] if isinstance(after, list) and after else after
        decoded = first.get("n_decoded") if isinstance(first, dict) else None
        if isinstance(decoded, int):
            signs[f"slot {slot['id']} answer"] = decoded
    return signs


def read_models(engine: Engine, status: int, body: object, model: str) -> tuple[bool, str]:
    """Return whether the engine has its model loaded, and the model's name as it is to be asked for.

    Args:
        model: The name that is expected; empty: the first that it lists.
    """
    if status != 200:
        return False, model
    if engine.name == "triton":
        return True, model
    if engine.name == "tgi":
        told = body.get("model_id") if isinstance(body, dict) else None
        return isinstance(told, str) and bool(told), model or (told if isinstance(told, str) else "")
    data = body.get("data") if isinstance(body, dict) else None
    names = (
        [one["id"] for one in data if isinstance(one, dict) and isinstance(one.get("id"), str)]
        if isinstance(data, list)
        else []
    )
    if model:
        return model in names, model
    return bool(names), names[0] if names else ""


def token_request(engine: Engine, *, model: str, prompt: str) -> tuple[str, dict[str, Any]]:
    """Return path and body of a request for one token after `prompt`."""
    match engine.canary:
        case "tgi":
            return "/generate", {"inputs": prompt, "parameters": {"max_new_tokens": 1}}
        case "triton":
            return f"/v2/models/{model}/generate", {"text_input": prompt, "max_tokens": 1}
        case "chat":
            messages = [{"role": "user", "content": prompt}]
            return "/v1/chat/completions", {"model": model, "messages": messages, "max_tokens": 1}
        case _:
            return "/v1/completions", {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0}


def tokenize_request(engine: Engine, *, model: str) -> tuple[str, dict[str, Any]]:
    """Return path and body of a request to tokenize a word."""
    match engine.name:
        case "vllm":
            return engine.tokenize, {"model": model, "prompt": "ok"}
        case "tgi":
            return engine.tokenize, {"inputs": "ok"}
        case _:
            return engine.tokenize, {"content": "ok"}
