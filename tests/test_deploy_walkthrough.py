"""docs/deploy.md followed from the weights to the first job, on a volume of small weights in the layouts in which they are published."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from builder.weights.make_single_file import make_single_file
from handlers.sdxl.weights.load import load_sdxl
from shared.weights.catalogue import SDXL
from tests.builder.weights.published_addons import Downloads, publish_addons, write_published
from tests.doubles.fake_hub import FakeHub
from tests.doubles.fake_storage import FakeStorage
from tests.doubles.gateway import RunningGateway
from tests.doubles.processes import ROOT, clean_environment
from tests.handlers.reported.jobs import data_url
from tests.handlers.reported.pictures import picture, saved
from tests.handlers.sdxl.files import write_lora, write_vae

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
SECRET = "canary-callback-secret-0123456789"
KEY = "sb_secret_canary-key-of-the-workers"
REFERENCE = data_url(saved(picture()))
MASK = data_url(saved(picture().convert("L").point([0] * 128 + [255] * 128)))


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that was made as the page says.

    Attributes:
        gateway: RunPod's API, in place of `https://api.runpod.ai`.
        storage: The Supabase project.
        logs: The folder of the worker's log.
    """

    gateway: RunningGateway
    storage: FakeStorage
    logs: Path

    def runsync(self, job: dict[str, Any]) -> dict[str, Any]:
        """Sends a job as the page's `curl` does, at a small size, and returns RunPod's answer."""
        config = job["input"].get("config", {}) | {"resolution": "64x64", "steps": 10}
        config = {name: value for name, value in config.items() if name != "num_inference_steps"}
        answer = self.gateway.request("POST", "sdxl/runsync", json={"input": job["input"] | {"config": config}})
        state: dict[str, Any] = answer.raise_for_status().json()
        return state


def published(folder: Path) -> dict[str, bytes]:
    """The files of an SDXL folder under the names of the published repository, which has them in half precision."""
    names = {path: path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != "made.json"}
    return {name.replace(".safetensors", ".fp16.safetensors"): path.read_bytes() for path, name in names.items()}


def page_command(start: str) -> list[str]:
    """The arguments of the page's download that starts so."""
    (line,) = {line for line in COMMANDS if line.startswith(start)}
    return shlex.split(line.removeprefix("python -m builder.download_weights"))


def add_own_files(models: Path, pipeline: Any) -> None:
    """Adds what an operator has of their own: a LoRA, an embedding and a VAE."""
    write_lora(models / "loras/Detail Tweaker XL (v1).safetensors", pipeline, "kohya")
    (models / "textual_inversions").mkdir()
    save_file({"clip_l": torch.randn(1, 32), "clip_g": torch.randn(1, 48)}, models / "textual_inversions/ink.safetensors")
    write_vae(models / "vaes/sharp")


def download(hub: FakeHub, volume: Path, addons: dict[str, dict[str, bytes]], start: str) -> None:
    """Runs one of the page's commands with this volume in place of the mounted one."""
    *arguments, to, target = page_command(start)
    assert (to, target) == ("--to", "/workspace/models")
    status, output = Downloads(hub, volume, addons).run(*arguments)
    assert status == 0, output


