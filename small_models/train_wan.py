"""Trains a small WAN with VACE blocks that generates one moving figure at 64 × 64 pixels, in the published layout.

`python -m small_models.train_wan small_models/wan` takes an hour and a quarter on one CPU core and downloads nothing. An interrupted run
resumes from the checkpoints in `--work`; remove that folder to start over. A GPU is used if there is one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_models.build_cache import folder_summary, make_world_readable
from small_models.tiny.tokenizers import write_json
from small_models.training.command_line import steps_from, training_parser

_HELD_OUT_CLIPS = 100
_CLIP_COUNTS = {1: 200, 5: 400, 9: 1800, 13: 600, 17: 600}  # by number of frames
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
class StageSteps:
    """The number of steps of each stage.

    Attributes:
        text: The text encoder.
        images: The VAE, on images.
        clips: The VAE, on clips.
        transformer: The transformer, on all kinds of conditioning.
        motion: The transformer, with a higher loss weight of motion.
        references: The transformer, with references whose colors the captions omit.
    """

    text: int = 700
    images: int = 750
    clips: int = 800
    transformer: int = 4000
    motion: int = 6000
    references: int = 2500


def train_small_wan(folder: Path, work: Path, steps: StageSteps, *, seed: int) -> None:
    """Trains text encoder, VAE and transformer, and saves a diffusers folder in half precision.

    Args:
        folder: The diffusers folder to write.
        work: The folder for checkpoints and encoded clips.
        steps: The number of steps of each stage.
        seed: Seeds data, weights and noise.
    """
    # Imported lazily, so that `--help` does not import torch.
    import torch

    from small_models.training.loop import TrainingConfig
    from small_models.training.wan.latents import load_latent_clips
    from small_models.training.wan.networks import make_scheduler
    from small_models.training.wan.text_encoder import CaptionEncoder, probe_accuracy, train_text_encoder, write_tokenizer
    from small_models.training.wan.transformer import GENERAL, MOTION, REFERENCES, train_transformer
    from small_models.training.wan.vae import reconstruction_accuracy, train_vae

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = write_tokenizer(folder / "tokenizer")
    probed = train_text_encoder(tokenizer, TrainingConfig("text", steps.text, 2e-3, work / "text.pt"), device, seed)
    _report("captions", probe_accuracy(probed, tokenizer, _HELD_OUT_CLIPS, seed + 1))
    image_config = TrainingConfig("vae on images", steps.images, 2e-3, work / "vae_images.pt")
    clip_config = TrainingConfig("vae on clips", steps.clips, 4e-4, work / "vae_clips.pt", warmup=0.1)
    vae = train_vae(image_config, clip_config, device, seed)
    _report("reconstructions", reconstruction_accuracy(vae, _HELD_OUT_CLIPS, seed + 1))
    pool = load_latent_clips(vae, _CLIP_COUNTS, work / "clips.pt", seed)
    stages = (
        (GENERAL, TrainingConfig("transformer", steps.transformer, 1e-3, work / "transformer.pt")),
        (MOTION, TrainingConfig("transformer, motion", steps.motion, 1e-3, work / "motion.pt")),
        (REFERENCES, TrainingConfig("transformer, references", steps.references, 5e-4, work / "references.pt")),
    )
    transformer = train_transformer(pool, CaptionEncoder(tokenizer, probed.encoder), stages, device, seed)
    parts: dict[str, Any] = {"vae": vae, "text_encoder": probed.encoder, "transformer": transformer}
    for name, part in parts.items():
        part.to(torch.float16).save_pretrained(folder / name)
    make_scheduler().save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", _INDEX)
    make_world_readable(folder)


def _report(what: str, metrics: dict[str, float]) -> None:
    print(f"accuracy on {what}: " + ", ".join(f"{name} {value:.3g}" for name, value in metrics.items()))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = training_parser("python -m small_models.train_wan", __doc__, StageSteps, "out/small_wan")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the diffusers folder to write")
    options = parser.parse_args(arguments)
    train_small_wan(options.folder, options.work, steps_from(options, StageSteps), seed=options.seed)
    print(folder_summary(options.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
