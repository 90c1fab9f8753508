"""Trains a small WAN with VACE blocks that follows its prompts: one figure that moves, 64 × 64 pixels, in the published layout.

`python -m small_models.train_wan small_models/wan` takes an hour and a quarter on one CPU core and downloads nothing. A run that was
stopped goes on from what it left in `--work`; for a fresh one, remove that folder.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_models.build_cache import make_world_readable
from small_models.tiny.tokenizers import write_json
from small_models.training.command_line import make_parser, plan_of

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


@dataclass(frozen=True)
class Plan:
    """How many steps each stage makes.

    Attributes:
        text: The text encoder.
        pictures: The VAE, on pictures.
        clips: The VAE, on clips.
        transformer: The transformer, on all that it learns.
        motion: The transformer, with changes from frame to frame counted more.
        references: The transformer, with pictures and frames given whose colors captions leave out.
    """

    text: int = 700
    pictures: int = 750
    clips: int = 800
    transformer: int = 4000
    motion: int = 6000
    references: int = 2500


def train_small_wan(folder: Path, work: Path, plan: Plan, *, seed: int) -> None:
    """Trains the VAE, the text encoder, then the transformer, and writes a diffusers folder in half precision.

    Args:
        folder: Where the model goes.
        work: Where checkpoints and encoded clips are kept.
        plan: How many steps each stage makes.
        seed: Draws clips, captions, weights and noise.
    """
    # Imported here, so that the command line answers at once.
    import torch

    from small_models.training.loop import Stage
    from small_models.training.wan.latents import load_examples
    from small_models.training.wan.networks import make_scheduler
    from small_models.training.wan.text_encoder import Texts, judge_reader, train_reader, write_tokenizer
    from small_models.training.wan.transformer import BROAD, MOTION, REFERENCES, train_transformer
    from small_models.training.wan.vae import judge_vae, train_vae

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = write_tokenizer(folder / "tokenizer")
    reader = train_reader(tokenizer, Stage("text", plan.text, 2e-3, work / "text.pt"), device, seed)
    _tell("captions", judge_reader(reader, tokenizer, _JUDGED, seed + 1))
    stages = (
        Stage("vae on pictures", plan.pictures, 2e-3, work / "vae_pictures.pt"),
        Stage("vae on clips", plan.clips, 4e-4, work / "vae_clips.pt", warmup=0.1),
    )
    vae = train_vae(*stages, device, seed)
    _tell("reconstructions", judge_vae(vae, _JUDGED, seed + 1))
    pool = load_examples(vae, _COUNTS, work / "examples.pt", seed)
    texts = Texts(tokenizer, reader.encoder)
    passes = (
        (BROAD, Stage("transformer", plan.transformer, 1e-3, work / "transformer.pt")),
        (MOTION, Stage("transformer, motion", plan.motion, 1e-3, work / "motion.pt")),
        (REFERENCES, Stage("transformer, references", plan.references, 5e-4, work / "references.pt")),
    )
    transformer = train_transformer(pool, texts, passes, device, seed)
    parts: dict[str, Any] = {"vae": vae, "text_encoder": reader.encoder, "transformer": transformer}
    for name, part in parts.items():
        part.to(torch.float16).save_pretrained(folder / name)
    make_scheduler().save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", _INDEX)
    make_world_readable(folder)


def _tell(what: str, judged: dict[str, float]) -> None:
    print(f"read right from {what}: " + ", ".join(f"{name} {value:.3g}" for name, value in judged.items()))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = make_parser("python -m small_models.train_wan", __doc__, Plan, "out/small_wan")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the diffusers folder to write")
    options = parser.parse_args(arguments)
    train_small_wan(options.folder, options.work, plan_of(Plan, options), seed=options.seed)
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    print(f"{options.folder}  {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
