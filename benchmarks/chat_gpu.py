"""Decode throughput on a GPU: `python -m benchmarks.chat_gpu`; with `--small` it runs anywhere, to test the script itself.

A model of Qwen2.5-7B's shape with random weights serves 1, 8, 32 and 64 concurrent requests, compared with transformers' `generate`. Decode
is bound by memory bandwidth: each step reads all weights and the whole KV cache. The table shows the share of the measured bandwidth.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from benchmarks.chat_batching import complete_concurrently
from handlers.chat.engines.transformers.chat_format import ModelSpec
from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.engines.transformers.memory import measure_bytes_per_token
from handlers.chat.request import ChatRequest
from shared.settings import prepare_environment
from shared.telemetry import configure_logging

PROMPT, COMPLETION = 500, 256
"""Tokens of each request."""

_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def main() -> None:
    """Prints a table."""
    prepare_environment()
    configure_logging("ERROR")
    options = argparse.ArgumentParser()
    options.add_argument("--small", action="store_true", help="a tiny model and few requests")
    small: bool = options.parse_args().small
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model = _model(device, small=small)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.model.parameters())
    bandwidth = _bandwidth(device, small=small)
    print(f"weights {weights / 1e9:.2f} GB, bandwidth {bandwidth / 1e9:.0f} GB/s")
    engine = TransformersEngine([ModelSpec("qwen_instruct", lambda: model)])
    bytes_per_token = measure_bytes_per_token(model, "qwen_instruct")
    print(f"{'requests':>8}{'engine':>16}{'generate':>16}{'ms per step':>14}{'of bandwidth':>14}{'first tokens':>14}")
    for count in (1, 4) if small else (1, 8, 32, 64):
        requests = [_request(number) for number in range(count)]
        complete_concurrently(engine, requests[:1])  # warm-up
        completions = complete_concurrently(engine, requests)
        seconds = max(completion.seconds for completion in completions)
        first = max(completion.time_to_first_token for completion in completions)
        step = (seconds - first) / COMPLETION
        bytes_read = weights + count * (PROMPT + COMPLETION / 2) * bytes_per_token
        generated = sum(completion.completion_tokens for completion in completions)
        print(
            f"{count:>8}{generated / seconds:>12.1f} t/s{_generate(model, count):>12.1f} t/s{step * 1e3:>14.1f}"
            f"{bytes_read / step / bandwidth:>14.0%}{first:>12.2f} s"
        )


def _model(device: torch.device, *, small: bool) -> ChatModel:
    size = (64, 128, 2, 4, 2) if small else (3584, 18944, 28, 28, 4)
    hidden, inner, layers, heads, kv_heads = size
    rows = 1000 if small else 152_064
    config = Qwen2Config(
        vocab_size=rows,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=32_768,
        tie_word_embeddings=False,
        dtype=torch.bfloat16,
    )
    with device:
        torch.set_default_dtype(torch.bfloat16)
        model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
        torch.set_default_dtype(torch.float32)
    # No end-of-sequence token is ever sampled, so that every completion has the maximum length.
    model.generation_config = GenerationConfig(eos_token_id=rows - 1, pad_token_id=0)
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(rows - 1)}, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, chat_template=_TEMPLATE, eos_token="w1")
    return ChatModel(model, tokenizer)


def _request(number: int) -> ChatRequest:
    words = " ".join(f"w{2 + (number * 7919 + at) % 900}" for at in range(PROMPT))
    raw = {"messages": [{"role": "user", "content": words}], "max_tokens": COMPLETION, "temperature": 0.7, "top_p": 0.9, "seed": number}
    return ChatRequest.parse(raw, job_id="bench")


@torch.inference_mode()
def _generate(model: ChatModel, count: int) -> float:
    """Returns the tokens per second of transformers' `generate` with a static batch."""
    ids = torch.randint(2, 900, (count, PROMPT), device=model.model.device)
    generate: Any = model.model.generate
    options: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": None, "min_new_tokens": COMPLETION}
    generate(ids[:1], max_new_tokens=COMPLETION, **options)
    started = time.perf_counter()
    out = generate(ids, max_new_tokens=COMPLETION, **options)
    out.cpu()
    return count * COMPLETION / (time.perf_counter() - started)


def _bandwidth(device: torch.device, *, small: bool) -> float:
    """Measures the memory bandwidth in bytes per second with a copy, counting reads and writes."""
    source = torch.zeros(2**24 if small else 2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(5):
        _synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        _synchronize(device)
        times.append(time.perf_counter() - started)
    return 2 * source.numel() / min(times)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
