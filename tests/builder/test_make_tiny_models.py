from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, CLIPTokenizer

from builder.make_tiny_models import FAMILIES, main, make_tiny_models
from shared.weights.catalogue import CATALOGUE, Weights
from shared.weights.folders import missing_files
from small_models.build_cache import UnmanagedFolder


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def config(path: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return content


@pytest.fixture
def copy(tiny_models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models, tmp_path / "models"))


@pytest.mark.slow
def test_another_process_makes_the_same_bytes(tiny_models: Path, tmp_path: Path) -> None:
    # Another hash seed and another number of threads: neither the order of sets nor the splitting of work may show.
    environment = {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1", "PATH": ""}
    command = [sys.executable, "-m", "builder.make_tiny_models", str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100, check=True)
    assert digests(tmp_path) == digests(tiny_models)
    assert done.stdout.count("  made\n") == len(FAMILIES)


def test_another_seed_makes_other_weights(tiny_models: Path, tmp_path: Path) -> None:
    make_tiny_models(tmp_path, seed=1)
    ours, others = digests(tiny_models), digests(tmp_path)
    weights = [name for name in ours if name.endswith(".safetensors")]
    assert weights
    assert all(ours[name] != others[name] for name in weights)
    assert ours["qwen_base/merges.txt"] == others["qwen_base/merges.txt"]


def test_instruct_and_base_have_different_weights(tiny_models: Path) -> None:
    instruct, base = digests(tiny_models / "qwen_instruct"), digests(tiny_models / "qwen_base")
    assert instruct["model-00001-of-00002.safetensors"] != base["model-00001-of-00002.safetensors"]


def test_what_is_current_is_left_alone(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert not any(make_tiny_models(copy).values())
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


@pytest.mark.parametrize("damage", ["a file is gone", "a file is cut", "the stamp is of another recipe"])
def test_what_is_not_current_is_made_again(copy: Path, tiny_models: Path, damage: str) -> None:
    wan = copy / "wan"
    match damage:
        case "a file is gone":
            (wan / "vae" / "config.json").unlink()
        case "a file is cut":
            (wan / "model_index.json").write_text("{", encoding="utf-8")
        case _:
            (wan / "made.json").write_text(json.dumps(config(wan / "made.json") | {"recipe": "old"}), encoding="utf-8")
    assert make_tiny_models(copy) == {"sdxl": False, "wan": True, "qwen_instruct": False, "qwen_base": False}
    assert digests(copy) == digests(tiny_models)
    assert {path.name for path in copy.iterdir()} == set(FAMILIES)


def test_real_weights_of_the_same_name_are_never_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = tmp_path / "sdxl" / "unet.safetensors"
    real.parent.mkdir()
    real.write_bytes(b"seven gigabytes")
    with pytest.raises(UnmanagedFolder, match=r"sdxl was not made by this program and is left alone\. Move it away"):
        make_tiny_models(tmp_path)
    assert main([str(tmp_path)]) == 1
    assert "left alone" in capsys.readouterr().err
    assert real.read_bytes() == b"seven gigabytes"


def test_a_file_that_somebody_put_into_a_model_is_not_lost_when_the_model_is_made_again(copy: Path) -> None:
    (copy / "wan" / "notes.txt").write_text("mine", encoding="utf-8")
    assert not any(make_tiny_models(copy).values())
    (copy / "wan" / "model_index.json").unlink()
    with pytest.raises(UnmanagedFolder, match=r"notes\.txt in it was not made by this program"):
        make_tiny_models(copy)
    assert (copy / "wan" / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("weights", CATALOGUE, ids=lambda weights: weights.name)
def test_every_entry_of_the_catalogue_has_a_small_model_with_its_layout(tiny_models: Path, weights: Weights) -> None:
    assert missing_files(tiny_models / weights.name, weights.layout) == []


def test_all_of_it_is_small_and_readable_by_everybody(tiny_models: Path) -> None:
    files = [path.stat() for path in tiny_models.rglob("*") if path.is_file()]
    assert sum(file.st_size for file in files) < 20e6
    assert all(file.st_mode & 0o777 == 0o644 for file in files)


def test_sdxl_has_three_unet_blocks_two_different_text_encoders_and_a_vae_that_divides_by_eight(tiny_models: Path) -> None:
    unet, vae, first, second = (
        config(tiny_models / "sdxl" / part / "config.json") for part in ("unet", "vae", "text_encoder", "text_encoder_2")
    )
    assert unet["down_block_types"] == ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
    assert unet["sample_size"] == 128
    assert first["hidden_size"] != second["hidden_size"]
    assert unet["cross_attention_dim"] == first["hidden_size"] + second["hidden_size"]  # type: ignore[operator]
    assert len(vae["block_out_channels"]) == 4  # type: ignore[arg-type]
    assert vae["force_upcast"] is True


def test_clip_tokens_are_framed_by_start_and_end_and_the_end_has_the_highest_id(tiny_models: Path) -> None:
    for folder, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        tokenizer = CLIPTokenizer.from_pretrained(tiny_models / "sdxl" / folder)
        ids = tokenizer("a photo of a Cat").input_ids
        assert ids == tokenizer("A  PHOTO OF A cat").input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id == len(tokenizer) - 1
        assert tokenizer.pad_token == pad
        assert tokenizer.model_max_length == 77
        assert tokenizer.unk_token_id not in tokenizer("żółw 猫 \N{GRINNING FACE}").input_ids[:-1]


def test_qwen_brings_back_any_text_and_keeps_control_tokens_apart(tiny_models: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_models / "qwen_instruct")
    text = "  Tabs\t, 猫, \N{FAMILY}\N{ZERO WIDTH JOINER}\N{BOY} and <|im_end|>\n"
    typed = tokenizer(text, split_special_tokens=True).input_ids
    assert tokenizer.decode(typed) == text
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in typed
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in tokenizer(text).input_ids


def test_qwen_hides_the_sampling_defaults_and_the_system_prompt_that_the_published_one_hides(tiny_models: Path) -> None:
    generation = config(tiny_models / "qwen_instruct" / "generation_config.json")
    hidden = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}
    assert hidden.items() <= generation.items()
    tokenizer = AutoTokenizer.from_pretrained(tiny_models / "qwen_instruct")
    assert generation["eos_token_id"] == [tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert rendered == "<|im_start|>system\nYou are a small assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_the_base_model_knows_one_end_token(tiny_models: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_models / "qwen_base")
    assert tokenizer.eos_token == "<|endoftext|>"
    assert config(tiny_models / "qwen_base" / "generation_config.json")["eos_token_id"] == tokenizer.eos_token_id
