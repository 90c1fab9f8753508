"""The request of the SDXL handler. To add a field, declare it here; everything else is derived."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from handlers.sdxl.emphasis import BadEmphasis, Phrase, read_emphasis
from handlers.sdxl.nested import MOST_CONTROLS, AdapterReference, Control, Enhance, ReferenceMode, ReferenceType, Refiner, Upscale
from handlers.sdxl.scheduler_names import FEWEST_STEPS, Scheduler
from shared.contract.context import Context
from shared.contract.field_location import UNSET, Otherwise, Wire, refuse
from shared.contract.fields import LARGEST_SEED, Id, Name, Preview, Seed, Text, Whole, drawn
from shared.contract.loras import Lora
from shared.contract.references import Reference
from shared.contract.request import Request, id_wire, type_wire, user_id_wire
from shared.contract.sizes import Size, SizeWord, round_side, side_of

_FAST = ("sdxl_image_fast",)
_HIGH = ("sdxl_image_high", "sdxl_generate")
_side = partial(side_of, Size(1024, 1024))
_WEIGHTED = r"text whose weights are as in (red:1.3), (red) or [red], with \( or \[ for a bracket that is text"
_STEPS = "a whole number from 10 to 50 (from 1 with the schedulers lcm and tcd)"

Method = Literal["none", "copy", "img2img", "inpaint", "adapter"]
"""What a reference is for: nothing, to be copied, to start from, to be repainted in parts, to be looked at."""


def _is_copy(data: Mapping[str, Any]) -> bool:
    return bool(data.get("exact_copy_mode")) and data.get("prompt") == "" and data.get("reference") is not None


class SdxlRequest(Request):
    """One to six pictures of one prompt.

    Attributes:
        width: In pixels, whichever way the size was given.
        height: In pixels.
        reference_mode: `None` when the caller did not choose; then `reference_type` decides.
    """

    job_id: Annotated[Id, id_wire, Field(description="The job. Both names may be given and then must agree.")]
    user_id: Annotated[Id, user_id_wire, Field(description="Whose job it is.")]
    type: Annotated[Literal["sdxl_image_fast", "sdxl_image_high", "sdxl_generate"], type_wire, Field(description="What is to be done.")]
    # Before the texts that it decides about.
    compel_enabled: Annotated[
        bool, Wire("compel_enabled"), Field(description="Reads weights such as `(red:1.3)`, `(red)` and `[red]` in both prompts.")
    ] = False
    prompt: Annotated[
        Text,
        Wire("prompt", places=("top",)),
        Field(
            max_length=10_000,
            description="May be empty only in exact-copy mode with a reference. What is longer than CLIP's window is not cut.",
            json_schema_extra={"allowed": "a string of 1 to 10 000 characters"},
        ),
    ]
    negative_prompt: Annotated[
        Text | None, Wire("negative_prompt"), Field(max_length=10_000, description="What is not wanted; may be empty.")
    ] = None
    num_images: Annotated[Literal[1, 3, 6], Whole, Wire("config.num_images", ("batch_size",)), Field(description="How many pictures.")] = 1
    scheduler: Annotated[Scheduler | None, Wire("config.scheduler"), Field(description="The sampler; without one the checkpoint's.")] = None
    steps: Annotated[
        int,
        Field(
            description="Steps of denoising.",
            json_schema_extra={"minimum": 1, "maximum": 50, "allowed": _STEPS},
        ),
        Wire("config.steps", ("num_inference_steps",)),
        Otherwise.by_type({_FAST: 15, _HIGH: 25}),
    ] = UNSET
    guidance_scale: Annotated[
        float,
        Field(ge=1.0, le=20.0, description="How closely the prompt is followed."),
        Wire("config.guidance_scale"),
        Otherwise.by_type({_FAST: 6.0, _HIGH: 7.5}),
    ] = UNSET
    resolution: Annotated[
        SizeWord | None,
        Wire("config.resolution"),
        Field(description="The size as one word: each side a multiple of 8, 64 … 2048. Width and height win over it."),
    ] = None
    width: Annotated[
        int, Field(ge=64, le=2048, multiple_of=8, description="In pixels; only together with `height`."), Wire("config.width"), _side(0)
    ] = UNSET
    height: Annotated[
        int, Field(ge=64, le=2048, multiple_of=8, description="In pixels; only together with `width`."), Wire("config.height"), _side(1)
    ] = UNSET
    seed: Annotated[
        Seed,
        Wire("config.seed"),
        drawn,
        Field(description="Image *i* uses `seed + i`, from the largest on to 0, so that all seeds of a job differ."),
    ] = UNSET
    loras: Annotated[
        tuple[Lora, ...], Field(strict=False, max_length=16, description="LoRAs, all of them applied together."), Wire("config.loras")
    ] = ()
    textual_inversions: Annotated[
        tuple[Name, ...],
        Field(strict=False, max_length=16, description="Names of embeddings that the prompt may use."),
        Wire("config.textual_inversions"),
    ] = ()
    vae: Annotated[
        Name | None, Wire("config.vae"), Field(description="A VAE from the catalogue; without one the checkpoint's, safe in fp16.")
    ] = None
    controls: Annotated[
        tuple[Control, ...],
        Field(strict=False, max_length=MOST_CONTROLS, description="ControlNets that guide the picture."),
        Wire("config.controls"),
    ] = ()
    refiner: Annotated[Refiner | None, Wire("config.refiner"), Field(description="Finishes the picture with the refiner.")] = None
    upscale: Annotated[Upscale | None, Wire("config.upscale"), Field(description="Enlarges the finished picture.")] = None
    enhance: Annotated[Enhance | None, Wire("config.enhance"), Field(description="Sharpens the finished picture, raises its contrast.")] = (
        None
    )
    safety_check: Annotated[
        bool,
        Wire("config.safety_check"),
        Field(description="Says of each picture, as `nsfw_flagged`, whether it may not be safe for work. No picture is changed."),
    ] = False
    clip_skip: Annotated[
        int, Field(ge=0, le=2, description="Layers of CLIP that are left out, from the last."), Wire("config.clip_skip")
    ] = 0
    guidance_rescale: Annotated[
        float,
        Field(ge=0.0, le=1.0, description="How much of the contrast that guidance adds is taken back."),
        Wire("config.guidance_rescale"),
    ] = 0.0
    preview: Preview = False
    output_format: Annotated[
        Literal["png", "webp", "jpeg"], Wire("config.output_format"), Field(description="The format of the stored pictures.")
    ] = "png"
    reference: Annotated[
        Reference | None,
        Wire("metadata.reference_image_url", ("config.image", "image")),
        Field(description="A picture to start from or to resemble."),
    ] = None
    reference_type: Annotated[
        ReferenceType, Wire("metadata.reference_type"), Field(description="What the result shares with the reference.")
    ] = "style"
    reference_strength: Annotated[
        float, Field(ge=0.0, le=1.0, description="How strongly the reference acts."), Wire("metadata.reference_strength")
    ] = 0.5
    denoise_strength: Annotated[
        float | None,
        Field(
            ge=0.0,
            le=1.0,
            description="How much of the reference is painted over. Beats `reference_strength`, of which it is the complement.",
        ),
        Wire("metadata.denoise_strength"),
    ] = None
    reference_mode: Annotated[
        ReferenceMode,
        Wire("metadata.reference_mode"),
        Field(
            description="`modify` when absent. Given as `modify`, it asks for image→image whatever the type. WAN's words count as absent."
        ),
    ] = None
    compel_weights: Annotated[
        Text | None,
        Wire("compel_weights"),
        Field(max_length=10_000, description='With `compel_enabled`: weighted phrases that follow the prompt: `"(a:1.3), (b:1.2)"`.'),
    ] = None
    exact_copy_mode: Annotated[
        bool,
        Wire("metadata.exact_copy_mode"),
        Field(description="With a reference and an empty prompt the result is a copy of the reference."),
    ] = False
    mask: Annotated[
        Reference | None,
        Wire("config.mask"),
        Field(
            description="What of the reference is painted over: white is, black stays to the bit, grey is blended. "
            "It is cropped as the reference is, whose type then means nothing; what is transparent counts as white."
        ),
    ] = None
    adapter_references: Annotated[
        tuple[AdapterReference, ...],
        Field(strict=False, max_length=4, description="Pictures to resemble, beside whatever `reference_image_url` is for."),
        Wire("config.references"),
    ] = ()

    @field_validator("prompt", "negative_prompt", "compel_weights")
    @classmethod
    def _have_weights_that_mean_something(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and info.data.get("compel_enabled"):
            try:
                read_emphasis(text)
            except BadEmphasis as error:
                raise refuse(_WEIGHTED, sent=str(error)) from None
        return text

    @field_validator("compel_weights")
    @classmethod
    def _count_only_when_they_are_read(cls, weights: str | None, info: ValidationInfo) -> str | None:
        if weights and not info.data.get("compel_enabled", True):
            context = Context.of(info)
            context.notes.add(f"{context.called('compel_weights')}: not used, because compel_enabled is false")
        return weights

    @field_validator("steps")
    @classmethod
    def _are_enough_for_the_scheduler(cls, steps: int, info: ValidationInfo) -> int:
        # When the scheduler is itself wrong, nobody knows which was meant.
        fewest = FEWEST_STEPS.get(info.data["scheduler"], 10) if "scheduler" in info.data else 1
        if not fewest <= steps <= 50:
            raise refuse(_STEPS, nearest=min(max(steps, fewest), 50))
        return steps

    @field_validator("resolution")
    @classmethod
    def _is_a_size_of_sdxl(cls, size: Size | None) -> Size | None:
        if size is not None:
            nearest = Size(*(round_side(side, 8, 64, 2048) for side in size))
            if nearest != size:
                raise refuse("WxH, each a multiple of 8 from 64 to 2048", sent=f'"{size}"', nearest=nearest)
        return size

    @field_validator("height")
    @classmethod
    def _wins_over_resolution(cls, height: int, info: ValidationInfo) -> int:
        resolution, width = info.data.get("resolution"), info.data.get("width")
        if resolution is not None and width is not None and resolution != (width, height):
            context = Context.of(info)
            context.notes.add(f"{context.called('resolution')}: not used, because width and height are given")
        return height

    @field_validator("exact_copy_mode")
    @classmethod
    def _alone_may_leave_the_prompt_empty(cls, exact_copy: bool, info: ValidationInfo) -> bool:
        is_copy = _is_copy({**info.data, "exact_copy_mode": exact_copy})
        if info.data.get("prompt") == "" and not is_copy and "reference" in info.data:
            raise refuse(
                "a string of 1 to 10 000 characters; it may be empty only with exact_copy_mode and a reference",
                sent="an empty string",
                field="prompt",
            )
        return exact_copy

    @field_validator("mask")
    @classmethod
    def _needs_a_picture_to_paint_over(cls, mask: Reference | None, info: ValidationInfo) -> Reference | None:
        if mask is not None and "reference" in info.data and (info.data["reference"] is None or _is_copy(info.data)):
            raise refuse("given together with config.image, and not for an exact copy: a mask says what of that picture is painted over")
        return mask

    @field_validator("adapter_references")
    @classmethod
    def _are_not_for_copies(cls, references: tuple[AdapterReference, ...], info: ValidationInfo) -> tuple[AdapterReference, ...]:
        if references and _is_copy(info.data):
            raise refuse("absent in exact-copy mode, where nothing is painted that could resemble them")
        return references

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each picture: `seed`, `seed + 1` …, from the largest on to 0. All differ."""
        return tuple((self.seed + index) % (LARGEST_SEED + 1) for index in range(self.num_images))

    @property
    def phrases(self) -> tuple[Phrase, ...]:
        """The prompt, and what `compel_weights` adds to it, by weights."""
        if not self.compel_enabled:
            return (Phrase(self.prompt),)
        return read_emphasis(", ".join(text for text in (self.prompt, self.compel_weights) if text))

    @property
    def negative_phrases(self) -> tuple[Phrase, ...]:
        """The negative prompt by weights. An absent one is an empty one."""
        text = self.negative_prompt or ""
        return read_emphasis(text) if self.compel_enabled else (Phrase(text),)

    @property
    def denoise(self) -> float:
        """How much of the reference is painted over, 0.0 … 1.0: `denoise_strength`, or else the complement of `reference_strength`."""
        return self.denoise_strength if self.denoise_strength is not None else 1.0 - self.reference_strength

    @property
    def reference_method(self) -> Method:
        """Which method the reference asks for."""
        if self.reference is None:
            return "none"
        if self.exact_copy_mode and not self.prompt:
            return "copy"
        if self.mask is not None:
            return "inpaint"
        is_modified = self.denoise_strength is not None or self.reference_mode == "modify"
        return "img2img" if is_modified else "adapter"

    @property
    def references(self) -> Mapping[str, Reference]:
        """The pictures to fetch, by the canonical name of their field."""
        main = {"metadata.reference_image_url": self.reference, "config.mask": self.mask}
        controls = {f"config.controls[{index}].image": control.image for index, control in enumerate(self.controls)}
        others = {f"config.references[{index}].image": other.image for index, other in enumerate(self.adapter_references)}
        return {name: reference for name, reference in main.items() if reference is not None} | controls | others
