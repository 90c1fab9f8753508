"""The SDXL request. To add a field, declare it here: parsing, messages, schemas and documentation are derived from the declaration."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from handlers.sdxl.acceleration_names import Acceleration
from handlers.sdxl.nested import MAX_CONTROLS, Control, Enhance, Method, ReferenceImage, ReferenceMode, ReferenceType, Refiner, Upscale
from handlers.sdxl.prompt_weights import PromptWeightError, WeightedText, parse_prompt_weights
from handlers.sdxl.scheduler_names import MIN_STEPS, STEPS, SchedulerName
from shared.contract.context import Context
from shared.contract.field_location import UNSET, ComputedDefault, FieldLocation
from shared.contract.fields import ExactInt, Id, Name, PreviewFlag, Seed, Text, batch_seeds, seed_of_job
from shared.contract.loras import Lora
from shared.contract.references import Reference
from shared.contract.rejections import conflict, refuse, requires
from shared.contract.request import Request, id_location, type_location, user_id_location
from shared.contract.sizes import Size, SizeString, default_side, round_side

_FAST = ("sdxl_image_fast",)
_HIGH = ("sdxl_image_high", "sdxl_generate")
_side = partial(default_side, Size(1024, 1024))
_WEIGHTED = r"text with weights such as (red:1.3), (red) or [red], with \( or \[ for a literal bracket"


def _is_copy(data: Mapping[str, Any]) -> bool:
    return bool(data.get("exact_copy_mode")) and data.get("prompt") == "" and data.get("reference") is not None


class SdxlRequest(Request):
    """One to six images of one prompt.

    Attributes:
        width: In pixels, from `width` or from `resolution`.
        height: In pixels.
        reference_mode: None when the caller did not choose one; `reference_type` then decides.
    """

    job_id: Annotated[Id, id_location, Field(description="The job's id. If both names are given, they must agree.")]
    user_id: Annotated[Id, user_id_location, Field(description="The owner of the job.")]
    type: Annotated[
        Literal["sdxl_image_fast", "sdxl_image_high", "sdxl_generate"],
        type_location,
        Field(description="The kind of job; sets the defaults of steps and guidance."),
    ]
    # Declared before the texts, whose validation depends on it.
    compel_enabled: Annotated[
        bool,
        FieldLocation("compel_enabled"),
        Field(description="Whether weights such as `(red:1.3)` and `[red]` are parsed in the prompts."),
    ] = False
    prompt: Annotated[
        Text,
        FieldLocation("prompt", sections=("top",)),
        Field(
            max_length=10_000,
            description="May be empty only in exact-copy mode with a reference. Prompts longer than CLIP's context are not truncated.",
            json_schema_extra={"allowed": "a string of 1 to 10 000 characters"},
        ),
    ]
    negative_prompt: Annotated[
        Text | None, FieldLocation("negative_prompt"), Field(max_length=10_000, description="What guidance leads away from; may be empty.")
    ] = None
    num_images: Annotated[
        Literal[1, 3, 6], ExactInt, FieldLocation("config.num_images", ("batch_size",)), Field(description="The number of images.")
    ] = 1
    scheduler: Annotated[
        SchedulerName | None, FieldLocation("config.scheduler"), Field(description="The scheduler; the checkpoint's own by default.")
    ] = None
    steps: Annotated[
        int,
        Field(description="Denoising steps.", json_schema_extra={"minimum": 1, "maximum": 50, "allowed": STEPS}),
        FieldLocation("config.steps", ("num_inference_steps",)),
        ComputedDefault.by_type({_FAST: 15, _HIGH: 25}),
    ] = UNSET
    guidance_scale: Annotated[
        float,
        Field(ge=1.0, le=20.0, description="The scale of classifier-free guidance; 1 turns it off."),
        FieldLocation("config.guidance_scale"),
        ComputedDefault.by_type({_FAST: 6.0, _HIGH: 7.5}),
    ] = UNSET
    resolution: Annotated[
        SizeString | None,
        FieldLocation("config.resolution"),
        Field(description="`WxH`, each a multiple of 8, 64 … 2048. `width` and `height` take precedence."),
    ] = None
    width: Annotated[
        int, Field(ge=64, le=2048, multiple_of=8, description="In pixels; requires `height`."), FieldLocation("config.width"), _side(0)
    ] = UNSET
    height: Annotated[
        int, Field(ge=64, le=2048, multiple_of=8, description="In pixels; requires `width`."), FieldLocation("config.height"), _side(1)
    ] = UNSET
    seed: Annotated[
        Seed,
        FieldLocation("config.seed"),
        seed_of_job,
        Field(description="Image *i* uses `seed + i`, wrapping from the largest seed to 1, so that all seeds of a job differ."),
    ] = UNSET
    loras: Annotated[
        tuple[Lora, ...], Field(strict=False, max_length=16, description="LoRAs, applied together."), FieldLocation("config.loras")
    ] = ()
    textual_inversions: Annotated[
        tuple[Name, ...],
        Field(strict=False, max_length=16, description="Names of embeddings that the prompts may use."),
        FieldLocation("config.textual_inversions"),
    ] = ()
    vae: Annotated[
        Name | None, FieldLocation("config.vae"), Field(description="A VAE from the operator's catalogue; the checkpoint's own by default.")
    ] = None
    controls: Annotated[
        tuple[Control, ...],
        Field(strict=False, max_length=MAX_CONTROLS, description="ControlNets and their control images."),
        FieldLocation("config.controls"),
    ] = ()
    refiner: Annotated[Refiner | None, FieldLocation("config.refiner"), Field(description="Runs the last steps with the refiner.")] = None
    upscale: Annotated[Upscale | None, FieldLocation("config.upscale"), Field(description="Upscales the generated images.")] = None
    enhance: Annotated[
        Enhance | None, FieldLocation("config.enhance"), Field(description="Sharpens the generated images and raises their contrast.")
    ] = None
    safety_check: Annotated[
        bool, FieldLocation("config.safety_check"), Field(description="Whether images are classified: `nsfw_flagged` in their metadata.")
    ] = False
    clip_skip: Annotated[
        int, Field(ge=0, le=2, description="CLIP layers skipped before the penultimate one."), FieldLocation("config.clip_skip")
    ] = 0
    guidance_rescale: Annotated[
        float,
        Field(ge=0.0, le=1.0, description="How much of the contrast added by guidance is removed."),
        FieldLocation("config.guidance_rescale"),
    ] = 0.0
    acceleration: Acceleration = "lossless"
    preview: PreviewFlag = False
    output_format: Annotated[
        Literal["png", "webp", "jpeg"], FieldLocation("config.output_format"), Field(description="The format of the stored images.")
    ] = "png"
    reference: Annotated[
        Reference | None,
        FieldLocation("metadata.reference_image_url", ("config.image", "image")),
        Field(description="An image to start from, or whose style, composition or character to share."),
    ] = None
    reference_type: Annotated[
        ReferenceType,
        FieldLocation("metadata.reference_type"),
        Field(description="The property that the result shares with the reference."),
    ] = "style"
    reference_strength: Annotated[
        float, Field(ge=0.0, le=1.0, description="The influence of the reference."), FieldLocation("metadata.reference_strength")
    ] = 0.5
    denoise_strength: Annotated[
        float | None,
        Field(ge=0.0, le=1.0, description="The img2img strength. Overrides `reference_strength`, its complement."),
        FieldLocation("metadata.denoise_strength"),
    ] = None
    reference_mode: Annotated[
        ReferenceMode,
        FieldLocation("metadata.reference_mode"),
        Field(description="`modify` requests img2img for every `reference_type`. WAN's modes are ignored.", validate_default=False),
    ] = None
    compel_weights: Annotated[
        Text | None,
        FieldLocation("compel_weights"),
        Field(max_length=10_000, description='With `compel_enabled`: weighted text appended to the prompt: `"(a:1.3), (b:1.2)"`.'),
    ] = None
    exact_copy_mode: Annotated[
        bool, FieldLocation("metadata.exact_copy_mode"), Field(description="Whether a reference with an empty prompt is copied.")
    ] = False
    mask: Annotated[
        Reference | None,
        FieldLocation("config.mask"),
        Field(description="The inpainting mask: white is repainted, black kept, grey blends; alpha that varies: transparent is repainted."),
    ] = None
    adapter_references: Annotated[
        tuple[ReferenceImage, ...],
        Field(strict=False, max_length=4, description="Further references for IP-Adapters, independent of `reference_image_url`."),
        FieldLocation("config.references"),
    ] = ()

    @field_validator("prompt", "negative_prompt", "compel_weights")
    @classmethod
    def _check_prompt_weights(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and info.data.get("compel_enabled"):
            try:
                parse_prompt_weights(text)
            except PromptWeightError as error:
                raise refuse(_WEIGHTED, sent=str(error)) from None
        return text

    @field_validator("compel_weights")
    @classmethod
    def _warn_of_unused_weights(cls, weights: str | None, info: ValidationInfo) -> str | None:
        if weights and not info.data.get("compel_enabled", True):
            context = Context.of(info)
            context.warnings.add_ignored(context.source_of("compel_weights"), "`compel_enabled` is false")
        return weights

    @field_validator("steps")
    @classmethod
    def _check_steps(cls, steps: int, info: ValidationInfo) -> int:
        # If the scheduler itself is invalid, the intended minimum is unknown.
        minimum = MIN_STEPS.get(info.data["scheduler"], 10) if "scheduler" in info.data else 1
        if not minimum <= steps <= 50:
            raise refuse(STEPS, nearest=min(max(steps, minimum), 50))
        return steps

    @field_validator("resolution")
    @classmethod
    def _check_resolution(cls, size: Size | None) -> Size | None:
        if size is not None:
            nearest = Size(*(round_side(side, 8, 64, 2048) for side in size))
            if nearest != size:
                raise refuse("WxH, each a multiple of 8 from 64 to 2048", sent=f'"{size}"', nearest=nearest)
        return size

    @field_validator("height")
    @classmethod
    def _warn_of_unused_resolution(cls, height: int, info: ValidationInfo) -> int:
        resolution, width = info.data.get("resolution"), info.data.get("width")
        if resolution is not None and width is not None and resolution != (width, height):
            context = Context.of(info)
            context.warnings.add_ignored(context.source_of("resolution"), "`config.width` and `config.height` are given")
        return height

    @field_validator("exact_copy_mode")
    @classmethod
    def _check_empty_prompt(cls, exact_copy: bool, info: ValidationInfo) -> bool:
        is_copy = _is_copy({**info.data, "exact_copy_mode": exact_copy})
        if info.data.get("prompt") == "" and not is_copy and "reference" in info.data:
            raise refuse(
                "a string of 1 to 10 000 characters (empty only with `metadata.exact_copy_mode` and `metadata.reference_image_url`)",
                sent="an empty string",
                field="prompt",
            )
        return exact_copy

    @field_validator("mask")
    @classmethod
    def _check_mask(cls, mask: Reference | None, info: ValidationInfo) -> Reference | None:
        if mask is not None and "reference" in info.data and info.data["reference"] is None:
            raise requires("mask", "reference")
        if mask is not None and _is_copy(info.data):
            raise conflict("mask", "exact_copy_mode")
        return mask

    @field_validator("adapter_references")
    @classmethod
    def _check_adapter_references(cls, references: tuple[ReferenceImage, ...], info: ValidationInfo) -> tuple[ReferenceImage, ...]:
        if references and _is_copy(info.data):
            raise conflict("adapter_references", "exact_copy_mode")
        return references

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each image: `seed`, `seed + 1` …, wrapping from the largest seed to 1."""
        return batch_seeds(self.seed, self.num_images)

    @property
    def weighted_prompt(self) -> tuple[WeightedText, ...]:
        """The prompt followed by `compel_weights`, as weighted pieces."""
        if not self.compel_enabled:
            return (WeightedText(self.prompt),)
        return parse_prompt_weights(", ".join(text for text in (self.prompt, self.compel_weights) if text))

    @property
    def weighted_negative_prompt(self) -> tuple[WeightedText, ...]:
        """The negative prompt as weighted pieces; empty when absent."""
        text = self.negative_prompt or ""
        return parse_prompt_weights(text) if self.compel_enabled else (WeightedText(text),)

    @property
    def img2img_strength(self) -> float:
        """The img2img strength, 0.0 … 1.0: `denoise_strength`, else `1 - reference_strength`; 0.85 for a mask without either."""
        if self.denoise_strength is not None:
            return self.denoise_strength
        return 0.85 if self.mask and "reference_strength" not in self.model_fields_set else 1.0 - self.reference_strength

    @property
    def reference_method(self) -> Method:
        """How the main reference is used."""
        if self.reference is None:
            return "none"
        if self.exact_copy_mode and not self.prompt:
            return "copy"
        if self.mask is not None:
            return "inpaint"
        is_img2img = self.denoise_strength is not None or self.reference_mode == "modify"
        return "img2img" if is_img2img else "adapter"

    @property
    def references(self) -> Mapping[str, Reference]:
        """The images to download, by the canonical name of their field."""
        main = {"metadata.reference_image_url": self.reference, "config.mask": self.mask and self.mask.as_mask()}
        controls = {f"config.controls[{index}].image": control.image for index, control in enumerate(self.controls)}
        others = {f"config.references[{index}].image": other.image for index, other in enumerate(self.adapter_references)}
        return {name: reference for name, reference in main.items() if reference is not None} | controls | others
