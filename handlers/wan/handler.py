"""The WAN worker: `python -m handlers.wan.handler`."""

from __future__ import annotations

from shared.contract.wan import WanRequest
from shared.jobs.recipe import Recipe
from shared.media.videos import check_encoder
from shared.serverless import Handler, serve
from shared.settings import Settings, SettingsError
from shared.weights.catalogue import WAN
from shared.weights.resolve import resolve


def check_weights(settings: Settings) -> None:
    """Raises `SettingsError` when the weights are not on this machine."""
    resolve(WAN, settings)


def check_video(_settings: Settings) -> None:
    """Raises `SettingsError` when this machine cannot write H.264."""
    try:
        check_encoder()
    except RuntimeError as error:
        raise SettingsError(str(error)) from None


def load(settings: Settings) -> Recipe[WanRequest]:
    """Loads WAN to the device that the settings choose."""
    # Imported here, so that a worker that is not configured says so before it has imported torch.
    from handlers.wan.generate import WanRecipe
    from shared.models.device import choose_device, choose_dtype
    from shared.models.diffusion import load_wan

    device = choose_device(settings.device)
    return WanRecipe(load_wan(resolve(WAN, settings), device, choose_dtype(device, "wan")))


HANDLER = Handler("wan", WanRequest, {"weights": check_weights, "encoder": check_video}, load)

if __name__ == "__main__":
    serve(HANDLER)
