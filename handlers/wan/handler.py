"""The WAN worker: `python -m handlers.wan.handler`."""

from __future__ import annotations

from shared.contract.wan import WanRequest
from shared.jobs.recipe import Recipe
from shared.media.videos import check_encoder
from shared.serverless import Handler, serve
from shared.settings import Settings, SettingsError
from shared.weights.catalogue import WAN
from shared.weights.resolve import resolve


def check_video(_settings: Settings) -> None:
    """Raises `SettingsError` when this machine cannot write H.264."""
    try:
        check_encoder()
    except RuntimeError as error:
        raise SettingsError(str(error)) from None


def load(settings: Settings) -> Recipe[WanRequest]:
    """Loads WAN to the device that the settings choose."""
    folder = resolve(WAN, settings)
    # Imported after that, so that a worker without weights says so before it has imported torch.
    from handlers.wan.generate import WanRecipe
    from shared.models.device import choose_device, choose_dtype
    from shared.models.diffusion import load_wan

    device = choose_device(settings.device)
    return WanRecipe(load_wan(folder, device, choose_dtype(device, "wan")))


HANDLER = Handler("wan", WanRequest, load, checks={"encoder": check_video})

if __name__ == "__main__":
    serve(HANDLER)
