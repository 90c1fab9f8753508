"""The SDXL worker: `python -m handlers.sdxl.handler`."""

from __future__ import annotations

if __name__ == "__main__" and not __package__:  # run as a file, from which the other packages are not found
    raise SystemExit("Start the worker as a module, in the root of the repository: .venv/bin/python -m handlers.sdxl.handler")

from handlers.sdxl.request import SdxlRequest
from shared.handler import Handler
from shared.jobs.recipe import Recipe
from shared.media.encoding import IMAGE_TYPES, THUMBNAIL_MIME
from shared.media.size_bounds import max_image_bytes
from shared.models.prefetch import all_weight_files, prefetched
from shared.serverless import serve
from shared.settings import Settings, SettingsError
from shared.weights.catalogue import SDXL
from shared.weights.resolve import resolve, weights_name


def load(settings: Settings) -> Recipe[SdxlRequest]:
    """Loads SDXL to the configured device.

    Raises:
        SettingsError: SDXL was not found, or the safety check is enabled without a safety checker.
        WeightsError: SDXL's weights are unusable.
    """
    weights = resolve(SDXL, settings)
    with prefetched(all_weight_files(weights, half=settings.device != "cpu")):
        # Imported after that, so that a worker without weights reports it before torch is imported.
        from handlers.sdxl.compilation import compiled_networks
        from handlers.sdxl.recipe import SdxlRecipe
        from handlers.sdxl.weights.load import load_sdxl
        from shared.models.compilation import can_compile
        from shared.models.device import choose_device, choose_dtype
        from shared.weights.addons import AddonLibrary, addon_folders

        addons = AddonLibrary(*addon_folders(settings))
        if settings.sdxl_safety_check and not addons.names("safety_checker"):
            raise SettingsError(
                "SDXL_SAFETY_CHECK is on, but MODELS_DIR has no safety_checker/. "
                "`python -m builder.download_weights sdxl --with safety` adds one; or turn the setting off."
            )
        device = choose_device(settings.device)
        pipeline = load_sdxl(weights, device, choose_dtype(device, "sdxl"))
    compiles = settings.compile_models and can_compile(device)
    return SdxlRecipe(
        pipeline,
        addons,
        img2img_only=settings.sdxl_reference_method == "img2img",
        safety_check=settings.sdxl_safety_check,
        model_name=settings.sdxl_model_name or weights_name(weights),
        compiled_networks=compiled_networks(pipeline) if compiles else (),
    )


def max_bytes_of(request: SdxlRequest) -> int:
    """Returns an upper bound of the bytes of all files that a job stores."""
    factor = request.upscale.factor if request.upscale is not None else 1
    return request.num_images * max_image_bytes(factor * request.width, factor * request.height, request.output_format)


HANDLER = Handler(
    "sdxl",
    SdxlRequest,
    load,
    libraries=("handlers.sdxl.recipe", "handlers.sdxl.weights.load"),
    weights=(SDXL,),
    types_of=lambda request: (IMAGE_TYPES[request.output_format].mime, THUMBNAIL_MIME),
    max_bytes_of=max_bytes_of,
    idle_work=lambda recipe: recipe.idle_work(),
    default_concurrency=2,  # an image takes seconds, a good part of which is fetching, storing, and the SDK's polling for the next job
)

if __name__ == "__main__":
    serve(HANDLER)
