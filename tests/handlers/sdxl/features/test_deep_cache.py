"""DeepCache on one UNet: which blocks run in which call, and what a call computes that reuses features."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from handlers.sdxl.features.deep_cache import INTERVAL, deep_cached
from handlers.sdxl.weights.load import load_sdxl

BRANCHES = (1, 2)
SIZES = ((8, 8), (9, 7))
"""Of latents; diffusers hands the sizes of an odd one to the upsampling blocks."""


@pytest.fixture(scope="module")
def unet(tiny_models: Path) -> Any:
    return load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32).unet


@pytest.fixture(scope="module")
def controlnet(unet: Any) -> Any:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        made = ControlNetModel.from_unet(unet)
        for block in (*made.controlnet_down_blocks, made.controlnet_mid_block):
            block.weight.data.normal_(std=0.3)  # they start at zero
    return made.eval()


def inputs(unet: Any, step: int, size: tuple[int, int] = (8, 8)) -> dict[str, Any]:
    """The arguments of a step: latents that change little from one to the next."""
    random = partial(torch.randn, generator=torch.Generator().manual_seed(1))
    sample = random(2, 4, *size) + 0.1 * step * random(2, 4, *size)
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    added = {"text_embeds": random(2, pooled), "time_ids": random(2, 6)}
    text = random(2, 77, unet.config.cross_attention_dim)
    return {"sample": sample, "timestep": torch.tensor(900 - 90 * step), "encoder_hidden_states": text, "added_cond_kwargs": added}


def residuals(controlnet: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a ControlNet adds to the arguments of a step."""
    image = torch.ones(2, 3, *(8 * side for side in arguments["sample"].shape[2:]))
    down, middle = controlnet(**arguments, controlnet_cond=image, return_dict=False)
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


def call(unet: Any, arguments: dict[str, Any]) -> Tensor:
    with torch.inference_mode():
        output: Tensor = unet(**arguments, return_dict=False)[0]
    return output


def features(unet: Any, arguments: dict[str, Any], branch: int) -> Tensor:
    """What the blocks inside a branch hand to those outside, in a plain call."""
    outputs: list[Tensor] = []
    handle = unet.up_blocks[-branch - 1].register_forward_hook(lambda _block, _given, output: outputs.append(output))
    call(unet, arguments)
    handle.remove()
    return outputs[0]


@contextmanager
def forced_output(block: Any, output: Tensor) -> Iterator[None]:
    """Makes a block of an otherwise plain UNet return a given tensor."""
    handle = block.register_forward_hook(lambda *_: output)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def recorded_calls(unet: Any) -> Iterator[list[str]]:
    """Records which resolutions run, by the first layers of their blocks."""
    calls: list[str] = []
    blocks = {f"down {index}": block for index, block in enumerate(unet.down_blocks)}
    blocks |= {"middle": unet.mid_block} | {f"up {index}": block for index, block in enumerate(unet.up_blocks)}
    handles = [block.resnets[0].register_forward_pre_hook(lambda *_, name=name: calls.append(name)) for name, block in blocks.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("controlled", [False, True], ids=["plain", "ControlNet"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("branch", BRANCHES)
def test_a_call_that_reuses_features_equals_a_full_one_with_their_old_values(
    unet: Any, controlnet: Any, branch: int, size: tuple[int, int], controlled: bool
) -> None:
    steps = [inputs(unet, step, size) for step in range(INTERVAL)]
    if controlled:
        with torch.inference_mode():
            steps = [step | residuals(controlnet, step) for step in steps]
    with deep_cached(unet, branch):
        cached = [call(unet, step) for step in steps]
    assert torch.equal(cached[0], call(unet, steps[0]))
    old = features(unet, steps[0], branch)
    for step in (1, 2):
        with forced_output(unet.up_blocks[-branch - 1], old):
            assert torch.equal(cached[step], call(unet, steps[step]))
        assert not torch.equal(cached[step], call(unet, steps[step]))


@pytest.mark.parametrize("branch", BRANCHES)
def test_interval_one_equals_the_plain_forward_pass_bit_for_bit(unet: Any, branch: int) -> None:
    steps = [inputs(unet, step) for step in range(3)]
    with deep_cached(unet, branch, interval=1):
        cached = [call(unet, step) for step in steps]
    assert all(torch.equal(one, call(unet, step)) for one, step in zip(cached, steps, strict=True))


@pytest.mark.parametrize(
    ("branch", "outer"), [(1, ["down 0", "up 2"]), (2, ["down 0", "down 1", "up 1", "up 2"])], ids=["shallow branch", "deep branch"]
)
def test_the_inner_blocks_run_in_the_first_call_and_every_third_after_it(unet: Any, branch: int, outer: list[str]) -> None:
    every = ["down 0", "down 1", "down 2", "middle", "up 0", "up 1", "up 2"]
    with recorded_calls(unet) as calls, deep_cached(unet, branch):
        for number in range(7):
            calls.clear()
            call(unet, inputs(unet, number))
            assert calls == (outer if number % 3 else every), number


def test_nothing_is_reused_by_a_later_body_and_nothing_is_left_behind_even_after_a_failure(unet: Any) -> None:
    arguments, later = inputs(unet, 0), inputs(unet, 5)
    plain, blocks = call(unet, later), [*unet.down_blocks, unet.mid_block, *unet.up_blocks]

    def fail() -> None:
        with deep_cached(unet, 1):
            call(unet, arguments)
            assert sum("forward" in vars(block) for block in blocks) == 5
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not any("forward" in vars(block) for block in blocks)
    assert not unet._forward_pre_hooks
    assert torch.equal(call(unet, later), plain)
    with deep_cached(unet, 1):
        assert torch.equal(call(unet, later), plain)


def test_the_features_are_freed_before_a_call_that_computes_them_again(unet: Any) -> None:
    """They would otherwise be in memory together with everything that a full call needs."""
    made: list[weakref.ref[Tensor]] = []
    alive: list[list[bool]] = []
    with deep_cached(unet, 1, interval=2):
        handles = [
            unet.up_blocks[1].upsamplers[0].register_forward_hook(lambda _block, _given, output: made.append(weakref.ref(output))),
            unet.conv_in.register_forward_hook(lambda *_: alive.append([each() is not None for each in made])),
        ]
        for step in range(4):
            call(unet, inputs(unet, step))
        for handle in handles:
            handle.remove()
    assert alive == [[], [True], [False], [False, True]]
    assert [each() for each in made] == [None, None]


def small_unet(**config: Any) -> Any:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return UNet2DConditionModel(
            sample_size=8, layers_per_block=1, cross_attention_dim=16, attention_head_dim=4, norm_num_groups=8, **config
        ).eval()


@pytest.mark.parametrize(
    "config",
    [
        {
            "block_out_channels": (16, 32),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        },
        {
            "block_out_channels": (16, 32, 32),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "mid_block_type": None,
        },
    ],
    ids=["two resolutions", "no middle block"],
)
def test_distilled_unets_reuse_features_too(config: dict[str, Any]) -> None:
    unet = small_unet(**config)
    random = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    steps = [{"sample": random(1, 4, 8, 8), "timestep": 500 - step, "encoder_hidden_states": random(1, 7, 16)} for step in range(2)]
    with deep_cached(unet, 2):
        cached = [call(unet, step) for step in steps]
    branch = len(unet.up_blocks) - 1  # the innermost resolution is reused
    with forced_output(unet.up_blocks[-branch - 1], features(unet, steps[0], branch)):
        assert torch.equal(cached[1], call(unet, steps[1]))
    assert not torch.equal(cached[1], call(unet, steps[1]))
