"""IP-Adapter files and the image encoder. An adapter is read once, then added to a UNet and removed by exchanging modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from shared.errors import ModelUnavailable
from shared.models.device import memory_footprint
from shared.models.load import load_network
from shared.weights.errors import WeightsError

_PARTS = ("image_proj", "ip_adapter")


@dataclass(frozen=True, eq=False)
class ImageEncoder:
    """CLIP's vision model and its preprocessing.

    Attributes:
        model: The vision model, with its projection.
        processor: Preprocesses its input images.
    """

    model: Any
    processor: Any


@dataclass(frozen=True, eq=False)
class IpAdapter:
    """An adapter, read for one UNet.

    Attributes:
        name: The file's name.
        projection: From the image encoder's output to tokens.
        layers: The key and value projections for each cross-attention processor.
        tokens: Tokens per image.
        encoder_output: The output of the image encoder that it reads, by the configuration value of its width: `projection_dim` or
            `hidden_size`.
        width: The width of that output.
    """

    name: str
    projection: nn.Module
    layers: Mapping[str, tuple[nn.Module, nn.Module]]
    tokens: int
    encoder_output: str
    width: int

    def check_fits(self, encoder: ImageEncoder) -> None:
        """Raises `ModelUnavailable` if the adapter was made for another image encoder."""
        if getattr(encoder.model.config, self.encoder_output) != self.width:
            reason = "it was made for another image encoder"
            raise ModelUnavailable(f"IP-Adapter {self.name!r} cannot be used: {reason}. Omit it, or ask the operator to replace it.")


@dataclass(frozen=True, eq=False)
class ImagePrompt:
    """An image that conditions the UNet through an adapter.

    Attributes:
        adapter: The adapter.
        image: RGB, of any size; the encoder receives its central square.
        scale: The adapter's scale by the name of the attention processor; at 0 nothing is computed.
    """

    adapter: IpAdapter
    image: Image.Image
    scale: Callable[[str], float]


def read_image_encoder(folder: Path, unet: Any) -> ImageEncoder:
    """Reads an image encoder.

    Args:
        folder: A transformers folder. Published ones have no preprocessor configuration; CLIP's applies.
        unet: Determines device and precision.

    Raises:
        WeightsError: The weights are damaged, incomplete or of another model.
    """
    # The Pillow implementation: it needs no torchvision and computes the same on every platform.
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    model = load_network(CLIPVisionModelWithProjection, folder, name="sdxl/image_encoder", device=unet.device, dtype=unet.dtype)
    side = model.config.image_size
    return ImageEncoder(model, CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}))


def size_of_image_encoder(encoder: ImageEncoder) -> int:
    """Returns bytes."""
    return memory_footprint(encoder.model)


def read_ip_adapter(path: Path, pipeline: Any) -> IpAdapter:
    """Reads an IP-Adapter (four tokens per image) or an IP-Adapter Plus (sixteen), in the published layout.

    Args:
        path: A `.safetensors` file.
        pipeline: Any SDXL pipeline; it is unchanged afterwards.

    Raises:
        WeightsError: The file is damaged, of another kind (FaceID, full face), or made for another model.
    """
    from transformers import CLIPImageProcessorPil

    unet, state = pipeline.unet, _read(path, pipeline.unet)
    with _restored_attention(unet):
        try:
            reader = _with_image_encoder(pipeline, feature_extractor=CLIPImageProcessorPil())
            reader.load_ip_adapter(state, "", "", image_encoder_folder=None)
        except (KeyError, ValueError, RuntimeError) as error:
            raise _unusable(path.stem, "it was made for another model") from error
        (projection,) = unet.encoder_hid_proj.image_projection_layers
        layers = {name: (one.to_k_ip[0], one.to_v_ip[0]) for name, one in unet.attn_processors.items() if hasattr(one, "to_k_ip")}
    for module in (projection, *(module for pair in layers.values() for module in pair)):
        module.requires_grad_(False).eval()
    return IpAdapter(path.stem, projection, layers, *_dimensions(path.stem, projection, unet))


def size_of_adapter(adapter: IpAdapter) -> int:
    """Returns bytes."""
    return memory_footprint(adapter.projection, *(module for pair in adapter.layers.values() for module in pair))


@contextmanager
def with_ip_adapters(pipeline: Any, encoder: ImageEncoder, prompts: Sequence[ImagePrompt], *, guided: bool) -> Iterator[list[Tensor]]:
    """Adds image prompts to a UNet while the body runs.

    Args:
        pipeline: Any SDXL pipeline. Every pipeline that shares its UNet must be called with the embeddings.
        encoder: The image encoder.
        prompts: At least one. An adapter may occur more than once.
        guided: Whether the pipeline will be called with classifier-free guidance.

    Yields:
        The pipeline's argument `ip_adapter_image_embeds`, for any number of images.

    Raises:
        ModelUnavailable: An adapter was made for another image encoder.
    """
    from diffusers.models.embeddings import MultiIPAdapterImageProjection

    unet = pipeline.unet
    for prompt in prompts:
        prompt.adapter.check_fits(encoder)
    encoding = _with_image_encoder(pipeline, image_encoder=encoder.model, feature_extractor=encoder.processor)
    with _restored_attention(unet):
        unet.encoder_hid_proj = None
        unet.set_attn_processor(_processors(unet, prompts))
        unet.encoder_hid_proj = MultiIPAdapterImageProjection([prompt.adapter.projection for prompt in prompts])
        unet.config.encoder_hid_dim_type = "ip_image_proj"
        images = [prompt.image for prompt in prompts]
        yield encoding.prepare_ip_adapter_image_embeds(images, None, unet.device, 1, guided)


def _processors(unet: Any, prompts: Sequence[ImagePrompt]) -> dict[str, Any]:
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    processors = dict(unet.attn_processors)
    for name in prompts[0].adapter.layers:
        layers = [prompt.adapter.layers[name] for prompt in prompts]
        keys = layers[0][0]
        with torch.device("meta"):  # its own projections are replaced below
            processor = IPAdapterAttnProcessor2_0(
                keys.out_features,
                keys.in_features,
                [prompt.adapter.tokens for prompt in prompts],
                [prompt.scale(name) for prompt in prompts],
            )
        processor.to_k_ip, processor.to_v_ip = (nn.ModuleList(part) for part in zip(*layers, strict=True))
        processors[name] = processor
    return processors


@contextmanager
def _restored_attention(unet: Any) -> Iterator[None]:
    """Restores a UNet's attention processors when the body ends: the same objects."""
    before, projection, kind = dict(unet.attn_processors), unet.encoder_hid_proj, unet.config.encoder_hid_dim_type
    try:
        yield
    finally:
        del unet.encoder_hid_proj  # first, because an IP-Adapter Plus has attention processors in its projection
        unet.encoder_hid_proj = projection
        unet.set_attn_processor(before)
        unet.config.encoder_hid_dim_type = kind


