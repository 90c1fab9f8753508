"""LoRA files as they are published: a job with one gives exactly the result of the same values in the plainest spelling."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils.other import get_pattern_key
from safetensors.torch import load, save_file
from torch import Tensor, nn

from handlers.sdxl.handler import HANDLER as SDXL
from handlers.wan.handler import HANDLER as WAN
from shared.settings import Settings
from tests.handlers.reported.jobs import JobRunner, Result, reported

SDXL_JOB: Mapping[str, Any] = {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "a red circle"}
WAN_JOB: Mapping[str, Any] = {"id": "j", "user_id": "u", "type": "image_fast", "prompt": "a red circle"}
CONFIG: Mapping[str, Mapping[str, Any]] = {
    "sdxl": {"resolution": "64x64", "steps": 10, "seed": 7},
    "wan": {"width": 64, "height": 64, "frames": 1, "steps": 3, "seed": 7},
}


class LoraJobs:
    """Jobs with one LoRA on a small trained model.

    Args:
        runner: Runs them.
        job: The input of a plain job.
        loras: The folder of LoRAs that the worker reads.
    """

    def __init__(self, runner: JobRunner, job: Mapping[str, Any], loras: Path) -> None:
        self._runner, self._job, self._loras, self._count = runner, job, loras, 0
        self.plain = self.run_plain()

    def with_file(self, content: bytes | Mapping[str, Tensor], header: Mapping[str, str] | None = None, name: str | None = None) -> Result:
        """Runs a job with a LoRA file of this content."""
        self._count += 1
        path = self._loras / f"{name or self._count}.safetensors"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save_file(dict(content), path, metadata=dict(header) if header else None)
        config = self._job["config"] | {"loras": [{"name": path.stem, "scale": 1.0}]}
        return self._runner.run({**self._job, "config": config})

    def result_of(self, content: bytes | Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> bytes:
        """Returns the file that a job with this LoRA stores. The LoRA must change it, without a warning."""
        result = self.with_file(content, header)
        stored = self.bytes_of(result)
        assert result.response["metadata"]["warnings"] == []
        assert stored != self.plain
        return stored

    def run_plain(self) -> bytes:
        """Returns the file that a job without a LoRA stores."""
        return self.bytes_of(self._runner.run(self._job))

    @staticmethod
    def bytes_of(result: Result) -> bytes:
        """The stored file."""
        assert result.response["status"] == "completed", result.response["error_message"]
        url: str = result.response["assets"][0]["url"]
        return (result.folder / url).read_bytes()


def lora_jobs(handler: Any, job: Mapping[str, Any], small_models: Path, folder: Path) -> LoraJobs:
    models = folder / "models"
    (models / "loras").mkdir(parents=True)
    (models / handler.name).symlink_to(small_models / handler.name)
    settings = Settings(models_dir=models, device="cpu")
    runner = JobRunner(handler, handler.load(settings), folder / "out", settings)
    return LoraJobs(runner, {**job, "config": CONFIG[handler.name]}, models / "loras")


@pytest.fixture(scope="module")
def wan(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> LoraJobs:
    return lora_jobs(WAN, WAN_JOB, small_models, tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def sdxl(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> LoraJobs:
    return lora_jobs(SDXL, SDXL_JOB, small_models, tmp_path_factory.mktemp("sdxl"))


# WAN: the spellings of a layer

WIDTH, RANK = 128, 4


def factors(seed: int = 0) -> tuple[Tensor, Tensor]:
    """The down and the up factor of a layer of the small WAN."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(RANK, WIDTH, generator=generator) * 0.3, torch.randn(WIDTH, RANK, generator=generator) * 0.3


def ab(layer: str, between: str = "") -> dict[str, Tensor]:
    down, up = factors()
    return {f"{layer}.lora_A{between}.weight": down, f"{layer}.lora_B{between}.weight": up}


def down_up(layer: str) -> dict[str, Tensor]:
    down, up = factors()
    return {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}


def kohya(layer: str) -> dict[str, Tensor]:
    return down_up(layer) | {f"{layer}.alpha": torch.tensor(float(RANK))}


def dotted(layer: str) -> dict[str, Tensor]:
    down, up = factors()
    return {f"{layer}.lora.down.weight": down, f"{layer}.lora.up.weight": up}


