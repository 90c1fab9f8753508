"""Assets of a completed job: a stored image or video, or a text. Their metadata is open, so that handlers can add keys of their own."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator


def _is_none(value: object) -> bool:
    return value is None


omitted_if_none: Any = Field(default=None, exclude_if=_is_none)
"""The default of an optional key that is omitted rather than written as `null`."""


class ClosedModel(BaseModel):
    """Has exactly the declared keys, of exactly the declared types. Numbers are finite."""

    # NaN never passes validation. If one gets in otherwise, `constants` keeps it NaN, so that writing JSON fails instead of writing null.
    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
        json_schema_serialization_defaults_required=True,
    )


class OpenModel(ClosedModel):
    """Has the declared keys, and may have more JSON values."""

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, JsonValue]


class PictureMetadata(OpenModel):
    """The parameters that were actually used: for images and, extended, for videos."""

    width: Annotated[int, Field(description="In pixels.")]
    height: Annotated[int, Field(description="In pixels.")]
    format: Annotated[str, Field(description="`png`, `webp`, `jpeg` or `mp4`.")]
    seed: Annotated[int, Field(description="Equals `generation_seed`.")]
    file_size_bytes: Annotated[int, Field(description="Equals the asset's.")]
    asset_index: Annotated[int, Field(description="Equals the asset's.")]
    batch_size: Annotated[int | None, Field(description="Number of images in the batch.")] = omitted_if_none
    steps: Annotated[int | None, Field(description="Denoising steps that were run.")] = omitted_if_none
    num_inference_steps: Annotated[int | None, Field(description="Equals `steps`.")] = omitted_if_none
    guidance_scale: Annotated[float | None, Field(description="The guidance scale that was used.")] = omitted_if_none
    nsfw_flagged: Annotated[bool | None, Field(description="Whether the safety checker flagged the image as not safe for work.")] = (
        omitted_if_none
    )


class VideoMetadata(PictureMetadata):
    """The parameters that were actually used for a video."""

    frames: Annotated[int, Field(description="Frames in the file.")]
    frame_num: Annotated[int, Field(description="Equals `frames`.")]
    fps: Annotated[int, Field(description="Frames per second of the file.")]
    duration: Annotated[float, Field(description="Seconds: frames / fps.")]


class TextMetadata(OpenModel):
    """Token counts and timings of a completion."""

    tokens_generated: int
    prompt_tokens: int
    model_used: str
    generation_time: Annotated[float, Field(description="Seconds.")]
    finish_reason: Annotated[str, Field(description="`stop`, `length` when `max_tokens` was reached, or `tool_calls`.")]
    time_to_first_token: Annotated[float | None, Field(description="Seconds, including time in the queue.")] = omitted_if_none
    tokens_per_second: Annotated[float | None, Field(description="`tokens_generated` / `generation_time`.")] = omitted_if_none
    cached_tokens: Annotated[int | None, Field(description="Prompt tokens served from the prefix cache.")] = omitted_if_none
    revision: Annotated[str | None, Field(description="The commit of the model's weights, where it is known.")] = omitted_if_none
    seed: Annotated[int | None, Field(description="The seed that was used.")] = omitted_if_none
    repeats: Annotated[bool | None, Field(description="Whether generation was stopped because the model repeated itself.")] = (
        omitted_if_none
    )


PresignedUrl = Annotated[
    str | None, Field(repr=False, description="Downloads the file until it expires (`BUCKET_URL_EXPIRY`). Only for results in S3.")
]
Data = Annotated[str | None, Field(repr=False, description="The file in base64. Only where results are returned inline.")]


class _StoredAsset(ClosedModel):
    """A file in storage and its thumbnail."""

    type: Literal["image", "video"]
    asset_index: Annotated[int, Field(ge=0, description="The position in `assets`.")]
    url: Annotated[str, Field(description="The object's key without the bucket: `{user_id}/{job_id}/{asset_index}.png`.")]
    temp_storage_path: Annotated[str, Field(description="Equals `url`.")]
    thumbnail_url: Annotated[str, Field(description="The key of the thumbnail, WebP, longest side at most 256 pixels.")]
    thumbnail_path: Annotated[str, Field(description="Equals `thumbnail_url`.")]
    presigned_url: PresignedUrl = omitted_if_none
    thumbnail_presigned_url: PresignedUrl = omitted_if_none
    data: Data = omitted_if_none
    thumbnail_data: Data = omitted_if_none
    mime_type: Annotated[str, Field(description="`image/png`, `image/webp`, `image/jpeg` or `video/mp4`.")]
    file_size_bytes: Annotated[int, Field(description="Size of the stored file.")]
    generation_seed: Annotated[int, Field(description="The seed that the asset was generated with.")]
    metadata: PictureMetadata

    @model_validator(mode="after")
    def _check_repeated_values(self) -> Self:
        values = (self.asset_index, self.file_size_bytes, self.generation_seed)
        if values != (self.metadata.asset_index, self.metadata.file_size_bytes, self.metadata.seed):
            raise ValueError("index, size or seed of an asset differ from those in its metadata")
        return self


class ImageAsset(_StoredAsset):
    """A stored image."""

    type: Literal["image"] = "image"


class ExtraFile(ClosedModel):
    """An additional file derived from a video and stored with it."""

    kind: Annotated[Literal["poster", "webm", "gif"], Field(description="The kind of file.")]
    url: Annotated[str, Field(description="The object's key without the bucket: `{user_id}/{job_id}/{asset_index}.poster.png`.")]
    presigned_url: PresignedUrl = omitted_if_none
    data: Data = omitted_if_none
    mime_type: Annotated[str, Field(description="`image/png`, `video/webm` or `image/gif`.")]
    file_size_bytes: Annotated[int, Field(description="Size of the stored file.")]


class VideoAsset(_StoredAsset):
    """A stored video; its thumbnail is its middle frame."""

    type: Literal["video"] = "video"
    duration_seconds: Annotated[float, Field(description="Frames / fps of the file.")]
    extras: Annotated[
        tuple[ExtraFile, ...] | None, Field(strict=False, description="The files that `config.extras` requested, in order.")
    ] = omitted_if_none
    metadata: VideoMetadata


class TextAsset(ClosedModel):
    """A text, included in the payload itself."""

    type: Literal["text"] = "text"
    asset_index: Annotated[int, Field(ge=0, description="The position in `assets`.")]
    content: Annotated[str, Field(repr=False)]
    metadata: Annotated[TextMetadata, Field(repr=False)]  # handlers may add keys with generated text


Asset = Annotated[ImageAsset | VideoAsset | TextAsset, Field(discriminator="type")]
