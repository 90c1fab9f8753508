"""LoRAs, merged for one job and removed without a trace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from handlers.sdxl.features.lora import lora_target
from handlers.sdxl.features.scheduler import make_scheduler
from handlers.sdxl.handler import load
from handlers.sdxl.scheduler_names import SchedulerName
from handlers.sdxl.weights.load import load_sdxl
from shared.errors import Cancelled, ModelUnavailable
from shared.media.images import Pixels
from shared.models.lora_files import read_lora
from shared.models.loras import merged
from shared.settings import Settings
from small_models.training.addons.stripes import stripe_contrast
from small_models.training.sdxl.dataset import Figure, Scene
from tests.handlers.conftest import RecordedRun, generate, image_outputs, sdxl
from tests.handlers.sdxl.files import NAMING_SCHEMES, NamingScheme, write_lora


@pytest.fixture(scope="module")
def pipeline(tiny_models: Path) -> Any:
    return load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32)


class Worker:
    """A recipe with two LoRAs and an invalid file."""

    def __init__(self, sdxl_folder: Path, addons: Path) -> None:
        self.recipe = load(Settings(sdxl_model=sdxl_folder, models_dir=addons, device="cpu"))

    def draw(self, *named: tuple[str, float], prompt: str = "a red circle", **config: Any) -> Pixels:
        request = sdxl(prompt, loras=[{"name": name, "scale": scale} for name, scale in named], **config)
        return image_outputs(generate(self.recipe, request))[0].pixels


@pytest.fixture(scope="module")
def worker(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory, pipeline: Any) -> Worker:
    addons = tmp_path_factory.mktemp("addons")
    for name, seed in (("ink", 0), ("oil", 1)):
        write_lora(addons / "loras" / f"{name}.safetensors", pipeline, "kohya", seed=seed)
    save_file({"lora_unet_nothing.lora_up.weight": torch.zeros(1, 1)}, addons / "loras" / "foreign.safetensors")
    return Worker(tiny_models / "sdxl", addons)


def weights(pipeline: Any) -> dict[Any, Any]:
    return {layer: target.weight for layer, target in lora_target(pipeline).layers.items()}


@pytest.mark.parametrize("naming", NAMING_SCHEMES)
def test_a_merged_lora_equals_the_adapter_of_diffusers(tiny_models: Path, tmp_path: Path, naming: NamingScheme) -> None:
    ours, theirs = (load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32) for _ in range(2))
    path = tmp_path / "a.safetensors"
    write_lora(path, ours, naming, alpha=2 if naming.startswith("kohya") else 4)
    theirs.load_lora_weights(str(path), adapter_name="a")
    theirs.set_adapters(["a"], [0.7])
    # One step: with random weights, a second one amplifies the rounding of the first a thousand times.
    call: dict[str, Any] = {"prompt": "a red circle", "height": 64, "width": 64, "num_inference_steps": 1, "output_type": "latent"}
    with torch.inference_mode():
        plain = ours(**call, generator=torch.Generator().manual_seed(1)).images
        with merged(lora_target(ours), [(read_lora(path, lora_target(ours)), 0.7)]):
            mine = ours(**call, generator=torch.Generator().manual_seed(1)).images
        other = theirs(**call, generator=torch.Generator().manual_seed(1)).images
    difference = (mine - other).abs().max()
    assert difference < 1e-4 * (mine - plain).abs().max()


def test_loras_apply_to_convolutions(pipeline: Any, tmp_path: Path) -> None:
    down, up = torch.randn(2, 32, 3, 3), torch.randn(32, 2, 1, 1)
    name = "lora_unet_input_blocks_1_0_in_layers_2"
    save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, tmp_path / "a.safetensors")
    lora = read_lora(tmp_path / "a.safetensors", lora_target(pipeline))
    ((component, module),) = lora.updates
    assert (component, module) == ("unet", "down_blocks.0.resnets.0.conv1")
    before = pipeline.unet.down_blocks[0].resnets[0].conv1.weight
    with merged(lora_target(pipeline), [(lora, 1.0)]):
        added = pipeline.unet.down_blocks[0].resnets[0].conv1.weight - before
    torch.testing.assert_close(added, torch.einsum("or,rikl->oikl", up.flatten(1), down), atol=1e-4, rtol=1e-4)


def test_the_original_weights_are_restored_after_a_failure(pipeline: Any, tmp_path: Path) -> None:
    write_lora(tmp_path / "a.safetensors", pipeline, "kohya")
    lora, before = read_lora(tmp_path / "a.safetensors", lora_target(pipeline)), weights(pipeline)

    def fail() -> None:
        with merged(lora_target(pipeline), [(lora, 1.0)]):
            assert any(weights(pipeline)[layer] is not before[layer] for layer in before)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert all(weights(pipeline)[layer] is before[layer] for layer in before)


def test_loras_add_up_by_their_scales(pipeline: Any, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        write_lora(tmp_path / f"{name}.safetensors", pipeline, "peft", seed=seed)
    one, other = (read_lora(tmp_path / f"{name}.safetensors", lora_target(pipeline)) for name in "ab")
    layer = next(iter(one.updates))
    before = weights(pipeline)[layer]
    with merged(lora_target(pipeline), [(one, 0.5), (other, -2.0)]):
        added = weights(pipeline)[layer] - before
    (up, down), (other_up, other_down) = ((lora.updates[layer].factors["up"], lora.updates[layer].factors["down"]) for lora in (one, other))
    expected = 0.5 * up @ down - 2 * other_up @ other_down
    torch.testing.assert_close(added, expected, atol=1e-5, rtol=1e-4)


def test_merged_weights_keep_the_layers_precision(tiny_models: Path, tmp_path: Path) -> None:
    half = load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float16)
    write_lora(tmp_path / "a.safetensors", half, "kohya")
    with merged(lora_target(half), [(read_lora(tmp_path / "a.safetensors", lora_target(half)), 1.0)]):
        assert {weight.dtype for weight in weights(half).values()} == {torch.float16}


def test_loras_do_not_affect_later_jobs(worker: Worker) -> None:
    plain = worker.draw()
    one, other, both = worker.draw(("ink", 1.0)), worker.draw(("oil", 1.0)), worker.draw(("ink", 1.0), ("oil", 1.0))
    assert not any(np.array_equal(first, second) for first, second in ((plain, one), (plain, other), (one, other), (one, both)))
    assert np.array_equal(worker.draw(("ink", 0.0)), plain)
    with pytest.raises(ModelUnavailable, match=r"^LoRA 'foreign' cannot be used: .*lora_unet_nothing"):
        worker.draw(("ink", 1.0), ("foreign", 1.0))
    assert np.array_equal(worker.draw(), plain)
    assert np.array_equal(worker.draw(("ink", 1.0)), one)


def test_a_cancelled_job_removes_its_loras(worker: Worker) -> None:
    plain = worker.draw()
    with pytest.raises(Cancelled):
        generate(worker.recipe, sdxl(loras=[{"name": "ink"}]), RecordedRun(stop_at=3))
    assert np.array_equal(worker.draw(), plain)


def test_the_scales_of_a_lora_named_twice_add_up(worker: Worker) -> None:
    assert np.array_equal(worker.draw(("ink", 0.5), ("ink", 0.5)), worker.draw(("ink", 1.0)))


def test_a_lora_that_is_not_installed_is_refused_before_any_work(worker: Worker) -> None:
    with pytest.raises(ModelUnavailable, match=r"LoRA 'chalk' is not installed\. Available: foreign, ink, oil"):
        worker.recipe.check(sdxl(loras=[{"name": "chalk"}]))


def test_metadata_lists_the_loras(worker: Worker) -> None:
    (image,) = image_outputs(generate(worker.recipe, sdxl(loras=[{"name": "ink", "scale": 0.5}])))
    assert image.metadata["loras"] == [{"name": "ink", "scale": 0.5}]


SPEED_LORAS = re.findall(
    r"^\| ([^|]+) \| `(lcm|tcd|(?:ddim|euler)_trailing)` \| ([\d, orto]+).* \| ([\d.]+)(?: to ([\d.]+))? \|$",
    (Path(__file__).parents[4] / "docs/handlers/sdxl.md").read_text("utf-8"),
    flags=re.MULTILINE,
)
"""The page's table: LoRA, scheduler, steps, and the least and largest guidance."""


