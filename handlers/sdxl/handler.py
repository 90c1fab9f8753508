"""The SDXL worker: `python -m handlers.sdxl.handler`."""

from __future__ import annotations

from handlers.sdxl.request import SdxlRequest
from shared.handler import Handler
from shared.jobs.recipe import Recipe
from shared.serverless import serve
from shared.settings import Settings, SettingsError
from shared.weights.catalogue import SDXL
from shared.weights.resolve import resolve


def load(settings: Settings) -> Recipe[SdxlRequest]:
    """Loads SDXL to the device that the settings choose.

    Raises:
        SettingsError: There is no SDXL, or it cannot be used; or pictures are to be checked and there is nothing to check them with.
    """
    weights = resolve(SDXL, settings)
    # Imported after that, so that a worker without weights says so before it has imported torch.
    from handlers.sdxl.recipe import SdxlRecipe
    from handlers.sdxl.weights.load import load_sdxl
    from shared.models.device import choose_device, choose_dtype
    from shared.weights.addons import Shelf

    shelf = Shelf(settings.models_dir)
    if settings.sdxl_safety_check and not shelf.names("safety_checker"):
        raise SettingsError("SDXL_SAFETY_CHECK is on, and MODELS_DIR has no safety_checker/. Put one there, or turn it off.")
    device = choose_device(settings.device)
    pipeline = load_sdxl(weights, device, choose_dtype(device, "sdxl"))
    return SdxlRecipe(
        pipeline,
        shelf,
        without_adapters=settings.sdxl_reference_method == "img2img",
        safety_check=settings.sdxl_safety_check,
    )


HANDLER = Handler("sdxl", SdxlRequest, load, libraries=("handlers.sdxl.recipe", "handlers.sdxl.weights.load"), weights=(SDXL,))

if __name__ == "__main__":
    serve(HANDLER)
