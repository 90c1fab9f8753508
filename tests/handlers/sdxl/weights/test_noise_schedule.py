"""Checkpoints that were trained with another prediction type or noise schedule than SDXL's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from builder.weights.make_single_file import make_single_file
from handlers.sdxl.features.scheduler import SCHEDULERS, check_schedule, make_scheduler
from handlers.sdxl.handler import load
from handlers.sdxl.weights.load import load_sdxl
from handlers.sdxl.weights.noise_schedule import scheduler_overrides
from shared.errors import ModelUnavailable
from shared.settings import Settings
from shared.weights.errors import WeightsError
from tests.handlers.conftest import sdxl

V = {"prediction_type": "v_prediction"}
ZERO_SNR = V | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
WITHOUT_ZERO_SNR = {"heun", "dpm2", "dpm2_a", "dpmpp_sde", "deis", "pndm"}


def marked(folder: Path, *markers: str, **header: str) -> Path:
    tensors = {"model.diffusion_model.out.2.bias": torch.zeros(4)} | {marker: torch.zeros(1) for marker in markers}
    save_file(tensors, folder / "a.safetensors", metadata={key.replace("__", "."): value for key, value in header.items()} or None)
    return folder / "a.safetensors"


@pytest.mark.parametrize(
    ("markers", "header", "expected"),
    [
        ([], {}, {}),
        (["v_pred"], {}, V),
        (["v_pred", "ztsnr"], {}, ZERO_SNR),
        ([], {"modelspec__prediction_type": "v"}, V),
        ([], {"modelspec__prediction_type": "V_Prediction"}, V),
        ([], {"modelspec__prediction_type": "epsilon"}, {"prediction_type": "epsilon"}),
        (["ztsnr"], {"modelspec__prediction_type": "v"}, ZERO_SNR),
        ([], {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, ZERO_SNR),
        ([], {"ss_v_parameterization": "False", "ss_zero_terminal_snr": "False"}, {}),
    ],
)
def test_a_checkpoint_says_what_it_predicts(tmp_path: Path, markers: list[str], header: dict[str, str], expected: dict[str, Any]) -> None:
    assert scheduler_overrides(marked(tmp_path, *markers, **header)) == expected


@pytest.mark.parametrize(
    ("markers", "header", "reason"),
    [
        (["edm_mean", "edm_std"], {}, "EDM's noise schedule .'edm_mean'."),
        (["edm_std"], {}, "'edm_std'"),
        (["edm_vpred.sigma_max"], {}, "'edm_vpred.sigma_max'"),
        (["ztsnr"], {}, "zero terminal SNR .* but does not predict the velocity"),
        ([], {"modelspec__prediction_type": "rectified_flow"}, "modelspec.prediction_type is 'rectified_flow', which is not supported"),
        (["v_pred"], {"modelspec__prediction_type": "epsilon"}, "contradicts itself about its prediction type"),
    ],
)
def test_what_is_not_supported_is_refused_at_the_start(tmp_path: Path, markers: list[str], header: dict[str, str], reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        load_sdxl(marked(tmp_path, *markers, **header), torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def velocity_checkpoint(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("velocity") / "model.safetensors"
    make_single_file(tiny_models / "sdxl", file)
    save_file(load_file(file) | {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, file)
    shutil.copytree(tiny_models / "sdxl", file.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))
    return file


def test_the_schedulers_of_a_velocity_checkpoint_follow_its_schedule(velocity_checkpoint: Path) -> None:
    recipe = load(Settings(sdxl_model=velocity_checkpoint, device="cpu"))
    recipe.check(sdxl(scheduler="euler_a"))
    with pytest.raises(
        ModelUnavailable, match=r"Scheduler 'pndm' cannot sample .* trained with v-prediction\. Available: ddim, ddpm, euler,"
    ):
        recipe.check(sdxl(scheduler="pndm"))
    with pytest.raises(ModelUnavailable, match=r"Scheduler 'heun' cannot sample .* trained with zero terminal SNR"):
        recipe.check(sdxl(scheduler="heun"))


def usable(checkpoint: dict[str, Any]) -> set[str]:
    def works(name: Any) -> bool:
        try:
            check_schedule(name, checkpoint)
        except ModelUnavailable:
            return False
        return True

    return {name for name in SCHEDULERS if works(name)}


def test_schedulers_that_ignore_the_schedule_are_refused() -> None:
    assert usable({}) == usable({"prediction_type": "epsilon"}) == set(SCHEDULERS)
    assert usable(V) == set(SCHEDULERS) - {"pndm"}
    assert usable(ZERO_SNR) == set(SCHEDULERS) - WITHOUT_ZERO_SNR


RANDOM = {"ddpm", "euler_a", "dpm2_a", "lcm", "tcd", "dpmpp_2m_sde", "dpmpp_2m_sde_karras"}


@pytest.mark.parametrize("name", sorted(set(SCHEDULERS) - RANDOM))
def test_a_scheduler_is_usable_if_velocity_and_noise_lead_to_the_same_image(name: Any) -> None:
    difference = (sampled(name, "v_prediction") - sampled(name, "epsilon")).abs().max()
    assert (difference < 1e-4) == (name in usable(V)), difference


def sampled(name: Any, prediction: str) -> torch.Tensor:
    """The latents that a scheduler reaches with a model that always knows the image."""
    published: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    own: Any = diffusers.EulerDiscreteScheduler(**published, prediction_type=prediction)
    scheduler = make_scheduler(name, own.config)
    scheduler.set_timesteps(20)
    latents: torch.Tensor = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        low = int(timestep)
        following = scheduler.alphas_cumprod[min(low + 1, 999)]
        signal = scheduler.alphas_cumprod[low].lerp(following, float(timestep) - low)
        noise = (scheduler.scale_model_input(latents, timestep) - signal.sqrt() * 0.7) / (1 - signal).sqrt()
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * 0.7
        predicted = velocity if prediction == "v_prediction" else noise
        latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
    return latents


def test_a_folder_whose_own_scheduler_cannot_sample_its_model_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_models / "sdxl", tmp_path / "sdxl"))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | V | {"_class_name": "PNDMScheduler"}))
    with pytest.raises(WeightsError, match="PNDMScheduler cannot sample a model that was trained with v-prediction"):
        load_sdxl(folder, torch.device("cpu"), torch.float32)
