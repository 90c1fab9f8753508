"""What a job made, as its callback describes it. Metadata is open: handlers may add keys of their own to the ones declared here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator


def _is_none(value: object) -> bool:
    return value is None


omitted_if_none: Any = Field(default=None, exclude_if=_is_none)
"""The default of a key that is not there at all when it does not apply."""


class ClosedModel(BaseModel):
    """Has exactly the keys that are declared, of exactly their types. Numbers are finite."""

    # NaN never passes validation; should one get in otherwise, it stays itself, and writing JSON fails instead of writing null.
    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
        json_schema_serialization_defaults_required=True,
    )


class OpenModel(ClosedModel):
    """Has the keys that are declared, and may have more."""

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, JsonValue]


class PictureMetadata(OpenModel):
    """What was really done: for images and, with more, for clips."""

    width: Annotated[int, Field(description="In pixels.")]
    height: Annotated[int, Field(description="In pixels.")]
    format: Annotated[str, Field(description="`png`, `webp`, `jpeg` or `mp4`.")]
    seed: Annotated[int, Field(description="The same as `generation_seed`.")]
    file_size_bytes: Annotated[int, Field(description="The same as the asset's.")]
    asset_index: Annotated[int, Field(description="The same as the asset's.")]
    batch_size: Annotated[int | None, Field(description="How many pictures the job made together.")] = omitted_if_none
    steps: Annotated[int | None, Field(description="Steps that were really run.")] = omitted_if_none
    num_inference_steps: Annotated[int | None, Field(description="The same as `steps`.")] = omitted_if_none
    guidance_scale: Annotated[float | None, Field(description="Guidance that was really used.")] = omitted_if_none
    nsfw_flagged: Annotated[bool | None, Field(description="Whether a safety check says that it may not be safe for work.")] = (
        omitted_if_none
    )


class VideoMetadata(PictureMetadata):
    """What was really done for a clip."""

    frames: Annotated[int, Field(description="Frames in the file.")]
    frame_num: Annotated[int, Field(description="The same as `frames`.")]
    fps: Annotated[int, Field(description="Frames per second of the file.")]
    duration: Annotated[float, Field(description="Seconds: frames / fps.")]


class TextMetadata(OpenModel):
    """How an answer came about."""

    tokens_generated: int
    prompt_tokens: int
    model_used: str
    generation_time: Annotated[float, Field(description="Seconds.")]
    finish_reason: Annotated[str, Field(description="`stop`, or `length` when `max_tokens` was reached.")]
    time_to_first_token: Annotated[float | None, Field(description="Seconds, waiting for a place included.")] = omitted_if_none
    tokens_per_second: Annotated[float | None, Field(description="`tokens_generated` / `generation_time`.")] = omitted_if_none
    cached_tokens: Annotated[int | None, Field(description="Of `prompt_tokens`, how many had been read for an earlier request.")] = (
        omitted_if_none
    )
    revision: Annotated[str | None, Field(description="The commit of the model's weights, where it is known.")] = omitted_if_none
    seed: Annotated[int | None, Field(description="The seed that was used.")] = omitted_if_none
    repeats: Annotated[bool | None, Field(description="Whether it was ended because it repeated itself.")] = omitted_if_none


class _StoredAsset(ClosedModel):
    """A file in storage, and its thumbnail."""

    type: Literal["image", "video"]
    asset_index: Annotated[int, Field(ge=0, description="Equals the position in `assets`, always.")]
    url: Annotated[str, Field(description="The object's key without the bucket: `{user_id}/{job_id}/{asset_index}.png`.")]
    temp_storage_path: Annotated[str, Field(description="The same as `url`.")]
    thumbnail_url: Annotated[str, Field(description="The key of the thumbnail, WebP, longest side at most 256 pixels.")]
    thumbnail_path: Annotated[str, Field(description="The same as `thumbnail_url`.")]
    mime_type: Annotated[str, Field(description="`image/png`, `image/webp`, `image/jpeg` or `video/mp4`.")]
    file_size_bytes: Annotated[int, Field(description="Size of the stored file.")]
    generation_seed: Annotated[int, Field(description="The seed that made it.")]
    metadata: PictureMetadata

    @model_validator(mode="after")
    def _says_the_same_twice(self) -> Self:
        said = (self.asset_index, self.file_size_bytes, self.generation_seed)
        if said != (self.metadata.asset_index, self.metadata.file_size_bytes, self.metadata.seed):
            raise ValueError("index, size or seed of an asset differ from those in its metadata")
        return self


class ImageAsset(_StoredAsset):
    """A stored picture."""

    type: Literal["image"] = "image"


class ExtraFile(ClosedModel):
    """What was asked for beside a clip, stored like it."""

    kind: Annotated[Literal["poster", "webm", "gif"], Field(description="What it is.")]
    url: Annotated[str, Field(description="The object's key without the bucket: `{user_id}/{job_id}/{asset_index}.poster.png`.")]
    mime_type: Annotated[str, Field(description="`image/png`, `video/webm` or `image/gif`.")]
    file_size_bytes: Annotated[int, Field(description="Size of the stored file.")]


class VideoAsset(_StoredAsset):
    """A stored clip; its thumbnail is its middle frame."""

    type: Literal["video"] = "video"
    duration_seconds: Annotated[float, Field(description="Frames / fps of the file.")]
    extras: Annotated[tuple[ExtraFile, ...] | None, Field(strict=False, description="What `config.extras` asked for, in its order.")] = (
        omitted_if_none
    )
    metadata: VideoMetadata


class TextAsset(ClosedModel):
    """A text, in the payload itself."""

    type: Literal["text"] = "text"
    asset_index: Annotated[int, Field(ge=0, description="Equals the position in `assets`, always.")]
    content: Annotated[str, Field(repr=False)]
    metadata: TextMetadata


Asset = Annotated[ImageAsset | VideoAsset | TextAsset, Field(discriminator="type")]
