"""IP-Adapters: pictures that a UNet looks at beside the prompt. They are read once, and put on and taken off by handing modules over."""

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
from shared.models.device import size_of
from shared.models.load import load_network

_PARTS = ("image_proj", "ip_adapter")


@dataclass(frozen=True, eq=False)
class Eye:
    """What makes numbers of pictures.

    Attributes:
        encoder: CLIP's vision model, with its projection.
        preparation: What makes its input of a picture.
    """

    encoder: Any
    preparation: Any


@dataclass(frozen=True, eq=False)
class IpAdapter:
    """One adapter, read for one UNet.

    Attributes:
        name: Its file's.
        projection: What the eye sees → tokens.
        layers: For the attention processor of each layer that attends to the prompt: the adapter's keys and values.
        tokens: How many tokens a picture becomes.
        sees: Which of the eye's outputs it is made for, as the encoder's configuration calls its width: `projection_dim` or `hidden_size`.
        width: The width of that output.
    """

    name: str
    projection: nn.Module
    layers: Mapping[str, tuple[nn.Module, nn.Module]]
    tokens: int
    sees: str
    width: int

    def check_fits(self, eye: Eye) -> None:
        """Makes sure that an eye is the one that the adapter is made for.

        Raises:
            ModelUnavailable: It is another one.
        """
        if getattr(eye.encoder.config, self.sees) != self.width:
            raise _unusable(self.name, "it is made for another image encoder")


@dataclass(frozen=True, eq=False)
class Glance:
    """One picture that is looked at through one adapter.

    Attributes:
        adapter: The adapter.
        picture: RGB, of any size; the eye sees the square in its middle.
        scale: How strongly it acts in a layer, by the name of the layer's processor; where it is 0 nothing is computed.
    """

    adapter: IpAdapter
    picture: Image.Image
    scale: Callable[[str], float]


def read_eye(folder: Path, unet: Any) -> Eye:
    """Reads an image encoder.

    Args:
        folder: A transformers folder. Published ones have no settings for the preparation: they are CLIP's.
        unet: Whose device and precision it gets.

    Raises:
        SettingsError: It is damaged, incomplete or another model.
    """
    # Pillow's preparation, which needs no torchvision: the same numbers wherever this runs.
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    encoder = load_network(CLIPVisionModelWithProjection, folder, name="sdxl/image_encoder", device=unet.device, dtype=unet.dtype)
    side = encoder.config.image_size
    return Eye(encoder, CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}))


def size_of_eye(eye: Eye) -> int:
    """Bytes."""
    return size_of(eye.encoder)


def read_ip_adapter(path: Path, pipeline: Any) -> IpAdapter:
    """Reads an IP-Adapter (four tokens for a picture) or an IP-Adapter Plus (sixteen), in the published layout.

    Args:
        path: A `.safetensors` file.
        pipeline: Any SDXL pipeline; it is as before afterwards.

    Raises:
        ModelUnavailable: It is damaged, of another kind (FaceID, full face), or made for another model.
    """
    from transformers import CLIPImageProcessorPil

    unet, state = pipeline.unet, _read(path, pipeline.unet)
    with _attention_kept(unet):
        try:
            _sighted(pipeline, feature_extractor=CLIPImageProcessorPil()).load_ip_adapter(state, "", "", image_encoder_folder=None)
        except (KeyError, ValueError, RuntimeError) as error:
            raise _unusable(path.stem, "it is made for another model") from error
        (projection,) = unet.encoder_hid_proj.image_projection_layers
        layers = {name: (one.to_k_ip[0], one.to_v_ip[0]) for name, one in unet.attn_processors.items() if hasattr(one, "to_k_ip")}
    for module in (projection, *(module for pair in layers.values() for module in pair)):
        module.requires_grad_(False).eval()
    return IpAdapter(path.stem, projection, layers, *_shape(path.stem, projection, unet))


def size_of_adapter(adapter: IpAdapter) -> int:
    """Bytes."""
    return size_of(adapter.projection, *(module for pair in adapter.layers.values() for module in pair))


