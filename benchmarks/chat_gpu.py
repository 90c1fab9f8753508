"""How fast a GPU writes: `python -m benchmarks.chat_gpu`, or with `--small` anywhere, to try the script itself.

A model of Qwen2.5-7B's shape with random weights answers 1, 8, 32 and 64 conversations at once, beside the library's own `generate`. Each
step has to read all weights and what is remembered of each conversation; printed is what share of a measured bandwidth that is.
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

from benchmarks.chat_batching import ask_all
from handlers.chat.engines.transformers.chat_format import ModelSpec
from handlers.chat.engines.transformers.engine import TransformersEngine
from handlers.chat.engines.transformers.load import ChatModel
from handlers.chat.request import ChatRequest
from shared.settings import prepare_environment
from shared.telemetry import configure_logging

PROMPT, ANSWER = 500, 256
"""Tokens of each conversation."""

_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def main() -> None:
    """Prints a table."""
    prepare_environment()
    configure_logging("ERROR")
    options = argparse.ArgumentParser()
    options.add_argument("--small", action="store_true", help="a tiny model and few conversations")
    small: bool = options.parse_args().small
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model = _model(device, small=small)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.model.parameters())
    bandwidth = _bandwidth(device, small=small)
    print(f"weights {weights / 1e9:.2f} GB, bandwidth {bandwidth / 1e9:.0f} GB/s")
    engine = TransformersEngine([ModelSpec("qwen_instruct", lambda: model)])
    per_token = engine._models._known["qwen_instruct"].bytes_per_token
    print(f"{'at once':>8}{'engine':>16}{'generate':>16}{'ms per step':>14}{'of bandwidth':>14}{'first tokens':>14}")
    for count in (1, 4) if small else (1, 8, 32, 64):
        requests = [_request(number) for number in range(count)]
        ask_all(engine, requests[:1])  # warms up
        done = ask_all(engine, requests)
        seconds = max(answer.seconds for answer in done)
        first = max(answer.time_to_first_token for answer in done)
        step = (seconds - first) / ANSWER
        read = weights + count * (PROMPT + ANSWER / 2) * per_token
        written = sum(answer.completion_tokens for answer in done)
        print(
            f"{count:>8}{written / seconds:>12.1f} t/s{_generate(model, count):>12.1f} t/s{step * 1e3:>14.1f}"
            f"{read / step / bandwidth:>14.0%}{first:>12.2f} s"
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
    # No token ends an answer: all are as long as they may be.
    model.generation_config = GenerationConfig(eos_token_id=rows - 1, pad_token_id=0)
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(rows - 1)}, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, chat_template=_TEMPLATE, eos_token="w1")
    return ChatModel(model, tokenizer)


def _request(number: int) -> ChatRequest:
    words = " ".join(f"w{2 + (number * 7919 + at) % 900}" for at in range(PROMPT))
    raw = {"messages": [{"role": "user", "content": words}], "max_tokens": ANSWER, "temperature": 0.7, "top_p": 0.9, "seed": number}
    return ChatRequest.parse(raw, job_id="bench")


@torch.inference_mode()
def _generate(model: ChatModel, count: int) -> float:
    """Tokens per second of the library's own batch, whose rows all begin and end together."""
    ids = torch.randint(2, 900, (count, PROMPT), device=model.model.device)
    generate: Any = model.model.generate
    options: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": None, "min_new_tokens": ANSWER}
    generate(ids[:1], max_new_tokens=ANSWER, **options)
    started = time.perf_counter()
    out = generate(ids, max_new_tokens=ANSWER, **options)
    out.cpu()
    return count * ANSWER / (time.perf_counter() - started)


def _bandwidth(device: torch.device, *, small: bool) -> float:
    """Bytes per second that the device reads and writes while it copies."""
    source = torch.zeros(2**24 if small else 2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(5):
        _wait(device)
        started = time.perf_counter()
        target.copy_(source)
        _wait(device)
        times.append(time.perf_counter() - started)
    return 2 * source.numel() / min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
