"""The WAN worker: `python -m handlers.wan.handler`."""

from __future__ import annotations

if __name__ == "__main__" and not __package__:  # run as a file, from which the other packages are not found
    raise SystemExit("Start the worker as a module, in the root of the repository: .venv/bin/python -m handlers.wan.handler")

from handlers.wan.request import WanOperator, WanRequest
from shared.handler import Handler
from shared.jobs.recipe import Recipe
from shared.media.encoding import IMAGE_TYPES, THUMBNAIL_MIME
from shared.media.extras import EXTRA_TYPES
from shared.media.size_bounds import max_image_bytes
from shared.media.videos import VIDEO_MIME, Encoding, check_encoder
from shared.models.prefetch import all_weight_files, prefetched
from shared.serverless import serve
from shared.settings import Settings, SettingsError
from shared.weights.catalogue import WAN
from shared.weights.resolve import resolve, weights_name


def check_video(settings: Settings) -> None:
    """Raises `SettingsError` if this machine cannot encode H.264 as configured."""
    try:
        check_encoder(_encoding(settings))
    except RuntimeError as error:
        raise SettingsError(str(error)) from None


def load(settings: Settings) -> Recipe[WanRequest]:
    """Loads WAN onto the configured device."""
    folder = resolve(WAN, settings)
    with prefetched(all_weight_files(folder, half=False)):
        # Imported only now, so that a worker without weights reports that before it imports torch.
        from handlers.wan.compilation import compiled_transformers
        from handlers.wan.recipe import WanRecipe
        from handlers.wan.weights.load import load_wan
        from shared.models.compilation import can_compile
        from shared.models.device import choose_device, choose_dtype
        from shared.weights.addons import AddonLibrary, addon_folders

        device = choose_device(settings.device)
        pipelines, addons = load_wan(folder, device, choose_dtype(device, "wan")), AddonLibrary(*addon_folders(settings))
    compiles = settings.compile_models and can_compile(device)
    return WanRecipe(
        pipelines,
        addons,
        _encoding(settings),
        memory_limit=settings.device_memory,
        model_name=settings.wan_model_name or weights_name(folder),
        compiled=compiled_transformers(pipelines) if compiles else {},
    )


def read_wan_operator(settings: Settings) -> WanOperator:
    """Returns the operator's limits and defaults for clips."""
    return WanOperator(frozenset(settings.callback_allowed_hosts), settings.wan_max_area, settings.wan_default_fps)


def types_of(request: WanRequest) -> tuple[str, ...]:
    """Returns the MIME types of the files that a job stores."""
    main = IMAGE_TYPES["png"].mime if request.is_image else VIDEO_MIME
    return (main, THUMBNAIL_MIME, *(EXTRA_TYPES[kind].mime for kind in request.extras))


def max_bytes_of(request: WanRequest) -> int:
    """Returns an upper bound of the bytes of all files that a job stores. The size of a clip is not known before it is encoded."""
    return max_image_bytes(request.width, request.height, "png") if request.is_image else 0


def _encoding(settings: Settings) -> Encoding:
    return Encoding(settings.video_encoder, settings.video_quality)


HANDLER = Handler(
    "wan",
    WanRequest,
    load,
    operator=read_wan_operator,
    checks={"encoder": check_video},
    libraries=("handlers.wan.recipe", "handlers.wan.weights.load"),
    weights=(WAN,),
    stored_types=(VIDEO_MIME, THUMBNAIL_MIME),
    types_of=types_of,
    max_bytes_of=max_bytes_of,
    idle_work=lambda recipe: recipe.idle_work(),
)

if __name__ == "__main__":
    serve(HANDLER)
