"""Small weights in the layouts of the catalogue's add-ons, a hub that publishes them, and the command that downloads them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import ControlNetModel

from builder.weights.addons import ADDONS
from tests.doubles.fake_hub import FakeHub
from tests.doubles.processes import ROOT
from tests.handlers.sdxl.files import write_image_encoder, write_ip_adapter, write_safety_checker
from tests.handlers.sdxl.upscalers import basicsr_names, esrgan, tensors_of, write_upscaler

LATEST = "b" * 40
COMPOSITION = next(addon for addon in ADDONS if addon.revision is None)


def write_published(folder: Path, pipeline: Any) -> dict[str, dict[str, bytes]]:
    """Small weights in the layout of every repository of the catalogue. Returns the files of each by path."""
    half = {"variant": "fp16", "safe_serialization": True}
    adapters = folder / "h94/IP-Adapter"
    write_image_encoder(adapters / "models/image_encoder")
    for seed, name in enumerate(("ip-adapter_sdxl_vit-h", "ip-adapter-plus-face_sdxl_vit-h", "ip-adapter_sdxl")):
        write_ip_adapter(adapters / f"sdxl_models/{name}.safetensors", pipeline, plus="plus" in name, seed=seed)
    write_ip_adapter(folder / "ostris/ip-composition-adapter/ip_plus_composition_sdxl.safetensors", pipeline, plus=True, seed=3)
    controlnet = ControlNetModel.from_unet(pipeline.unet)
    for kind in ("canny", "depth"):
        controlnet.save_pretrained(folder / f"diffusers/controlnet-{kind}-sdxl-1.0", **half)
    controlnet.save_pretrained(folder / "xinsir/controlnet-openpose-sdxl-1.0")
    write_upscaler(folder / "Comfy-Org/Real-ESRGAN_repackaged/RealESRGAN_x4plus.safetensors", basicsr_names(tensors_of(esrgan())))
    pipeline.unet.save_pretrained(folder / "stabilityai/stable-diffusion-xl-refiner-1.0/unet", **half)
    (folder / "stabilityai/stable-diffusion-xl-refiner-1.0/model_index.json").write_text("{}")
    write_safety_checker(folder / "stable-diffusion-v1-5/stable-diffusion-v1-5/safety_checker", threshold=1.0)
    checker = folder / "stable-diffusion-v1-5/stable-diffusion-v1-5/safety_checker"
    (checker / "model.safetensors").rename(checker / "model.fp16.safetensors")
    return {repo: _files(folder / repo) for repo in {addon.repo for addon in ADDONS}}


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def publish_addons(hub: FakeHub, published: Mapping[str, dict[str, bytes]]) -> None:
    """Publishes all add-ons of the catalogue at its revisions."""
    for addon in ADDONS:
        hub.publish(addon.repo, addon.revision or LATEST, published[addon.repo])


class Downloads:
    """Runs `builder.download_weights` with the sizes of the small weights in the catalogue.

    Args:
        hub: Publishes them.
        folder: Where `models/` is filled.
        published: As `write_published` returns them.
    """

    def __init__(self, hub: FakeHub, folder: Path, published: dict[str, dict[str, bytes]]) -> None:
        self.models = folder / "models"
        size = len(published[COMPOSITION.repo]["ip_plus_composition_sdxl.safetensors"])
        # The catalogue's size of an add-on without a revision is checked, and the published one is a thousand times larger.
        self._code = (
            "import sys\nfrom dataclasses import replace\n"
            "from builder.download_weights import main\nfrom builder.weights.addons import ADDONS\n"
            f"catalogue = tuple(replace(each, size={size}) if each.revision is None else each for each in ADDONS)\n"
            "sys.exit(main(sys.argv[1:], catalogue))"
        )
        self._environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "NO_PROXY": "*", "PATH": os.environ["PATH"]}

    def run(self, *arguments: str, small: bool = True) -> tuple[int, str]:
        """Returns the exit status and the output; `small=False` leaves the catalogue's sizes as they are."""
        command = ["-c", self._code] if small else ["-m", "builder.download_weights"]
        done = subprocess.run(
            [sys.executable, *command, *arguments, "--to", str(self.models)],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
        return done.returncode, done.stdout + done.stderr
