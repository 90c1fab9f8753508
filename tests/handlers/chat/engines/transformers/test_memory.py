"""The KV-cache budget on common GPUs."""

from __future__ import annotations

from handlers.chat.engines.transformers.memory import CacheDemand, fits, max_model_len, max_num_seqs

GB = 2**30
BYTES_PER_TOKEN = 57_344
"""KV-cache bytes per token of Qwen2.5-7B: 2 × 28 layers × 4 heads × 128 × 2 bytes."""


def sequence_budget(gpu: float, models: float) -> int:
    """Returns the bytes left for sequences: without the models, the workspace, and an eighth for two prefix caches."""
    return int((gpu - models - 2 * GB) * 7 / 8)


def test_two_7b_models_on_48_gb_leave_memory_for_many_sequences() -> None:
    budget = sequence_budget(48e9, 2 * 15.24e9)
    assert max_num_seqs(BYTES_PER_TOKEN, 32768, budget) == 56
    assert max_model_len(BYTES_PER_TOKEN, budget) >= 32768
    assert [fits([CacheDemand(BYTES_PER_TOKEN, sequences, 30_000)], budget) for sequences in (6, 7)] == [True, False]
    assert fits([CacheDemand(BYTES_PER_TOKEN, 56, 4000)], budget)


def test_one_7b_model_on_24_gb_leaves_memory_for_some_sequences() -> None:
    budget = sequence_budget(24e9, 15.24e9)
    assert max_num_seqs(BYTES_PER_TOKEN, 32768, budget) == 23
    assert max_model_len(BYTES_PER_TOKEN, budget) >= 32768
    assert [fits([CacheDemand(BYTES_PER_TOKEN, sequences, 30_000)], budget) for sequences in (2, 3)] == [True, False]


def test_sequences_of_both_models_share_the_budget() -> None:
    demand = CacheDemand(100, 3, 1023)
    assert demand.bytes == 4 * 1024 * 100
    assert fits([demand, demand], 2 * demand.bytes)
    assert not fits([demand, demand], 2 * demand.bytes - 1)
    assert CacheDemand(100, 0, 0).bytes == 0
