"""Trains a small WAN with VACE blocks that follows its prompts: one figure that moves, 64 × 64 pixels, in the published layout.

`python -m builder.train_small_wan small_models/wan` takes about an hour on one CPU core and downloads nothing. A run that was stopped goes
on from what it left in `--work`; for a fresh one, remove that folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from builder.stamps import make_readable
from builder.tiny.tokenizers import write_json

_PICTURE_STEPS = 750
_CLIP_STEPS = 800
_TEXT_STEPS = 700
_BROAD_STEPS = 4000
_MOTION_STEPS = 3000
_JUDGED = 100
_COUNTS = {1: 200, 5: 400, 9: 1800, 13: 600, 17: 600}  # of clips of each length
_INDEX = {
    "_class_name": "WanVACEPipeline",
    "boundary_ratio": None,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "WanVACETransformer3DModel"],
    "transformer_2": [None, None],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


def train_small_wan(folder: Path, work: Path, *, seed: int) -> None:
    """Trains the VAE, the text encoder, then the transformer, and writes a diffusers folder in half precision.

    Args:
        folder: Where the model goes.
        work: Where checkpoints and encoded clips are kept.
        seed: Draws clips, captions, weights and noise.
    """
    # Imported here, so that the command line answers at once.
    import torch

    from builder.small.training import Stage
    from builder.small.wan.denoiser import BROAD, MOTION, train_transformer
    from builder.small.wan.examples import load_examples
    from builder.small.wan.networks import make_scheduler
    from builder.small.wan.text import Texts, judge_reader, train_reader, write_tokenizer
    from builder.small.wan.vae import judge_vae, train_vae

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = write_tokenizer(folder / "tokenizer")
    reader = train_reader(tokenizer, Stage("text", _TEXT_STEPS, 2e-3, work / "text.pt"), device, seed)
    _tell("captions", judge_reader(reader, tokenizer, _JUDGED, seed + 1))
    stages = (
        Stage("vae on pictures", _PICTURE_STEPS, 2e-3, work / "vae_pictures.pt"),
        Stage("vae on clips", _CLIP_STEPS, 4e-4, work / "vae_clips.pt", warmup=0.1),
    )
    vae = train_vae(*stages, device, seed)
    _tell("reconstructions", judge_vae(vae, _JUDGED, seed + 1))
    pool = load_examples(vae, _COUNTS, work / "examples.pt", seed)
    texts = Texts(tokenizer, reader.encoder)
    plan = (
        (BROAD, Stage("transformer", _BROAD_STEPS, 1e-3, work / "transformer.pt")),
        (MOTION, Stage("transformer, motion", _MOTION_STEPS, 1e-3, work / "motion.pt")),
    )
    transformer = train_transformer(pool, texts, plan, device, seed)
    parts: dict[str, Any] = {"vae": vae, "text_encoder": reader.encoder, "transformer": transformer}
    for name, part in parts.items():
        part.to(torch.float16).save_pretrained(folder / name)
    make_scheduler().save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", _INDEX)
    make_readable(folder)


def _tell(what: str, judged: dict[str, float]) -> None:
    print(f"read right from {what}: " + ", ".join(f"{name} {value:.3g}" for name, value in judged.items()))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m builder.train_small_wan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the diffusers folder to write")
    parser.add_argument("--work", type=Path, default=Path("out/small_wan"), help="the folder for checkpoints (default out/small_wan)")
    parser.add_argument("--seed", type=int, default=0, help="draws clips, captions, weights and noise (default 0)")
    options = parser.parse_args(arguments)
    train_small_wan(options.folder, options.work, seed=options.seed)
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    print(f"{options.folder}  {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
