"""Trains a small SDXL that follows its prompts: one figure or two, 64 × 64 pixels, in the published layout.

`python -m builder.train_small_sdxl small_models/sdxl` takes 36 minutes on two CPU cores and downloads nothing. A run that was stopped
goes on from the checkpoints in `--work`; for a fresh one, remove that folder. On a GPU it makes more steps in the same time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from builder.tiny.tokenizers import write_json

_PICTURES = 16_000
_PAIRS = 0.15  # the share of pictures with two figures
_JUDGED = 200


def train_small_sdxl(folder: Path, work: Path, *, vae_minutes: float, decoder_minutes: float, minutes: float, seed: int) -> None:
    """Trains the VAE, its decoder alone, then the UNet with the text encoders, and writes a diffusers folder in half precision.

    Args:
        folder: Where the model goes.
        work: Where checkpoints are kept.
        vae_minutes: Wall-clock time for the VAE.
        decoder_minutes: Wall-clock time for its decoder alone.
        minutes: Wall-clock time for the UNet and the text encoders.
        seed: Draws pictures, weights and noise. How many steps fit into the time is the machine's, so the bytes differ from run to run.
    """
    # Imported here, so that the command line answers at once.
    import torch

    from builder.small.denoiser import Examples, save_denoiser, train_denoiser, write_tokenizers
    from builder.small.training import Stage
    from builder.small.vae import encode, judge_vae, make_pool, save_vae, sharpen, train_vae
    from builder.tiny.sdxl import INDEX

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scenes, pictures = make_pool(_PICTURES, seed + 1, pairs=_PAIRS)
    vae = train_vae(pictures, Stage("vae", vae_minutes, 2e-3, work / "vae.pt"), device, seed)
    latents = encode(vae, pictures)
    sharpen(vae, pictures, latents, Stage("decoder", decoder_minutes, 1e-3, work / "decoder.pt"), seed)
    judged = judge_vae(vae, _JUDGED, seed + 2)
    print("read right from reconstructions: " + ", ".join(f"{name} {share:.1%}" for name, share in judged.items()))
    examples = Examples(latents * vae.config.scaling_factor, scenes)
    stage = Stage("denoiser", minutes, 1e-3, work / "denoiser.pt")
    denoiser = train_denoiser(examples, write_tokenizers(folder), stage, device, seed)
    save_vae(vae, folder / "vae")
    save_denoiser(denoiser, folder)
    write_json(folder / "model_index.json", INDEX | {"force_zeros_for_empty_prompt": False})
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)  # weights are written for their owner alone, but a worker may run as somebody else


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m builder.train_small_sdxl", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the diffusers folder to write")
    parser.add_argument("--work", type=Path, default=Path("out/small_sdxl"), help="the folder for checkpoints (default out/small_sdxl)")
    parser.add_argument("--vae-minutes", type=float, default=12.0, help="time for the VAE (default 12)")
    parser.add_argument("--decoder-minutes", type=float, default=3.0, help="time for the VAE's decoder alone (default 3)")
    parser.add_argument("--minutes", type=float, default=20.0, help="time for the UNet and the text encoders (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="draws pictures, weights and noise (default 0)")
    options = parser.parse_args(arguments)
    minutes = {"vae_minutes": options.vae_minutes, "decoder_minutes": options.decoder_minutes, "minutes": options.minutes}
    train_small_sdxl(options.folder, options.work, **minutes, seed=options.seed)
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    print(f"{options.folder}  {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
