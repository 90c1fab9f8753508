"""Trains the add-ons of the small SDXL: a LoRA, an IP-Adapter with its image encoder, and a ControlNet.

`python -m small_models.train_addons small_models/sdxl small_models` takes about twenty minutes on one CPU core and downloads nothing. An
interrupted run resumes from the checkpoints in `--work`; remove that folder to start over. A GPU is used if there is one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from small_models.training.command_line import steps_from, training_parser

_EMA_DECAY = 0.98  # lower than usual: in so few steps a longer average would include the first weights


@dataclass(frozen=True)
class StageSteps:
    """The number of steps of each stage.

    Attributes:
        lora: The LoRA.
        image: The image encoder.
        ip: The IP-Adapter.
        control: The ControlNet.
    """

    lora: int = 1200
    image: int = 3500
    ip: int = 6000
    control: int = 1200


def train_small_addons(sdxl: Path, folder: Path, work: Path, steps: StageSteps, *, seed: int) -> None:
    """Trains each add-on on a fresh copy of the small SDXL and saves it in half precision.

    Args:
        sdxl: The small SDXL, a diffusers folder.
        folder: The folder that receives `loras`, `ip_adapters` and `controlnets`.
        work: The folder for checkpoints.
        steps: The number of steps of each stage.
        seed: Seeds data, weights and noise.
    """
    # Imported lazily, so that `--help` does not import torch.
    import torch

    from small_models.training.addons.base_model import load_frozen_sdxl
    from small_models.training.addons.controlnet import train_controlnet
    from small_models.training.addons.image_encoder import save_image_encoder, train_image_encoder
    from small_models.training.addons.ip_adapter import train_ip_adapter
    from small_models.training.addons.lora import train_lora
    from small_models.training.loop import TrainingConfig

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lora_config = TrainingConfig("lora", steps.lora, 4e-3, work / "lora.pt", ema_decay=_EMA_DECAY)
    train_lora(load_frozen_sdxl(sdxl, device), folder / "loras", lora_config, seed)
    encoder, accuracy = train_image_encoder(TrainingConfig("image", steps.image, 2e-3, work / "image.pt"), device, seed)
    print(f"probe accuracy on held-out images: {accuracy:.1%}")
    ip_config = TrainingConfig("ip", steps.ip, 4e-3, work / "ip.pt", ema_decay=_EMA_DECAY)
    train_ip_adapter(load_frozen_sdxl(sdxl, device), encoder, folder / "ip_adapters", ip_config, seed)
    save_image_encoder(encoder, folder / "ip_adapters" / "image_encoder")
    control_config = TrainingConfig("control", steps.control, 2e-3, work / "control.pt", ema_decay=_EMA_DECAY)
    train_controlnet(load_frozen_sdxl(sdxl, device), folder / "controlnets" / "canny", control_config, seed)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = training_parser("python -m small_models.train_addons", __doc__, StageSteps, "out/small_addons")
    parser.add_argument("sdxl", type=Path, metavar="SDXL_DIR", help="the small SDXL, a diffusers folder")
    parser.add_argument("folder", type=Path, metavar="OUT_DIR", help="the folder that receives loras, ip_adapters and controlnets")
    options = parser.parse_args(arguments)
    train_small_addons(options.sdxl, options.folder, options.work, steps_from(options, StageSteps), seed=options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
