"""The compiled parts of SDXL: the blocks of the UNet and of the VAE's decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from handlers.sdxl.decoding import decoder_dtype
from handlers.sdxl.job_pipeline import JobPipeline
from shared.models.compilation import CompiledBlocks

_SIZE_CONDITIONS = 6  # original height and width, crop top and left, target height and width
UNET_BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
"""The class names of the blocks of the UNet that are compiled."""
_DECODER_BLOCKS = ("ResnetBlock2D",)


def compiled_networks(pipeline: Any, *, backend: Any = "inductor") -> list[CompiledBlocks]:
    """Returns what can be compiled of an SDXL pipeline, the UNet first, for images with and without guidance, of any size and number.

    Args:
        pipeline: Any SDXL pipeline. Its own VAE is compiled, and not the ones that replace it for a job.
        backend: torch's compiler.
    """
    unet, vae = pipeline.unet, pipeline.vae
    side = int(unet.config.sample_size)
    other = (side + side // 4, side - side // 8)  # portrait, and of another area, so that no size is compiled as a constant
    tokens = int(pipeline.tokenizer.model_max_length)
    pooled = int(pipeline.text_encoder_2.config.projection_dim)
    # Twice the samples for guidance, and twice the tokens for long prompts. A single sample is compiled by itself.
    shapes = [(2, (side, side), tokens), (4, other, 2 * tokens), (1, (side, side), tokens), (1, other, 2 * tokens)]
    denoising = [partial(_denoise, unet, *shape, pooled) for shape in shapes]
    decoding = [partial(_decode, vae, size) for size in ((side, side), other)]
    return [
        CompiledBlocks("unet", unet, UNET_BLOCKS, denoising, backend=backend),
        CompiledBlocks("vae", vae.decoder, _DECODER_BLOCKS, decoding, backend=backend),
    ]


@contextmanager
def compiled(job: JobPipeline, networks: Sequence[CompiledBlocks]) -> Iterator[None]:
    """Uses what has been compiled while the body runs, and says so in the metadata of the images."""
    with ExitStack() as stack:
        if any([stack.enter_context(network.enabled()) for network in networks]):
            job.accelerations.append("compiled_blocks")
        yield


def _denoise(unet: Any, samples: int, size: tuple[int, int], tokens: int, pooled: int) -> object:
    """Calls the UNet as diffusers' pipelines do."""
    random = partial(torch.randn, device=unet.device, dtype=unet.dtype)
    return unet(
        random(samples, unet.config.in_channels, *size),
        torch.tensor(500.0, device=unet.device),
        encoder_hidden_states=random(samples, tokens, unet.config.cross_attention_dim),
        added_cond_kwargs={"text_embeds": random(samples, pooled), "time_ids": random(samples, _SIZE_CONDITIONS)},
        return_dict=False,
    )


def _decode(vae: Any, size: tuple[int, int]) -> object:
    latent = torch.randn(1, vae.config.latent_channels, *size, device=vae.device, dtype=decoder_dtype(vae))
    return vae.decode(latent, return_dict=False)
