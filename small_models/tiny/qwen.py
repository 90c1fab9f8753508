"""Tiny Qwen models: an instruct model and a base model, in the published file layout and sharded."""

from __future__ import annotations

from pathlib import Path

from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from small_models.tiny.tokenizers import QWEN_CONTEXT, QWEN_CONTROL, write_qwen

_SHARD = "256KB"


def _write_model(folder: Path, *, vocabulary: int, generation: GenerationConfig) -> None:
    config = Qwen2Config(
        vocab_size=-(-vocabulary // 32) * 32,  # more embedding rows than tokens, as in the published models
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=QWEN_CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=False,
        initializer_range=0.12,  # large enough for the next token to depend on the text
        bos_token_id=None,
        eos_token_id=generation.eos_token_id,
        dtype="bfloat16",
    )
    model = Qwen2ForCausalLM(config).bfloat16()
    model.generation_config = generation
    model.save_pretrained(folder, max_shard_size=_SHARD)


def write_qwen_instruct(folder: Path) -> None:
    """Writes the instruct model.

    Its generation config contains sampling defaults, as the published one does, so generation must set every field explicitly.
    """
    vocabulary = write_qwen(folder, pad="<|endoftext|>", eos="<|im_end|>")
    end_of_text, _, end_of_turn = range(vocabulary - len(QWEN_CONTROL), vocabulary)
    generation = GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_k=20,
        top_p=0.8,
        repetition_penalty=1.05,
        pad_token_id=end_of_text,
        eos_token_id=[end_of_turn, end_of_text],
    )
    _write_model(folder, vocabulary=vocabulary, generation=generation)


def write_qwen_base(folder: Path) -> None:
    """Writes the base model, which has a single end token."""
    vocabulary = write_qwen(folder, pad="<|endoftext|>", eos="<|endoftext|>")
    end_of_text = vocabulary - len(QWEN_CONTROL)
    _write_model(folder, vocabulary=vocabulary, generation=GenerationConfig(max_new_tokens=QWEN_CONTEXT, eos_token_id=end_of_text))
