"""The request schema of the WAN handler. To add a field, declare it here; everything else is derived from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from handlers.wan.reference_modes import CLIP_REFERENCES, ReferenceMode, check_reference_mode, infer_reference_mode
from handlers.wan.sizes import MAX_FRAMES, MAX_SIDE, STEP, is_valid, nearest_valid
from shared.contract.constraints import group_thousands
from shared.contract.context import Context, Operator
from shared.contract.field_location import UNSET, ComputedDefault, FieldLocation
from shared.contract.fields import Id, PreviewFlag, Seed, Text, seed_of_job
from shared.contract.loras import Lora
from shared.contract.references import Reference
from shared.contract.rejections import refuse
from shared.contract.request import Request, id_location, type_location, user_id_location
from shared.contract.sizes import Size, SizeString


@dataclass(frozen=True)
class WanOperator(Operator):
    """The operator's limits and defaults for clips.

    Attributes:
        max_area: The maximum width × height of a clip, in pixels.
        default_fps: Frames per second if the request sets none.
    """

    max_area: int = 399_360
    default_fps: int = 24


_IMAGES = ("image_fast", "image_high")
_FAST = ("image_fast", "video_fast")
_HIGH = ("image_high", "video_high", "wan_generate")
_DEFAULT_SIZE = Size(480, 832)

_TYPE_ALIASES: Mapping[str, str] = {
    "wan_video_fast": "video_fast",
    "wan_video_high": "video_high",
    "image7b_fast_enhanced": "image_fast",
    "image7b_high_enhanced": "image_high",
    "video7b_fast_enhanced": "video_fast",
    "video7b_high_enhanced": "video_high",
}
_AnyType = Literal[
    "image_fast", "image_high", "video_fast", "video_high", "wan_generate", "wan_video_fast", "wan_video_high",
    "image7b_fast_enhanced", "image7b_high_enhanced", "video7b_fast_enhanced", "video7b_high_enhanced",
]  # fmt: skip


def _canonical_type(word: object, info: ValidationInfo) -> object:
    plain = _TYPE_ALIASES.get(word) if isinstance(word, str) else None
    if plain is None:
        return word
    if str(word).endswith("_enhanced"):
        Context.of(info).warnings.add(f"`type` {word} is treated as {plain}: this handler does not rewrite prompts")
    return plain


def _side(index: Literal[0, 1]) -> ComputedDefault:
    def compute(data: Mapping[str, Any], context: Context) -> int:
        size: Size = data.get("size") or data.get("resolution") or nearest_valid(_DEFAULT_SIZE, WanOperator.of(context.operator).max_area)
        other = ("height", "width")[index]
        if other in context.sources:
            context.warnings.add(f"`config.{('width', 'height')[index]}` is {size[index]}, because only `config.{other}` is given")
        return size[index]

    return ComputedDefault(compute, f"{_DEFAULT_SIZE[index]}, or from `size` or `resolution`")


class WanRequest(Request):
    """One clip or one image.

    Attributes:
        type: One of the five canonical types, also if the caller used an alias.
        width: In pixels, whichever field set it.
        height: In pixels.
        frames: The exact length of the clip; 1 for an image.
        reference_mode: Which of the three references are given.
    """

    job_id: Annotated[Id, id_location, Field(description="The job id. If both names are given, they must agree.")]
    user_id: Annotated[Id, user_id_location, Field(description="The user who owns the job.")]
    type: Annotated[
        Literal["image_fast", "image_high", "video_fast", "video_high", "wan_generate"],
        BeforeValidator(_canonical_type, json_schema_input_type=_AnyType),
        type_location,
        Field(description="The kind of job. Other names are aliases of the five canonical ones; `…7b_…_enhanced` adds a warning."),
    ]
    prompt: Annotated[
        Text, FieldLocation("prompt", sections=("top",)), Field(min_length=1, max_length=10_000, description="What the clip shows.")
    ]
    negative_prompt: Annotated[
        Text | None, FieldLocation("negative_prompt"), Field(max_length=10_000, description="What the clip should not show; may be empty.")
    ] = None
    seed: Annotated[Seed, FieldLocation("config.seed"), seed_of_job, Field(description="The seed of the initial noise.")] = UNSET
    size: Annotated[
        SizeString | None,
        FieldLocation("config.size"),
        Field(description="Width and height as one string, `480*832`. An invalid size is rejected."),
    ] = None
    resolution: Annotated[
        SizeString | None,
        FieldLocation("config.resolution"),
        Field(description="An aspect ratio: the nearest valid size is used, with a warning. `size`, `width` and `height` take precedence."),
    ] = None
    width: Annotated[
        int,
        Field(ge=STEP, le=MAX_SIDE, multiple_of=STEP, description="In pixels. Width × height ≤ 399 360, or the operator's `WAN_MAX_AREA`."),
        FieldLocation("config.width"),
        _side(0),
    ] = UNSET
    height: Annotated[
        int, Field(ge=STEP, le=MAX_SIDE, multiple_of=STEP, description="In pixels."), FieldLocation("config.height"), _side(1)
    ] = UNSET
    frames: Annotated[
        int,
        Field(ge=1, le=MAX_FRAMES, description="The clip has exactly this many. An image always has 1."),
        FieldLocation("config.frames", ("frame_num",)),
        ComputedDefault.by_type({("video_fast", "video_high", "wan_generate"): MAX_FRAMES, _IMAGES: 1}),
    ] = UNSET
    fps: Annotated[
        int,
        Field(ge=8, le=24, description="Frames per second. The model was trained at 16."),
        FieldLocation("config.fps"),
        ComputedDefault(lambda _, context: WanOperator.of(context.operator).default_fps, "24, or the operator's `WAN_DEFAULT_FPS`"),
    ] = UNSET
    steps: Annotated[
        int,
        Field(ge=1, le=50, description="Denoising steps."),
        FieldLocation("config.steps", ("num_inference_steps", "sample_steps")),
        ComputedDefault.by_type({_FAST: 25, _HIGH: 50}),
    ] = UNSET
    guidance_scale: Annotated[
        float,
        Field(ge=1.0, le=20.0, description="How closely the clip follows the prompt."),
        FieldLocation("config.guidance_scale", ("sample_guide_scale",)),
        ComputedDefault.by_type({_FAST: 6.5, _HIGH: 7.5}),
    ] = UNSET
    sample_solver: Annotated[
        Literal["unipc", "dpm++", "euler"], FieldLocation("config.sample_solver"), Field(description="The scheduler.")
    ] = "unipc"
    sample_shift: Annotated[
        float, Field(ge=1.0, le=12.0, description="Shifts the timesteps towards noise."), FieldLocation("config.sample_shift")
    ] = 5.0
    loras: Annotated[
        tuple[Lora, ...],
        Field(strict=False, max_length=16, description="LoRAs, applied together."),
        FieldLocation("config.loras"),
    ] = ()
    acceleration: Annotated[
        Literal["none", "lossless", "fast", "first_block_cache", "mag_cache", "taylorseer_cache"],
        FieldLocation("config.acceleration"),
        Field(
            description="`lossless` changes only rounding, on a GPU. The caches reuse activations between steps: faster still, but another "
            "clip. `fast` is `first_block_cache`."
        ),
    ] = "lossless"
    preview: PreviewFlag = False
    extras: Annotated[
        tuple[Literal["poster", "webm", "gif"], ...],
        Field(
            strict=False,
            max_length=3,
            description="Additional assets: the first frame as PNG, the clip as WebM, a small GIF.",
        ),
        FieldLocation("config.extras"),
    ] = ()
    image: Annotated[
        Reference | None,
        FieldLocation("config.image", ("metadata.reference_image_url", "reference_image_url")),
        Field(description="The reference image of mode `single`."),
    ] = None
    first_frame: Annotated[
        Reference | None,
        FieldLocation("config.first_frame", ("metadata.start_reference_url", "start_reference_url")),
        Field(description="The first frame, in modes `start` and `both`."),
    ] = None
    last_frame: Annotated[
        Reference | None,
        FieldLocation("config.last_frame", ("metadata.end_reference_url", "end_reference_url")),
        Field(description="The last frame, in modes `end` and `both`."),
    ] = None
    reference_mode: Annotated[
        ReferenceMode,
        # `metadata.reference_mode` is SDXL's, with other values.
        FieldLocation("config.reference_mode", ("metadata.video_reference_mode", "video_reference_mode"), sections=("config", "top")),
        ComputedDefault(infer_reference_mode, "from the references given"),
        Field(description="Must match the given references: none is ever ignored, and none that the mode needs may be missing."),
    ] = UNSET
    reference_strength: Annotated[
        float,
        Field(ge=0.0, le=1.0, description="How strongly the references influence the clip."),
        FieldLocation("metadata.reference_strength"),
    ] = 0.5

    @field_validator("size")
    @classmethod
    def _is_valid_size(cls, size: Size | None, info: ValidationInfo) -> Size | None:
        if size is not None:
            _check_size(size, Context.of(info), None)
        return size

    @field_validator("resolution")
    @classmethod
    def _becomes_valid(cls, size: Size | None, info: ValidationInfo) -> Size | None:
        context = Context.of(info)
        if size is None or is_valid(size, WanOperator.of(context.operator).max_area):
            return size
        valid = nearest_valid(size, WanOperator.of(context.operator).max_area)
        if not context.sources.keys() & {"size", "width", "height"}:
            context.warnings.add(f"`{context.source_of('resolution')}` {size} is not a valid clip size; the nearest one, {valid}, was used")
        return valid

    @field_validator("height")
    @classmethod
    def _fits_the_width(cls, height: int, info: ValidationInfo) -> int:
        width = info.data.get("width")
        if width is not None:
            _check_size(Size(width, height), Context.of(info), "width")
        return height

    @field_validator("fps")
    @classmethod
    def _is_ignored_for_an_image(cls, fps: int, info: ValidationInfo) -> int:
        context = Context.of(info)
        if "fps" in context.sources and info.data.get("type") in _IMAGES:
            context.warnings.add_ignored(context.source_of("fps"), "an image has a single frame")
        return fps

    @field_validator("extras")
    @classmethod
    def _is_ignored_for_images(cls, extras: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        context = Context.of(info)
        if extras and info.data.get("type") in _IMAGES:
            context.warnings.add_ignored(context.source_of("extras"), "extras are derived from clips")
            return ()
        return tuple(dict.fromkeys(extras))

    @field_validator("frames")
    @classmethod
    def _is_one_for_an_image(cls, frames: int, info: ValidationInfo) -> int:
        if info.data.get("type") not in _IMAGES or frames == 1:
            return frames
        Context.of(info).warnings.add_ignored(Context.of(info).source_of("frames"), f"{info.data['type']} makes 1 frame")
        return 1

    @field_validator("reference_mode")
    @classmethod
    def _matches_the_references(cls, mode: ReferenceMode, info: ValidationInfo) -> ReferenceMode:
        # A reference that failed validation is missing here, and the mode cannot be checked.
        if all(name in info.data for name in CLIP_REFERENCES):
            check_reference_mode(mode, info.data)
        return mode

    @property
    def is_image(self) -> bool:
        """Whether an image is requested, not a clip."""
        return self.type in _IMAGES

    @property
    def references(self) -> Mapping[str, Reference]:
        """The references to download, by the canonical name of their field."""
        given = {"config.image": self.image, "config.first_frame": self.first_frame, "config.last_frame": self.last_frame}
        return {name: reference for name, reference in given.items() if reference is not None}


def _check_size(size: Size, context: Context, blamed: str | None) -> None:
    most = WanOperator.of(context.operator).max_area
    if not is_valid(size, most):
        allowed = f"a size of at most {group_thousands(most)} pixels, each side a multiple of {STEP} up to {MAX_SIDE}"
        raise refuse(allowed, sent=f'"{size}"', nearest=nearest_valid(size, most), field=blamed)