@pytest.fixture(scope="module")
def volume(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume that the page's download commands have filled."""
    volume = tmp_path_factory.mktemp("volume")
    pipeline = load_sdxl(tiny_models / "sdxl", torch.device("cpu"), torch.float32)
    addons = write_published(tmp_path_factory.mktemp("published"), pipeline)
    with FakeHub(published(tiny_models / "sdxl"), SDXL.repo, str(SDXL.revision)) as hub:
        publish_addons(hub, addons)
        download(hub, volume, addons, "python -m builder.download_weights sdxl --to")
        download(hub, volume, addons, "python -m builder.download_weights sdxl --with")
    add_own_files(volume / "models", pipeline)
    return volume


def settings_of_the_page(volume: Path, storage: FakeStorage) -> dict[str, str]:
    """The variables of section 4, and the folder of section 2."""
    block = PAGE.partition("## 4. ")[2].partition("```bash\n")[2].partition("```")[0]
    names = re.findall(r"^([A-Z_]+)=", block, flags=re.MULTILINE)
    values = {"SUPABASE_URL": storage.url, "SUPABASE_SERVICE_ROLE_KEY": KEY, "JOB_CALLBACK_SECRET": SECRET}
    assert set(names) == set(values)
    assert "the volume\n(`VOLUME_MODELS_DIR`)" in PAGE
    return values | {"VOLUME_MODELS_DIR": str(volume / "models"), "MODELS_DIR": str(volume / "none"), "OUTBOX_DIR": str(volume / "outbox")}


@pytest.fixture(scope="module")
def endpoint(volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("endpoint")
    with FakeStorage(KEY) as storage:
        variables = settings_of_the_page(volume, storage)
        with RunningGateway(folder, {"sdxl": "handlers.sdxl.handler"}, models=volume / "models", variables=variables) as gateway:
            yield Endpoint(gateway, storage, folder / "logs")


def test_the_pages_check_passes_on_the_filled_volume(volume: Path) -> None:
    assert "`python -m handlers.sdxl.handler --check`" in PAGE
    with FakeStorage(KEY) as storage:
        environment = clean_environment(**settings_of_the_page(volume, storage))
        command = [sys.executable, "-m", "handlers.sdxl.handler", "--check"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def run_block(block: str, endpoint: Endpoint, folder: Path, **variables: str) -> dict[str, Any]:
    """Runs a block of `curl` against this endpoint, and returns RunPod's answer."""
    script = (
        block.replace("https://api.runpod.ai/v2", endpoint.gateway.url).replace("ENDPOINT_ID=…", "ENDPOINT_ID=sdxl").replace("…", "any")
    )
    environment = clean_environment(NO_PROXY="*", **variables)
    done = subprocess.run(["bash", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_first_job_is_the_one_that_the_page_describes(endpoint: Endpoint, tmp_path: Path) -> None:
    runsync, status = (block for block in BLOCKS if "api.runpod.ai" in block)
    (name,) = re.findall(r"-d @(\S+)", runsync)
    job = json.loads((ROOT / name).read_text())
    assert (job["input"]["config"]["resolution"], job["input"]["config"]["steps"]) == ("1024x1024", 25)
    assert "1024 × 1024 in 25 steps" in PAGE
    job["input"]["config"] |= {"resolution": "64x64", "steps": 10}
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(json.dumps(job))
    state = run_block(runsync, endpoint, tmp_path)
    assert (state["status"], state["output"]["status"]) == ("COMPLETED", "completed")
    assert run_block(status, endpoint, tmp_path, ENDPOINT_ID="sdxl", RUNPOD_API_KEY="any", JOB_ID=state["id"])["output"] == state["output"]
    (asset,) = state["output"]["assets"]
    assert f"`{asset['url']}`" in PAGE
    assert {asset["url"], asset["thumbnail_url"]} <= set(endpoint.storage.objects)
    assert state["output"]["metadata"]["warnings"] == []
    assert any("weights found" in log.read_text() for log in endpoint.logs.glob("*.log"))


FEATURES: dict[str, dict[str, Any]] = {
    "a LoRA": {"config": {"loras": [{"name": "Detail Tweaker XL (v1)", "scale": 0.8}]}},
    "an embedding": {"prompt": "a heron, ink", "config": {"textual_inversions": ["ink"]}},
    "a VAE": {"config": {"vae": "sharp"}},
    "a ControlNet": {"config": {"controls": [{"kind": "canny", "image": REFERENCE}]}},
    "all ControlNets": {
        "config": {"controls": [{"kind": kind, "image": REFERENCE, "prepared": True} for kind in ("canny", "depth", "pose")]}
    },
    "the refiner": {"config": {"refiner": {"switch_at": 0.8}}},
    "an upscaler": {"config": {"upscale": {"factor": 2}}},
    "the safety checker": {"config": {"safety_check": True}},
    "style": {"metadata": {"reference_image_url": REFERENCE, "reference_type": "style"}},
    "composition": {"metadata": {"reference_image_url": REFERENCE, "reference_type": "composition"}},
    "character": {"metadata": {"reference_image_url": REFERENCE, "reference_type": "character"}},
    "image-to-image": {"metadata": {"reference_image_url": REFERENCE, "denoise_strength": 0.5}},
    "a mask": {"config": {"mask": MASK}, "metadata": {"reference_image_url": REFERENCE}},
    "weights in the prompt": {"prompt": "a (heron:1.3) at dawn", "compel_enabled": True},
    "several references": {"config": {"references": [{"image": REFERENCE, "type": "style"}, {"image": REFERENCE, "type": "character"}]}},
}


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_works_on_the_filled_volume(endpoint: Endpoint, feature: str) -> None:
    plain = {"id": f"feature-{list(FEATURES).index(feature)}", "user_id": "u", "type": "sdxl_image_high", "prompt": "a heron at dawn"}
    state = endpoint.runsync({"input": plain | FEATURES[feature]})
    assert state["status"] == "COMPLETED", state.get("error")
    assert state["output"]["metadata"]["warnings"] == []
    assert {asset["url"] for asset in state["output"]["assets"]} <= set(endpoint.storage.objects)


def test_the_live_callers_own_request_works_on_the_filled_volume(endpoint: Endpoint) -> None:
    job = json.loads((ROOT / "examples/requests/sdxl_live_caller.json").read_text())
    job["input"]["metadata"]["reference_image_url"] = REFERENCE
    state = endpoint.runsync(job)
    assert state["status"] == "COMPLETED", state.get("error")
    assert state["output"]["metadata"]["reference_mode"] == "composition"


def test_an_own_checkpoint_is_downloaded_by_the_pages_command_and_found(tiny_models: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "own.safetensors"
    make_single_file(tiny_models / "sdxl", checkpoint)
    _, url, *options, to, _folder = page_command("python -m builder.download_weights --checkpoint")
    assert (url, to) == ("https://host.example/mine.safetensors", "--to")
    digest = {"0123…": hashlib.sha256(checkpoint.read_bytes()).hexdigest()}
    with FakeHub({"mine.safetensors": checkpoint.read_bytes()}, "host/example", "0" * 40) as host:
        served = f"{host.url}/host/example/resolve/{'0' * 40}/mine.safetensors"
        arguments = ["--checkpoint", served, *(digest.get(option, option) for option in options), to, str(tmp_path / "models")]
        command = [sys.executable, "-m", "builder.download_weights", *arguments]
        environment = clean_environment(HF_HOME=str(tmp_path / "home"), NO_PROXY="*")
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_weights_are_found(tmp_path / "models", tmp_path)


def assert_weights_are_found(folder: Path, scratch: Path) -> None:
    """Runs the check of the weights in a worker whose volume has them in this folder."""
    environment = clean_environment(VOLUME_MODELS_DIR=str(folder), MODELS_DIR=str(scratch / "none"), OUTPUT_DIR=str(scratch / "out"))
    command = [sys.executable, "-m", "handlers.sdxl.handler", "--check", "weights"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_upgrades_second_folder_serves_as_the_page_says(volume: Path, tmp_path: Path) -> None:
    """`VOLUME_MODELS_DIR` selects the folder of another revision, and a rollback the first one again."""
    assert "VOLUME_MODELS_DIR=/runpod-volume/models-2" in PAGE
    shutil.copytree(volume / "models/sdxl", tmp_path / "models-2/sdxl")
    for folder in (tmp_path / "models-2", volume / "models"):
        assert_weights_are_found(folder, tmp_path)
