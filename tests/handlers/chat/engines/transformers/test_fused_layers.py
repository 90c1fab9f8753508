"""Fused layers compute what the layers of transformers compute, and a row's result does not depend on the rows next to it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from handlers.chat.engines.transformers.fused_layers import fuse
from handlers.chat.engines.transformers.fused_linear import FusedLinear, PackedLinear, can_pack
from handlers.chat.engines.transformers.kv_cache import KVCache, forward

FUSED = ("llama", "mistral", "qwen2", "qwen3")
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 100,
    "pad_token_id": 0,
}
PROMPTS = [[(7 * row + 3 * token) % 90 + 5 for token in range(5 + 4 * row)] for row in range(8)]


@pytest.fixture(autouse=True)
def inference() -> Any:
    with torch.inference_mode():
        yield


def random_model(model_type: str, **fields: Any) -> PreTrainedModel:
    """Returns a small model with random weights, biases and norms."""
    torch.manual_seed(3)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SIZES | fields)).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def fused(model: PreTrainedModel) -> PreTrainedModel:
    copy = deepcopy(model)
    fuse(copy)
    return copy


def is_fused(model: Any) -> bool:
    return isinstance(model.lm_head, FusedLinear)


def decode(model: PreTrainedModel, prompts: Sequence[Sequence[int]], steps: int = 3) -> Tensor:
    """Prefills prompts in one pass, and decodes a few given tokens. Returns the logits of all passes, passes × rows × vocabulary."""
    lengths, rows = [len(prompt) for prompt in prompts], len(prompts)
    cache = KVCache(2, rows, 256)
    logits = [forward(model, cache, prompts, [0] * rows)]
    for step in range(steps):
        logits.append(forward(model, cache, [[step + 9]] * rows, [length + step for length in lengths]))
    return torch.stack(logits)


@pytest.mark.parametrize("model_type", FUSED)
def test_fused_layers_give_the_logits_of_transformers(model_type: str) -> None:
    model = random_model(model_type)
    assert is_fused(fused(model))
    torch.testing.assert_close(decode(fused(model), PROMPTS), decode(model, PROMPTS), atol=1e-4, rtol=1e-4)
    ids = torch.tensor([PROMPTS[-1]])
    torch.testing.assert_close(fused(model)(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fields", [{"attention_bias": True}, {"tie_word_embeddings": True}, {"num_key_value_heads": 4}])
def test_biases_tied_embeddings_and_heads_with_keys_of_their_own_are_kept(fields: dict[str, Any]) -> None:
    model = random_model("llama", **fields)
    torch.testing.assert_close(decode(fused(model), PROMPTS), decode(model, PROMPTS), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_close_to_float32_as_transformers_is(dtype: torch.dtype) -> None:
    model = random_model("qwen2")
    expected = decode(model, PROMPTS)
    half: Any = deepcopy(model)
    half.to(dtype)
    error, usual = ((decode(each, PROMPTS).float() - expected).abs().mean() for each in (fused(half), half))
    assert error < 1.5 * usual


@pytest.mark.parametrize("fields", [{}, {"hidden_act": "gelu"}])
def test_other_architectures_stay_as_they_are(fields: dict[str, Any]) -> None:
    model = random_model("llama", **fields) if fields else random_model("olmo2")
    assert not is_fused(fused(model))
    decode(fused(model), PROMPTS)


def test_a_model_with_layers_of_another_class_stays_as_it_is() -> None:
    class Quantized(nn.Linear):
        pass

    model: Any = random_model("llama")
    model.model.layers[1].mlp.up_proj.__class__ = Quantized
    assert not is_fused(fused(model))


@pytest.mark.parametrize("model_type", FUSED)
def test_a_row_has_the_same_logits_in_any_batch(model_type: str) -> None:
    model = fused(random_model(model_type))
    together = decode(model, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(decode(model, [prompt])[:, 0], together[:, row], atol=1e-5, rtol=1e-5)


def layers(inputs: int, *outputs: int, bias: bool, dtype: torch.dtype) -> list[nn.Linear]:
    torch.manual_seed(5)
    return [nn.Linear(inputs, count, bias=bias, dtype=dtype).requires_grad_(False) for count in outputs]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [FusedLinear, PackedLinear])
def test_joined_layers_have_the_outputs_of_each(kind: type[FusedLinear], bias: bool, dtype: torch.dtype) -> None:
    if kind is PackedLinear and not can_pack(dtype):
        pytest.skip("this CPU has no kernels for packed weights of this precision")
    parts = layers(2048, 24, 8, bias=bias, dtype=dtype)
    joined = kind(parts)
    for rows in (1, 2, 7):
        x, other = torch.randn(rows, 1, 2048, dtype=dtype), torch.randn(rows, 1, 32, dtype=dtype)
        plain = torch.cat([part(x) for part in parts], -1)
        tolerance = 1e-4 if dtype == torch.float32 else 0.05
        torch.testing.assert_close(joined(x), plain, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(joined.silu(x), nn.functional.silu(plain), atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(joined.times(x, other), plain * other, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(joined.plus(x, other), plain + other, atol=tolerance, rtol=tolerance)


def test_layers_of_which_only_some_have_a_bias_are_not_joined() -> None:
    one, other = layers(8, 4, bias=True, dtype=torch.float32) + layers(8, 4, bias=False, dtype=torch.float32)
    with pytest.raises(ValueError, match="bias"):
        FusedLinear([one, other])


def test_a_single_row_is_multiplied_as_in_a_pair() -> None:
    (layer,) = layers(4096, 64, bias=True, dtype=torch.float32)
    packed = PackedLinear([layer])
    pair, other = torch.randn(2, 1, 4096), torch.randn(2, 1, 64)
    assert torch.equal(packed(pair[:1]), packed(pair)[:1])
    assert torch.equal(packed.silu(pair[:1]), packed.silu(pair)[:1])
    assert torch.equal(packed.plus(pair[:1], other[:1]), packed.plus(pair, other)[:1])
    assert torch.equal(packed.times(pair[:1], other[:1]), packed.times(pair, other)[:1])


def test_attention_on_a_cpu_sees_whole_vectors_of_positions() -> None:
    """Sums over another number of vectors would depend on the longest row."""
    model, cache = random_model("llama"), KVCache(2, 2, 256)
    forward(model, cache, PROMPTS[:2], [0, 0])
    assert cache.get_mask_sizes(1, 0) == (16, 0)
    assert torch.equal(decode(fused(model), [PROMPTS[3]]), decode(fused(model), [PROMPTS[3], PROMPTS[3]])[:, :1])
