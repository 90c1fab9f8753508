"""Trains what is attached to the small SDXL: a LoRA, an IP-Adapter with its image encoder, and a ControlNet.

`python -m small_models.train_addons small_models/sdxl small_models` takes about twenty minutes on one CPU core and downloads nothing.
A run that was stopped goes on from the checkpoints in `--work`; for a fresh one, remove that folder. A GPU is used where there is one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from small_models.training.command_line import make_parser, plan_of

_DECAY = 0.98  # of averaged weights: attachments are trained for so few steps that a longer memory would reach back to the first ones


@dataclass(frozen=True)
class Plan:
    """How many steps each stage makes.

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


def train_small_attachments(sdxl: Path, folder: Path, work: Path, plan: Plan, *, seed: int) -> None:
    """Trains each on a fresh copy of the small SDXL and writes it in half precision, as such files are published.

    Args:
        sdxl: The small SDXL, a diffusers folder.
        folder: Gets `loras`, `ip_adapters` and `controlnets`.
        work: Where checkpoints are kept.
        plan: How many steps each stage makes.
        seed: Draws pictures, weights and noise.
    """
    # Imported here, so that the command line answers at once.
    import torch

    from small_models.training.addons.base_model import load_frozen
    from small_models.training.addons.controlnet import train_controlnet
    from small_models.training.addons.image_encoder import save_image_encoder, train_image_encoder
    from small_models.training.addons.ip_adapter import train_ip_adapter
    from small_models.training.addons.lora import train_lora
    from small_models.training.loop import Stage

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_lora(load_frozen(sdxl, device), folder / "loras", Stage("lora", plan.lora, 4e-3, work / "lora.pt", decay=_DECAY), seed)
    encoder, answered = train_image_encoder(Stage("image", plan.image, 2e-3, work / "image.pt"), device, seed)
    print(f"answered right from held-out pictures: {answered:.1%}")
    ip_stage = Stage("ip", plan.ip, 4e-3, work / "ip.pt", decay=_DECAY)
    train_ip_adapter(load_frozen(sdxl, device), encoder, folder / "ip_adapters", ip_stage, seed)
    save_image_encoder(encoder, folder / "ip_adapters" / "image_encoder")
    control_stage = Stage("control", plan.control, 2e-3, work / "control.pt", decay=_DECAY)
    train_controlnet(load_frozen(sdxl, device), folder / "controlnets" / "canny", control_stage, seed)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = make_parser("python -m small_models.train_addons", __doc__, Plan, "out/small_attachments")
    parser.add_argument("sdxl", type=Path, metavar="SDXL_DIR", help="the small SDXL, a diffusers folder")
    parser.add_argument("folder", type=Path, metavar="OUT_DIR", help="the folder to write loras, ip_adapters and controlnets into")
    options = parser.parse_args(arguments)
    train_small_attachments(options.sdxl, options.folder, options.work, plan_of(Plan, options), seed=options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