ORIGINAL, DIFFUSERS = "blocks.0.self_attn.q", "blocks.0.attn1.to_q"
SPELLINGS: Mapping[str, Callable[[], dict[str, Tensor]]] = {
    "DiffSynth": lambda: ab(ORIGINAL, ".default"),
    "DiffSynth with its pipeline": lambda: ab(f"pipe.dit.{ORIGINAL}", ".default"),
    "bare": lambda: ab(ORIGINAL),
    "ComfyUI": lambda: down_up(f"diffusion_model.{ORIGINAL}"),
    "ComfyUI, A and B": lambda: ab(f"diffusion_model.{ORIGINAL}"),
    "a whole checkpoint's": lambda: down_up(f"model.diffusion_model.{ORIGINAL}"),
    "musubi-tuner": lambda: kohya("lora_unet_blocks_0_self_attn_q"),
    "VideoX-Fun": lambda: kohya("lora_unet__blocks_0_self_attn_q"),
    "LyCORIS": lambda: kohya("lycoris_blocks_0_self_attn_q"),
    "diffusers": lambda: ab(f"transformer.{DIFFUSERS}"),
    "diffusers, attention processors": lambda: dotted(f"transformer.{DIFFUSERS}"),
    "peft": lambda: ab(f"base_model.model.{DIFFUSERS}"),
    "peft, the original's names": lambda: ab(f"base_model.model.{ORIGINAL}"),
    "OneTrainer": lambda: kohya(f"transformer.{DIFFUSERS}"),
    "OneTrainer, flat": lambda: kohya("lora_transformer_blocks_0_attn1_to_q"),
}


@pytest.fixture(scope="module")
def plainest(wan: LoraJobs) -> bytes:
    return wan.result_of(kohya(f"diffusion_model.{ORIGINAL}"))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_wan_lora_gives_the_same_result(wan: LoraJobs, plainest: bytes, spelling: str) -> None:
    assert wan.result_of(SPELLINGS[spelling]()) == plainest


@pytest.mark.parametrize("name", ["w_diffsynth_default", "w_bare", "w_lightx2v_diff_b"])
def test_the_reported_wan_loras_load(wan: LoraJobs, name: str) -> None:
    wan.result_of(reported(f"{name}.safetensors"))


def test_the_biases_of_the_reported_speed_lora_have_their_effect(wan: LoraJobs) -> None:
    """In the reported file itself they are zero."""
    tensors = load(reported("w_lightx2v_diff_b.safetensors"))
    biased = {name: torch.ones(WIDTH) if name.endswith("diff_b") else tensor for name, tensor in tensors.items()}
    assert wan.result_of(biased) != wan.result_of(tensors)


@pytest.mark.parametrize(
    "more",
    [
        {"diffusion_model.blocks.0.norm3.diff": torch.full((WIDTH,), 0.5), "diffusion_model.blocks.0.norm3.diff_b": torch.ones(WIDTH)},
        {"diffusion_model.blocks.1.self_attn.norm_q.diff": torch.full((WIDTH,), 0.5)},
        {"diffusion_model.blocks.1.modulation.diff": torch.full((1, 6, WIDTH), 0.5)},
        {"diffusion_model.time_embedding.0.diff_b": torch.ones(WIDTH)},
        {"diffusion_model.blocks.2.ffn.2.diff": torch.full((WIDTH, 384), 0.05)},
    ],
    ids=["norm", "norm of queries", "modulation", "bias of the time embedding", "full difference"],
)
def test_the_differences_of_a_speed_lora_have_their_effect(wan: LoraJobs, plainest: bytes, more: dict[str, Tensor]) -> None:
    assert wan.result_of(kohya(f"diffusion_model.{ORIGINAL}") | more) != plainest


def test_a_lora_for_the_larger_wan_is_refused_as_such(wan: LoraJobs) -> None:
    down, up = torch.zeros(RANK, 5120), torch.zeros(5120, RANK)
    name = f"diffusion_model.{ORIGINAL}"
    code, message = wan.with_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}).error
    assert code == "MODEL_UNAVAILABLE"
    assert "5120" in message


