"""The request of the WAN handler. To add a field, declare it here; everything else is derived."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from handlers.wan.clip_references import CLIP_REFERENCES, ReferenceMode, ensure_fitting, mode_of
from handlers.wan.clip_sizes import LONGEST_SIDE, STEP, is_legal, nearest_legal
from shared.contract.constraints import group_thousands
from shared.contract.context import Context, Operator
from shared.contract.field_location import UNSET, ComputedDefault, FieldLocation, refuse
from shared.contract.fields import Id, PreviewFlag, Seed, Text, random_seed
from shared.contract.loras import Lora
from shared.contract.references import Reference
from shared.contract.request import Request, id_location, type_location, user_id_location
from shared.contract.sizes import Size, SizeWord

MOST_FRAMES = 83


@dataclass(frozen=True)
class WanOperator(Operator):
    """The operator's decisions about clips.

    Attributes:
        max_area: The largest width × height of a clip, in pixels.
        default_fps: Frames per second of a clip that does not ask for a rate.
    """

    max_area: int = 399_360
    default_fps: int = 24


_IMAGES = ("image_fast", "image_high")
_FAST = ("image_fast", "video_fast")
_HIGH = ("image_high", "video_high", "wan_generate")
_DEFAULT_SIZE = Size(480, 832)

_PLAIN_TYPES: Mapping[str, str] = {
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


def _plain_type(word: object, info: ValidationInfo) -> object:
    plain = _PLAIN_TYPES.get(word) if isinstance(word, str) else None
    if plain is None:
        return word
    if str(word).endswith("_enhanced"):
        Context.of(info).warnings.add(f"type: {word} is done as {plain}, because no prompt is rewritten here")
    return plain


def _side(index: Literal[0, 1]) -> ComputedDefault:
    def compute(data: Mapping[str, Any], context: Context) -> int:
        size: Size = data.get("size") or data.get("resolution") or nearest_legal(_DEFAULT_SIZE, WanOperator.of(context.operator).max_area)
        other = ("height", "width")[index]
        if other in context.sources:
            context.warnings.add(f"config.{('width', 'height')[index]}: {size[index]}, because only {other} is given")
        return size[index]

    return ComputedDefault(compute, f"{_DEFAULT_SIZE[index]}, or from `size` or `resolution`")


class WanRequest(Request):
    """One clip, or one picture.

    Attributes:
        type: One of the five plain types, whatever name the caller used.
        width: In pixels, whichever way the size was given.
        height: In pixels.
        frames: What the clip has exactly; 1 for a picture.
        reference_mode: Says which of the three references there are.
    """

    job_id: Annotated[Id, id_location, Field(description="The job. Both names may be given and then must agree.")]
    user_id: Annotated[Id, user_id_location, Field(description="Whose job it is.")]
    type: Annotated[
        Literal["image_fast", "image_high", "video_fast", "video_high", "wan_generate"],
        BeforeValidator(_plain_type, json_schema_input_type=_AnyType),
        type_location,
        Field(description="What is to be done. The other names mean the plain ones; `…7b_…_enhanced` with a warning."),
    ]
    prompt: Annotated[
        Text, FieldLocation("prompt", sections=("top",)), Field(min_length=1, max_length=10_000, description="What is to be seen.")
    ]
    negative_prompt: Annotated[
        Text | None, FieldLocation("negative_prompt"), Field(max_length=10_000, description="What is not wanted; may be empty.")
    ] = None
    seed: Annotated[Seed, FieldLocation("config.seed"), random_seed, Field(description="Where the noise starts.")] = UNSET
    size: Annotated[
        SizeWord | None,
        FieldLocation("config.size"),
        Field(description="Width and height as one word, `480*832`. They are refused when they are not legal."),
    ] = None
    resolution: Annotated[
        SizeWord | None,
        FieldLocation("config.resolution"),
        Field(
            description="An aspect: the clip gets the nearest legal size, and a warning says which. Width, height and `size` win over it."
        ),
    ] = None
    width: Annotated[
        int,
        Field(ge=STEP, le=LONGEST_SIDE, multiple_of=STEP, description="In pixels. Width × height ≤ 399 360, or what the operator allows."),
        FieldLocation("config.width"),
        _side(0),
    ] = UNSET
    height: Annotated[
        int, Field(ge=STEP, le=LONGEST_SIDE, multiple_of=STEP, description="In pixels."), FieldLocation("config.height"), _side(1)
    ] = UNSET
    frames: Annotated[
        int,
        Field(ge=1, le=MOST_FRAMES, description="Delivered exactly. A picture has 1 frame, whatever is given."),
        FieldLocation("config.frames", ("frame_num",)),
        ComputedDefault.by_type({("video_fast", "video_high", "wan_generate"): MOST_FRAMES, _IMAGES: 1}),
    ] = UNSET
    fps: Annotated[
        int,
        Field(ge=8, le=24, description="Frames per second. The model's own rate is 16."),
        FieldLocation("config.fps"),
        ComputedDefault(lambda _, context: WanOperator.of(context.operator).default_fps, "24, or the operator's `WAN_DEFAULT_FPS`"),
    ] = UNSET
    steps: Annotated[
        int,
        Field(ge=1, le=50, description="Steps of denoising."),
        FieldLocation("config.steps", ("num_inference_steps", "sample_steps")),
        ComputedDefault.by_type({_FAST: 25, _HIGH: 50}),
    ] = UNSET
    guidance_scale: Annotated[
        float,
        Field(ge=1.0, le=20.0, description="How closely the prompt is followed."),
        FieldLocation("config.guidance_scale", ("sample_guide_scale",)),
        ComputedDefault.by_type({_FAST: 6.5, _HIGH: 7.5}),
    ] = UNSET
    sample_solver: Annotated[
        Literal["unipc", "dpm++", "euler"], FieldLocation("config.sample_solver"), Field(description="The solver.")
    ] = "unipc"
    sample_shift: Annotated[
        float, Field(ge=1.0, le=12.0, description="How far the schedule is shifted towards noise."), FieldLocation("config.sample_shift")
    ] = 5.0
    loras: Annotated[
        tuple[Lora, ...],
        Field(strict=False, max_length=16, description="LoRAs, all of them applied together."),
        FieldLocation("config.loras"),
    ] = ()
    acceleration: Annotated[
        Literal["none", "lossless", "fast"],
        FieldLocation("config.acceleration"),
        Field(
            description="`lossless` computes the same but for the last digits. `fast` reuses what changes little from step to step: "
            "quicker still, and not the same clip."
        ),
    ] = "none"
    preview: PreviewFlag = False
    extras: Annotated[
        tuple[Literal["poster", "webm", "gif"], ...],
        Field(
            strict=False,
            max_length=3,
            description="What is stored beside a clip: its first frame as PNG, the clip as WebM, a small GIF of it.",
        ),
        FieldLocation("config.extras"),
    ] = ()
    image: Annotated[
        Reference | None,
        FieldLocation("config.image", ("metadata.reference_image_url", "reference_image_url")),
        Field(description="The reference of mode `single`."),
    ] = None
    first_frame: Annotated[
        Reference | None,
        FieldLocation("config.first_frame", ("metadata.start_reference_url", "start_reference_url")),
        Field(description="The reference of modes `start` and `both`."),
    ] = None
    last_frame: Annotated[
        Reference | None,
        FieldLocation("config.last_frame", ("metadata.end_reference_url", "end_reference_url")),
        Field(description="The reference of modes `end` and `both`."),
    ] = None
    reference_mode: Annotated[
        ReferenceMode,
        # In metadata the plain name is SDXL's, and its words mean nothing here.
        FieldLocation("config.reference_mode", ("metadata.video_reference_mode", "video_reference_mode"), sections=("config", "top")),
        ComputedDefault(mode_of, "from the references given"),
        Field(description="Must go with the references given: a job never ignores one, and never runs without one that it needs."),
    ] = UNSET
    reference_strength: Annotated[
        float, Field(ge=0.0, le=1.0, description="How strongly the references act."), FieldLocation("metadata.reference_strength")
    ] = 0.5

    @field_validator("size")
    @classmethod
    def _is_legal(cls, size: Size | None, info: ValidationInfo) -> Size | None:
        if size is not None:
            _ensure_legal(size, Context.of(info), None)
        return size

    @field_validator("resolution")
    @classmethod
    def _becomes_legal(cls, size: Size | None, info: ValidationInfo) -> Size | None:
        context = Context.of(info)
        if size is None or is_legal(size, WanOperator.of(context.operator).max_area):
            return size
        legal = nearest_legal(size, WanOperator.of(context.operator).max_area)
        if not context.sources.keys() & {"size", "width", "height"}:
            context.warnings.add(
                f"{context.source_of('resolution')}: {size} is not a size of clips; {legal}, the nearest legal one, is used"
            )
        return legal

    @field_validator("height")
    @classmethod
    def _fits_the_width(cls, height: int, info: ValidationInfo) -> int:
        width = info.data.get("width")
        if width is not None:
            _ensure_legal(Size(width, height), Context.of(info), "width")
        return height

    @field_validator("fps")
    @classmethod
    def _means_nothing_for_a_picture(cls, fps: int, info: ValidationInfo) -> int:
        context = Context.of(info)
        if "fps" in context.sources and info.data.get("type") in _IMAGES:
            context.warnings.add(f"{context.source_of('fps')}: not used, because a picture does not move")
        return fps

    @field_validator("extras")
    @classmethod
    def _goes_with_a_clip(cls, extras: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        context = Context.of(info)
        if extras and info.data.get("type") in _IMAGES:
            context.warnings.add(f"{context.source_of('extras')}: not used, because they are made of clips")
            return ()
        return tuple(dict.fromkeys(extras))

    @field_validator("frames")
    @classmethod
    def _is_one_for_a_picture(cls, frames: int, info: ValidationInfo) -> int:
        if info.data.get("type") not in _IMAGES or frames == 1:
            return frames
        Context.of(info).warnings.add(f"{Context.of(info).source_of('frames')}: {info.data['type']} makes 1 frame")
        return 1

    @field_validator("reference_mode")
    @classmethod
    def _goes_with_the_references(cls, mode: ReferenceMode, info: ValidationInfo) -> ReferenceMode:
        # A reference that is itself wrong is missing here, and nobody knows what was meant by the mode.
        if all(name in info.data for name in CLIP_REFERENCES):
            ensure_fitting(mode, info.data)
        return mode

    @property
    def is_image(self) -> bool:
        """Whether a picture is asked for, not a clip."""
        return self.type in _IMAGES

    @property
    def references(self) -> Mapping[str, Reference]:
        """The pictures to fetch, by the canonical name of their field."""
        given = {"config.image": self.image, "config.first_frame": self.first_frame, "config.last_frame": self.last_frame}
        return {name: reference for name, reference in given.items() if reference is not None}


def _ensure_legal(size: Size, context: Context, blamed: str | None) -> None:
    most = WanOperator.of(context.operator).max_area
    if not is_legal(size, most):
        allowed = f"a size of at most {group_thousands(most)} pixels, each side a multiple of {STEP} up to {LONGEST_SIDE}"
        raise refuse(allowed, sent=f'"{size}"', nearest=nearest_legal(size, most), field=blamed)