def _read(path: Path, unet: Any) -> dict[str, dict[str, Tensor]]:
    """Returns the tensors of each part by name, the form that diffusers loads."""
    try:
        tensors = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unusable(path.stem, "it is damaged") from error
    state: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for name, tensor in tensors.items():
        part, _, inner = name.partition(".")
        if part not in _PARTS or "lora" in inner:  # a FaceID adapter's LoRA would stay on the UNet
            raise _unusable(path.stem, f"the tensor {name!r} does not belong to an IP-Adapter")
        state[part][inner] = tensor.to(unet.device, unet.dtype, copy=True)
        if not state[part][inner].isfinite().all():
            raise _unusable(path.stem, f"the tensor {name!r} has values that are not finite")
    if not {"proj.weight", "latents"} & set(state["image_proj"]):
        raise _unusable(path.stem, "it is neither an IP-Adapter nor an IP-Adapter Plus")
    return state


def _dimensions(name: str, projection: Any, unet: Any) -> tuple[int, str, int]:
    """Returns an adapter's tokens per image, its encoder output and that output's width, after checking them against the UNet."""
    from diffusers.models.embeddings import ImageProjection

    if any(tensor.is_meta for tensor in projection.parameters()):
        raise _unusable(name, "tensors are missing from it")
    if isinstance(projection, ImageProjection):
        dimensions = (projection.num_image_text_embeds, "projection_dim", projection.image_embeds.in_features)
        norm = projection.norm
    else:
        dimensions, norm = (projection.latents.shape[1], "hidden_size", projection.proj_in.in_features), projection.norm_out
    if norm.weight.shape != (unet.config.cross_attention_dim,):
        raise _unusable(name, "it was made for another model")
    return dimensions


def _with_image_encoder(pipeline: Any, **parts: Any) -> Any:
    """Returns a pipeline over the same components, with an image encoder or its preprocessor."""
    from diffusers import StableDiffusionXLPipeline

    components = {name: part for name, part in pipeline.components.items() if name != "controlnet"}
    return StableDiffusionXLPipeline(**components | parts, add_watermarker=False)


def _unusable(name: str, reason: str) -> WeightsError:
    return WeightsError(f"ip_adapters/{name}", reason, advice="Replace it by an IP-Adapter for SDXL.")