@pytest.mark.parametrize("name", ["Detail Tweaker XL (v1)", "国风 [v2.1]", "add_detail", "Größe + Licht, 2", "a'b & c"])
def test_a_lora_is_found_by_the_name_that_its_author_gave_it(wan: LoraJobs, plainest: bytes, name: str) -> None:
    assert LoraJobs.bytes_of(wan.with_file(kohya(f"diffusion_model.{ORIGINAL}"), name=name)) == plainest


# SDXL: peft's patterns


def attention_layers(small_models: Path) -> dict[str, nn.Linear]:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(small_models / "sdxl/unet")
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and (".attn" in name or name.endswith(("proj_in", "proj_out", "ff.net.2")))
    }


class PatternFile:
    """A LoRA of the small SDXL's attention, ranks by peft's `rank_pattern`.

    Args:
        layers: The layers.
        config: peft's configuration.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], config: Mapping[str, Any]) -> None:
        self.header = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in config.items()})}
        self.by_pattern: dict[str, Tensor] = {}
        self.by_layer: dict[str, Tensor] = {}
        self.alphas: dict[str, float] = {}
        generator = torch.Generator().manual_seed(0)
        for name, module in layers.items():
            rank = self._value(config, "rank_pattern", "r", name)
            down = torch.randn(rank, module.in_features, generator=generator) * 0.05
            up = torch.randn(module.out_features, rank, generator=generator) * 0.05
            self.by_pattern |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
            self.alphas[name] = self._value(config, "alpha_pattern", "lora_alpha", name)
            flat = f"lora_unet_{name.replace('.', '_')}"
            alpha = torch.tensor(float(self.alphas[name]))
            self.by_layer |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": alpha}

    @staticmethod
    def _value(config: Mapping[str, Any], patterns: str, default: str, name: str) -> Any:
        found: Mapping[str, Any] = config.get(patterns, {})
        return found.get(get_pattern_key(list(found), name), config[default])


REPORTED = {".*attn[12].to_(q|k|v)": 32}
PATTERNS: Mapping[str, Mapping[str, Any]] = {
    "the reported expression": {"r": 8, "lora_alpha": 8, "alpha_pattern": REPORTED},
    "several expressions, of which the first counts": {
        "r": 8, "lora_alpha": 8, "alpha_pattern": {r"attn1\.to_q": 2, ".*attn1.*": 16, ".*to_q": 64, "mid_block.*": 4},
    },
    "names without an expression": {"r": 8, "lora_alpha": 4, "alpha_pattern": {"to_k": 24, "attn2.to_v": 2, "proj_in": 1}},
    "ranks by expressions": {"r": 4, "lora_alpha": 8, "rank_pattern": {".*attn2.to_(k|v)": 16, "proj_out": 2}},
    "ranks and alphas": {"r": 8, "lora_alpha": 8, "rank_pattern": {".*attn1.*": 2}, "alpha_pattern": {"up_blocks.*to_out.0": 16}},
    "an anchored expression": {"r": 8, "lora_alpha": 8, "alpha_pattern": {"^down_blocks.1.*to_q": 32}},
    "an expression that selects nothing": {"r": 8, "lora_alpha": 16, "alpha_pattern": {"no_such_layer": 1}},
}  # fmt: skip


@pytest.mark.parametrize("kind", PATTERNS)
def test_alpha_and_rank_by_pefts_patterns_equal_alpha_by_layer(sdxl: LoraJobs, small_models: Path, kind: str) -> None:
    file = PatternFile(attention_layers(small_models), PATTERNS[kind])
    assert sdxl.result_of(file.by_pattern, file.header) == sdxl.result_of(file.by_layer)


def test_the_reported_expression_strengthens_queries_keys_and_values(small_models: Path) -> None:
    alphas = PatternFile(attention_layers(small_models), PATTERNS["the reported expression"]).alphas
    assert {name for name, alpha in alphas.items() if alpha == 32} == {
        name for name in alphas if name.rpartition(".")[2] in ("to_q", "to_k", "to_v")
    }


@pytest.mark.parametrize("family", ["sdxl", "wan"])
def test_after_all_these_loras_a_plain_job_gives_the_bytes_of_the_first(family: str, request: pytest.FixtureRequest) -> None:
    jobs: LoraJobs = request.getfixturevalue(family)
    assert jobs.run_plain() == jobs.plain
