"""The SDXL worker: `python -m handlers.sdxl.handler`."""

from __future__ import annotations

from shared.contract.sdxl import SdxlRequest
from shared.jobs.recipe import Recipe
from shared.serverless import Handler, serve
from shared.settings import Settings
from shared.weights.catalogue import SDXL
from shared.weights.resolve import resolve


def check_weights(settings: Settings) -> None:
    """Raises `SettingsError` when the weights are not on this machine."""
    resolve(SDXL, settings)


def load(settings: Settings) -> Recipe[SdxlRequest]:
    """Loads SDXL to the device that the settings choose."""
    # Imported here, so that a worker that is not configured says so before it has imported torch.
    from handlers.sdxl.generate import SdxlRecipe
    from shared.models.device import choose_device, choose_dtype
    from shared.models.diffusion import load_sdxl

    device = choose_device(settings.device)
    return SdxlRecipe(load_sdxl(resolve(SDXL, settings), device, choose_dtype(device, "sdxl")))


HANDLER = Handler("sdxl", SdxlRequest, {"weights": check_weights}, load)

if __name__ == "__main__":
    serve(HANDLER)