@contextmanager
def with_ip_adapters(pipeline: Any, eye: Eye, glances: Sequence[Glance], *, guided: bool) -> Iterator[list[Tensor]]:
    """Has a UNet look at pictures, while the body runs. All pipelines that share it must then be given what this yields.

    Args:
        pipeline: Any SDXL pipeline.
        eye: What the adapters look through.
        glances: At least one. The same adapter may look at several pictures.
        guided: Whether the pipeline will be called with guidance.

    Yields:
        What was seen, for the pipeline's argument `ip_adapter_image_embeds`. It serves for any number of pictures.

    Raises:
        ModelUnavailable: An adapter is made for another image encoder.
    """
    from diffusers.models.embeddings import MultiIPAdapterImageProjection

    unet = pipeline.unet
    for glance in glances:
        glance.adapter.check_fits(eye)
    sighted = _sighted(pipeline, image_encoder=eye.encoder, feature_extractor=eye.preparation)
    with _attention_kept(unet):
        unet.encoder_hid_proj = None
        unet.set_attn_processor(_processors(unet, glances))
        unet.encoder_hid_proj = MultiIPAdapterImageProjection([glance.adapter.projection for glance in glances])
        unet.config.encoder_hid_dim_type = "ip_image_proj"
        pictures = [glance.picture for glance in glances]
        yield sighted.prepare_ip_adapter_image_embeds(pictures, None, unet.device, 1, guided)


def _processors(unet: Any, glances: Sequence[Glance]) -> dict[str, Any]:
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    processors = dict(unet.attn_processors)
    for name in glances[0].adapter.layers:
        layers = [glance.adapter.layers[name] for glance in glances]
        keys = layers[0][0]
        with torch.device("meta"):  # its own layers are replaced at once
            looks = IPAdapterAttnProcessor2_0(
                keys.out_features,
                keys.in_features,
                [glance.adapter.tokens for glance in glances],
                [glance.scale(name) for glance in glances],
            )
        looks.to_k_ip, looks.to_v_ip = (nn.ModuleList(part) for part in zip(*layers, strict=True))
        processors[name] = looks
    return processors


@contextmanager
def _attention_kept(unet: Any) -> Iterator[None]:
    """Puts a UNet's own attention back when the body has run: the same objects."""
    before, projection, kind = dict(unet.attn_processors), unet.encoder_hid_proj, unet.config.encoder_hid_dim_type
    try:
        yield
    finally:
        del unet.encoder_hid_proj  # first, because that of an IP-Adapter Plus has attention of its own
        unet.encoder_hid_proj = projection
        unet.set_attn_processor(before)
        unet.config.encoder_hid_dim_type = kind


def _read(path: Path, unet: Any) -> dict[str, dict[str, Tensor]]:
    """The tensors of each part by name, as the library takes them."""
    try:
        tensors = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unusable(path.stem, "it is damaged") from error
    state: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for name, tensor in tensors.items():
        part, _, inner = name.partition(".")
        if part not in _PARTS or "lora" in inner:  # a FaceID's LoRA would stay on the UNet
            raise _unusable(path.stem, f"{name!r} is no part of an IP-Adapter")
        state[part][inner] = tensor.to(unet.device, unet.dtype, copy=True)
        if not state[part][inner].isfinite().all():
            raise _unusable(path.stem, f"{name!r} holds values that are not finite")
    if not {"proj.weight", "latents"} & set(state["image_proj"]):
        raise _unusable(path.stem, "it is neither an IP-Adapter nor an IP-Adapter Plus")
    return state


def _shape(name: str, projection: Any, unet: Any) -> tuple[int, str, int]:
    """How many tokens a projection makes, and of which of the eye's outputs, and how wide that is. The UNet must be able to read them."""
    from diffusers.models.embeddings import ImageProjection

    if any(tensor.is_meta for tensor in projection.parameters()):
        raise _unusable(name, "tensors are missing from it")
    if isinstance(projection, ImageProjection):
        shape, norm = (projection.num_image_text_embeds, "projection_dim", projection.image_embeds.in_features), projection.norm
    else:
        shape, norm = (projection.latents.shape[1], "hidden_size", projection.proj_in.in_features), projection.norm_out
    if norm.weight.shape != (unet.config.cross_attention_dim,):
        raise _unusable(name, "it is made for another model")
    return shape


def _sighted(pipeline: Any, **parts: Any) -> Any:
    """A pipeline over the same components, and what it takes to see pictures."""
    from diffusers import StableDiffusionXLPipeline

    components = {name: part for name, part in pipeline.components.items() if name != "controlnet"}
    return StableDiffusionXLPipeline(**components | parts, add_watermarker=False)


def _unusable(name: str, reason: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"metadata.reference_type: the IP-Adapter {name!r} cannot be used: {reason}. "
        "Leave the reference out, or ask the operator to replace it by one for SDXL."
    )
