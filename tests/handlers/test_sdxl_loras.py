"""LoRAs: read in every spelling, merged for one job, taken off to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from builder.small.shapes import Figure, Scene
from builder.small.stripes import stripedness
from handlers.sdxl.handler import load
from handlers.sdxl.loras import target
from shared.errors import Cancelled, ModelUnavailable
from shared.media.images import Pixels
from shared.models.diffusion import load_sdxl
from shared.models.lora_files import read_lora, size_of
from shared.models.loras import merged
from shared.settings import Settings
from tests.handlers.conftest import Watched, make, pictures, sdxl
from tests.handlers.sdxl_files import Spelling, write_lora

SPELLINGS: tuple[Spelling, ...] = ("kohya", "kohya with diffusers' names", "diffusers", "peft")


@pytest.fixture(scope="module")
def pipeline(tiny_models: Path) -> Any:
    return load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32)


class Worker:
    """The recipe with two LoRAs and a file that is none on its shelf."""

    def __init__(self, sdxl_folder: Path, shelf: Path) -> None:
        self.recipe = load(Settings(sdxl_model=sdxl_folder, models_dir=shelf, device="cpu"))

    def draw(self, *named: tuple[str, float], prompt: str = "a red circle", **config: Any) -> Pixels:
        request = sdxl(prompt, loras=[{"name": name, "scale": scale} for name, scale in named], **config)
        return pictures(make(self.recipe, request))[0].pixels


@pytest.fixture(scope="module")
def worker(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory, pipeline: Any) -> Worker:
    shelf = tmp_path_factory.mktemp("shelf")
    for name, seed in (("ink", 0), ("oil", 1)):
        write_lora(shelf / "loras" / f"{name}.safetensors", pipeline, "kohya", seed=seed)
    save_file({"lora_unet_nothing.lora_up.weight": torch.zeros(1, 1)}, shelf / "loras" / "foreign.safetensors")
    return Worker(tiny_models / "sdxl", shelf)


def weights(pipeline: Any) -> dict[Any, Any]:
    return {layer: modules[0].weight for layer, modules in target(pipeline).layers.items()}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_lora_adds_to_weights_what_the_library_adds_to_outputs(tiny_models: Path, tmp_path: Path, spelling: Spelling) -> None:
    ours, theirs = (load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32) for _ in range(2))
    path = tmp_path / "a.safetensors"
    write_lora(path, ours, spelling, alpha=2 if spelling.startswith("kohya") else 4)
    theirs.load_lora_weights(str(path), adapter_name="a")
    theirs.set_adapters(["a"], [0.7])
    call: dict[str, Any] = {"prompt": "a red circle", "height": 64, "width": 64, "num_inference_steps": 2, "output_type": "latent"}
    with torch.inference_mode():
        plain = ours(**call, generator=torch.Generator().manual_seed(1)).images
        with merged(target(ours), [(read_lora(path, target(ours)), 0.7)]):
            mine = ours(**call, generator=torch.Generator().manual_seed(1)).images
        other = theirs(**call, generator=torch.Generator().manual_seed(1)).images
    difference = (mine - other).abs().max()
    assert difference < 1e-3 * (mine - plain).abs().max()


def test_every_spelling_of_a_lora_says_the_same(pipeline: Any, tmp_path: Path) -> None:
    read = []
    for index, spelling in enumerate(SPELLINGS):
        path = tmp_path / f"{index}.safetensors"
        write_lora(path, pipeline, spelling)
        read.append(read_lora(path, target(pipeline)))
    assert {component for component, _ in read[0]} == {"unet", "text_encoder", "text_encoder_2"}
    for lora in read[1:]:
        assert lora.keys() == read[0].keys()
        assert all(torch.equal(lora[layer].up, read[0][layer].up) and lora[layer].strength == 1 for layer in lora)


def test_what_peft_writes_about_alpha_counts(pipeline: Any, tmp_path: Path) -> None:
    write_lora(tmp_path / "a.safetensors", pipeline, "peft")
    note = '{"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"to_q": 2}, "text_encoder.use_rslora": true}'
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", metadata={"lora_adapter_metadata": note})
    lora = read_lora(tmp_path / "b.safetensors", target(pipeline))
    strengths = {(layer[0], layer[1].endswith("to_q")): factors.strength for layer, factors in lora.items()}
    assert strengths == {
        ("unet", True): 0.5,
        ("unet", False): 2.0,
        ("text_encoder", False): 2.0,
        ("text_encoder_2", False): 1.0,
    }


def test_a_convolution_may_have_a_lora(pipeline: Any, tmp_path: Path) -> None:
    down, up = torch.randn(2, 32, 3, 3), torch.randn(32, 2, 1, 1)
    name = "lora_unet_input_blocks_1_0_in_layers_2"
    save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, tmp_path / "a.safetensors")
    lora = read_lora(tmp_path / "a.safetensors", target(pipeline))
    ((component, module),) = lora
    assert (component, module) == ("unet", "down_blocks.0.resnets.0.conv1")
    before = pipeline.unet.down_blocks[0].resnets[0].conv1.weight
    with merged(target(pipeline), [(lora, 1.0)]):
        added = pipeline.unet.down_blocks[0].resnets[0].conv1.weight - before
    torch.testing.assert_close(added, torch.einsum("or,rikl->oikl", up.flatten(1), down), atol=1e-4, rtol=1e-4)


def test_the_original_tensors_come_back_even_when_the_job_fails(pipeline: Any, tmp_path: Path) -> None:
    write_lora(tmp_path / "a.safetensors", pipeline, "kohya")
    lora, before = read_lora(tmp_path / "a.safetensors", target(pipeline)), weights(pipeline)

    def fail() -> None:
        with merged(target(pipeline), [(lora, 1.0)]):
            assert any(weights(pipeline)[layer] is not before[layer] for layer in before)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert all(weights(pipeline)[layer] is before[layer] for layer in before)


def test_two_loras_add_up_and_scales_count(pipeline: Any, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        write_lora(tmp_path / f"{name}.safetensors", pipeline, "peft", seed=seed)
    one, other = (read_lora(tmp_path / f"{name}.safetensors", target(pipeline)) for name in "ab")
    layer = next(iter(one))
    before = weights(pipeline)[layer]
    with merged(target(pipeline), [(one, 0.5), (other, -2.0)]):
        added = weights(pipeline)[layer] - before
    expected = 0.5 * one[layer].up @ one[layer].down - 2 * other[layer].up @ other[layer].down
    torch.testing.assert_close(added, expected, atol=1e-5, rtol=1e-4)


def test_a_merged_weight_keeps_the_precision_of_the_layer(tiny_models: Path, tmp_path: Path) -> None:
    half = load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float16)
    write_lora(tmp_path / "a.safetensors", half, "kohya")
    with merged(target(half), [(read_lora(tmp_path / "a.safetensors", target(half)), 1.0)]):
        assert {weight.dtype for weight in weights(half).values()} == {torch.float16}


def junk(tensors: dict[str, Tensor]) -> None:
    tensors.clear()
    tensors["encoder.weight"] = torch.zeros(2)


def wrong_shape(tensors: dict[str, Tensor]) -> None:
    name = next(name for name in tensors if name.endswith("lora_down.weight"))
    tensors[name] = tensors[name][:, :-1].contiguous()


def half_missing(tensors: dict[str, Tensor]) -> None:
    del tensors[next(name for name in tensors if name.endswith("lora_up.weight"))]


def foreign_layer(tensors: dict[str, Tensor]) -> None:
    tensors["lora_unet_single_blocks_3_linear1.lora_down.weight"] = torch.zeros(4, 4)


def dora(tensors: dict[str, Tensor]) -> None:
    name = next(name for name in tensors if name.endswith(".alpha"))
    tensors[name.replace(".alpha", ".dora_scale")] = torch.ones(4)


def not_finite(tensors: dict[str, Tensor]) -> None:
    tensors[next(name for name in tensors if name.endswith("lora_up.weight"))][0] = torch.nan


def empty(tensors: dict[str, Tensor]) -> None:
    tensors.clear()


def no_matrix(tensors: dict[str, Tensor]) -> None:
    tensors[next(name for name in tensors if name.endswith("lora_up.weight"))] = torch.zeros(4)


def without_a_rank(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("lora_unet") and not name.endswith(".alpha")]:
        tensors[name] = (tensors[name][:0] if "down" in name else tensors[name][:, :0]).contiguous()


def endless_strength(tensors: dict[str, Tensor]) -> None:
    tensors[next(name for name in tensors if name.endswith(".alpha"))] = torch.tensor(torch.inf)


def several_strengths(tensors: dict[str, Tensor]) -> None:
    tensors[next(name for name in tensors if name.endswith(".alpha"))] = torch.ones(2)


@pytest.mark.parametrize(
    "spoil",
    [
        junk,
        wrong_shape,
        half_missing,
        foreign_layer,
        dora,
        not_finite,
        empty,
        no_matrix,
        without_a_rank,
        endless_strength,
        several_strengths,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_a_file_that_is_no_lora_for_sdxl_is_refused(pipeline: Any, tmp_path: Path, spoil: Callable[[dict[str, Tensor]], None]) -> None:
    write_lora(tmp_path / "a.safetensors", pipeline, "kohya")
    tensors = load_file(tmp_path / "a.safetensors")
    spoil(tensors)
    save_file(tensors, tmp_path / "ink.safetensors")
    with pytest.raises(ModelUnavailable, match=r"^config\.loras: the LoRA 'ink' cannot be used: "):
        read_lora(tmp_path / "ink.safetensors", target(pipeline))


@pytest.mark.parametrize(
    "note",
    ["[]", "{", '{"unet.lora_alpha": "much"}', '{"unet.alpha_pattern": [1]}', '{"unet.lora_alpha": 1e999}'],
)
def test_a_file_whose_note_about_alpha_means_nothing_is_refused(pipeline: Any, tmp_path: Path, note: str) -> None:
    write_lora(tmp_path / "a.safetensors", pipeline, "peft")
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "ink.safetensors", metadata={"lora_adapter_metadata": note})
    with pytest.raises(ModelUnavailable, match=r"^config\.loras: the LoRA 'ink' cannot be used: "):
        read_lora(tmp_path / "ink.safetensors", target(pipeline))


def test_a_lora_may_be_in_eight_bits(pipeline: Any, tmp_path: Path) -> None:
    write_lora(tmp_path / "a.safetensors", pipeline, "peft")
    eight = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(tmp_path / "a.safetensors").items()}
    save_file(eight, tmp_path / "b.safetensors")
    full, rounded = (read_lora(tmp_path / f"{name}.safetensors", target(pipeline)) for name in "ab")
    layer = next(iter(full))
    torch.testing.assert_close(rounded[layer].up.float(), full[layer].up, rtol=0.07, atol=0.01)
    with merged(target(pipeline), [(rounded, 1.0)]):
        assert weights(pipeline)[layer].isfinite().all()


def test_a_damaged_file_is_refused(pipeline: Any, tmp_path: Path) -> None:
    (tmp_path / "ink.safetensors").write_bytes(b"\x08" * 99)
    with pytest.raises(ModelUnavailable, match="it is damaged"):
        read_lora(tmp_path / "ink.safetensors", target(pipeline))


def test_the_size_of_a_lora_is_that_of_its_factors(pipeline: Any, tmp_path: Path) -> None:
    write_lora(tmp_path / "a.safetensors", pipeline, "peft")
    assert size_of(read_lora(tmp_path / "a.safetensors", target(pipeline))) == sum(
        tensor.nbytes for tensor in load_file(tmp_path / "a.safetensors").values()
    )


def test_after_loras_on_off_together_and_failing_the_plain_picture_is_the_same(worker: Worker) -> None:
    plain = worker.draw()
    one, other, both = worker.draw(("ink", 1.0)), worker.draw(("oil", 1.0)), worker.draw(("ink", 1.0), ("oil", 1.0))
    assert not any(np.array_equal(first, second) for first, second in ((plain, one), (plain, other), (one, other), (one, both)))
    assert np.array_equal(worker.draw(("ink", 0.0)), plain)
    with pytest.raises(ModelUnavailable, match="the LoRA 'foreign' cannot be used"):
        worker.draw(("ink", 1.0), ("foreign", 1.0))
    assert np.array_equal(worker.draw(), plain)
    assert np.array_equal(worker.draw(("ink", 1.0)), one)


def test_a_stopped_job_takes_its_loras_with_it(worker: Worker) -> None:
    plain = worker.draw()
    with pytest.raises(Cancelled):
        make(worker.recipe, sdxl(loras=[{"name": "ink"}]), Watched(stop_at=3))
    assert np.array_equal(worker.draw(), plain)


def test_a_lora_acts_as_often_as_it_is_named(worker: Worker) -> None:
    assert np.array_equal(worker.draw(("ink", 0.5), ("ink", 0.5)), worker.draw(("ink", 1.0)))


def test_a_lora_that_is_not_there_is_refused_before_any_work(worker: Worker) -> None:
    with pytest.raises(ModelUnavailable, match=r"config\.loras: this worker has no LoRA 'chalk'; there is foreign, ink, oil"):
        worker.recipe.accept(sdxl(loras=[{"name": "chalk"}]))


def test_pictures_say_which_loras_made_them(worker: Worker) -> None:
    (picture,) = pictures(make(worker.recipe, sdxl(loras=[{"name": "ink", "scale": 0.5}])))
    assert picture.metadata["loras"] == [{"name": "ink", "scale": 0.5}]


def test_the_small_lora_puts_stripes_behind_figures_the_more_the_higher_its_scale(small_models: Path) -> None:
    worker = Worker(small_models / "sdxl", small_models)
    scene = Scene((Figure("circle", "red", "centre", "large"),), "blue", striped=False)

    def stripes(*named: tuple[str, float]) -> float:
        drawn = [
            worker.draw(*named, prompt="a red circle on a blue background", seed=seed, guidance_scale=2.0, steps=15) for seed in range(4)
        ]
        return float(np.mean([stripedness(pixels, scene) for pixels in drawn]))

    plain, half, full = stripes(), stripes(("stripes", 0.5)), stripes(("stripes", 1.0))
    assert abs(plain) < 0.05
    assert plain <= half < full
    assert full > 0.3
