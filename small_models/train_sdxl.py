"""Trains a small SDXL that follows its prompts: one figure or two, 64 × 64 pixels, in the published layout.

`python -m small_models.train_sdxl small_models/sdxl` takes about an hour on one CPU core and downloads nothing. A run that was stopped
goes on from the checkpoints in `--work`; for a fresh one, remove that folder. A GPU is used where there is one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from small_models.build_cache import make_world_readable
from small_models.tiny.tokenizers import write_json
from small_models.training.command_line import make_parser, plan_of

_PICTURES = 16_000
_PAIRS = 0.25  # the share of pictures with two figures
_JUDGED = 200


@dataclass(frozen=True)
class Plan:
    """How many steps each stage makes.

    Attributes:
        vae: The VAE.
        decoder: The VAE's decoder alone.
        text: Both text encoders.
        unet: The UNet.
    """

    vae: int = 7000
    decoder: int = 3000
    text: int = 1500
    unet: int = 6000


def train_small_sdxl(folder: Path, work: Path, plan: Plan, *, seed: int) -> None:
    """Trains the VAE, its decoder alone, the text encoders, then the UNet, and writes a diffusers folder in half precision.

    Args:
        folder: Where the model goes.
        work: Where checkpoints are kept.
        plan: How many steps each stage makes.
        seed: Draws pictures, weights and noise.
    """
    # Imported here, so that the command line answers at once.
    import torch

    from small_models.tiny.sdxl import INDEX
    from small_models.training.loop import Stage
    from small_models.training.sdxl.text_encoders import train_text_encoders, write_tokenizers
    from small_models.training.sdxl.unet import Examples, save_denoiser, train_unet
    from small_models.training.sdxl.vae import encode, generate_dataset, judge_vae, save_vae, sharpen, train_vae

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoders, answered = train_text_encoders(write_tokenizers(folder), Stage("text", plan.text, 1e-3, work / "text.pt"), device, seed)
    print(f"answered right from held-out captions: {answered:.1%}")
    scenes, pictures = generate_dataset(_PICTURES, seed + 1, pairs=_PAIRS)
    vae = train_vae(pictures, Stage("vae", plan.vae, 2e-3, work / "vae.pt"), device, seed)
    latents = encode(vae, pictures)
    sharpen(vae, pictures, latents, Stage("decoder", plan.decoder, 1e-3, work / "decoder.pt"), seed)
    judged = judge_vae(vae, _JUDGED, seed + 2)
    print("read right from reconstructions: " + ", ".join(f"{name} {share:.1%}" for name, share in judged.items()))
    examples = Examples(latents * vae.config.scaling_factor, scenes)
    unet = train_unet(examples, encoders, Stage("unet", plan.unet, 1e-3, work / "unet.pt"), device, seed)
    save_vae(vae, folder / "vae")
    save_denoiser(unet, encoders, folder)
    write_json(folder / "model_index.json", INDEX | {"force_zeros_for_empty_prompt": False})
    make_world_readable(folder)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = make_parser("python -m small_models.train_sdxl", __doc__, Plan, "out/small_sdxl")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the diffusers folder to write")
    options = parser.parse_args(arguments)
    train_small_sdxl(options.folder, options.work, plan_of(Plan, options), seed=options.seed)
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    print(f"{options.folder}  {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
