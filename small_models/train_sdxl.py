"""Trains a small SDXL that generates one or two plain figures at 64 × 64 pixels, in the published layout.

`python -m small_models.train_sdxl small_models/sdxl` takes about an hour on one CPU core and downloads nothing. An interrupted run resumes
from the checkpoints in `--work`; remove that folder to start over. A GPU is used if there is one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from small_models.build_cache import folder_summary, make_world_readable
from small_models.tiny.tokenizers import write_json
from small_models.training.command_line import steps_from, training_parser

_IMAGES = 16_000
_PAIRS = 0.25  # fraction of images with two figures
_HELD_OUT_IMAGES = 200


@dataclass(frozen=True)
class StageSteps:
    """The number of steps of each stage.

    Attributes:
        vae: The VAE.
        decoder: The fine-tuning of the VAE's decoder.
        text: Both text encoders.
        unet: The UNet.
    """

    vae: int = 7000
    decoder: int = 3000
    text: int = 1500
    unet: int = 6000


def train_small_sdxl(folder: Path, work: Path, steps: StageSteps, *, seed: int) -> None:
    """Trains text encoders, VAE, VAE decoder and UNet, and saves a diffusers folder in half precision.

    Args:
        folder: The diffusers folder to write.
        work: The folder for checkpoints.
        steps: The number of steps of each stage.
        seed: Seeds data, weights and noise.
    """
    # Imported lazily, so that `--help` does not import torch.
    import torch

    from small_models.tiny.sdxl import INDEX
    from small_models.training.loop import TrainingConfig
    from small_models.training.sdxl.dataset import generate_dataset
    from small_models.training.sdxl.text_encoders import train_text_encoders, write_tokenizers
    from small_models.training.sdxl.unet import LatentDataset, save_unet_and_text_encoders, train_unet
    from small_models.training.sdxl.vae import encode, finetune_decoder, reconstruction_accuracy, save_vae, train_vae

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text_config = TrainingConfig("text", steps.text, 1e-3, work / "text.pt")
    encoders, accuracy = train_text_encoders(write_tokenizers(folder), text_config, device, seed)
    print(f"probe accuracy on held-out captions: {accuracy:.1%}")
    scenes, images = generate_dataset(_IMAGES, seed + 1, pairs=_PAIRS)
    vae = train_vae(images, TrainingConfig("vae", steps.vae, 2e-3, work / "vae.pt"), device, seed)
    latents = encode(vae, images)
    finetune_decoder(vae, images, latents, TrainingConfig("decoder", steps.decoder, 1e-3, work / "decoder.pt"), seed)
    accuracies = reconstruction_accuracy(vae, _HELD_OUT_IMAGES, seed + 2)
    print("accuracy on reconstructions: " + ", ".join(f"{name} {value:.1%}" for name, value in accuracies.items()))
    dataset = LatentDataset(latents * vae.config.scaling_factor, scenes)
    unet = train_unet(dataset, encoders, TrainingConfig("unet", steps.unet, 1e-3, work / "unet.pt"), device, seed)
    save_vae(vae, folder / "vae")
    save_unet_and_text_encoders(unet, encoders, folder)
    write_json(folder / "model_index.json", INDEX | {"force_zeros_for_empty_prompt": False})
    make_world_readable(folder)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = training_parser("python -m small_models.train_sdxl", __doc__, StageSteps, "out/small_sdxl")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the diffusers folder to write")
    options = parser.parse_args(arguments)
    train_small_sdxl(options.folder, options.work, steps_from(options, StageSteps), seed=options.seed)
    print(folder_summary(options.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