@pytest.mark.parametrize("row", SPEED_LORAS, ids=lambda row: row[0].partition(" (")[0])
def test_the_settings_of_a_speed_lora_are_accepted_and_reported(worker: Worker, row: tuple[str, ...]) -> None:
    _, scheduler, steps, *guidance = row
    for count in re.findall(r"\d+", steps):
        for scale in filter(None, guidance):
            settings: dict[str, Any] = {"scheduler": scheduler, "steps": int(count), "guidance_scale": float(scale)}
            assert sdxl(**settings).warnings == ()
    (image,) = image_outputs(generate(worker.recipe, sdxl(loras=[{"name": "ink"}], **settings)))
    assert {name: image.metadata[name] for name in (*settings, "loras")} == settings | {"loras": [{"name": "ink", "scale": 1.0}]}


def test_the_page_has_settings_for_every_known_speed_lora() -> None:
    names = " ".join(row[0] for row in SPEED_LORAS)
    assert all(name in names for name in ("LCM", "DMD2", "TCD", "Lightning", "Hyper", "Hyper with guidance"))


@pytest.mark.parametrize(
    ("name", "steps", "expected"),
    [
        ("lcm", 4, [999, 759, 499, 259]),
        ("tcd", 4, [999, 759, 499, 259]),
        ("tcd", 1, [999]),
        ("euler_trailing", 4, [999, 749, 499, 249]),
        ("ddim_trailing", 2, [999, 499]),
    ],
)
def test_the_schedulers_of_speed_loras_start_at_the_last_timestep(
    pipeline: Any, name: SchedulerName, steps: int, expected: list[int]
) -> None:
    scheduler = make_scheduler(name, pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == expected


def test_the_small_lora_draws_clearer_stripes_the_higher_its_scale(small_models: Path) -> None:
    worker = Worker(small_models / "sdxl", small_models)
    scene = Scene((Figure("circle", "red", "centre", "large"),), "blue", striped=False)

    def stripes(*named: tuple[str, float]) -> float:
        drawn = [
            worker.draw(*named, prompt="a red circle on a blue background", seed=seed, guidance_scale=2.0, steps=15) for seed in range(4)
        ]
        return float(np.mean([stripe_contrast(pixels, scene) for pixels in drawn]))

    plain, half, full = stripes(), stripes(("stripes", 0.5)), stripes(("stripes", 1.0))
    assert abs(plain) < 0.05
    assert plain <= half < full
    assert full > 0.3
