"""Many jobs of the real handlers at once, with slow uploads: each makes what it makes alone, and says so to those who asked for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.load.around import PATIENCE, Around, Job, around
from tests.chaos.load.orders import renamed, sdxl_order, wan_order

ORDERS: dict[str, Callable[[Around, int], Job]] = {"sdxl": sdxl_order, "wan": wan_order}


@dataclass
class Shop:
    """A worker of a handler, and what its jobs have made alone, each only once."""

    handler: str
    load: Around
    _alone: dict[int, list[str]] = field(default_factory=dict)

    def order(self, number: int) -> Job:
        return ORDERS[self.handler](self.load, number)

    def alone(self, number: int) -> list[str]:
        if number not in self._alone:
            self._alone[number] = self.load.alone(self.order(number))
        return self._alone[number]


def opened(handler: str, folder: Path, models: Path, **environment: str) -> Iterator[Shop]:
    variables = {"LOAD_HANDLER": handler, "MODELS_DIR": str(models), "CALLBACK_PROCESSING": "true"} | environment
    with around(folder, "tests.chaos.load.worker", inboxes=2, **variables) as load:
        yield Shop(handler, load)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory, small_models: Path) -> Iterator[Shop]:
    yield from opened("sdxl", tmp_path_factory.mktemp("sdxl"), furnished(tmp_path_factory.mktemp("models"), small_models))


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Shop]:
    yield from opened("wan", tmp_path_factory.mktemp("wan"), tiny_models)


def furnished(folder: Path, models: Path) -> Path:
    """A shelf with an adapter for styles, and with a LoRA that is cut off."""
    for name in ("sdxl", "controlnets"):
        (folder / name).symlink_to(models / name)
    for name in ("loras", "ip_adapters"):
        shutil.copytree(models / name, folder / name)
    (folder / "ip_adapters/small.safetensors").rename(folder / "ip_adapters/style.safetensors")
    (folder / "loras/broken.safetensors").write_bytes((models / "loras/stripes.safetensors").read_bytes()[:-1000])
    return folder


def belongs_to(job: Job, output: Any) -> None:
    """Everything that a payload says is about this job."""
    request, config = job["input"], job["input"]["config"]
    size = config.get("resolution") or f"{config['width']}x{config['height']}"
    count = config.get("num_images", 1)
    assert (output["job_id"], output["status"]) == (job["id"], "completed")
    assert len(output["assets"]) == count
    for index, asset in enumerate(output["assets"]):
        facts = asset["metadata"]
        assert asset["url"].startswith(f"{request['user_id']}/{job['id']}/{index}.")
        assert (f"{facts['width']}x{facts['height']}", facts["batch_size"]) == (size, count)
        assert facts["seed"] == asset["generation_seed"] == config["seed"] + index
        assert facts["guidance_scale"] == config["guidance_scale"]
        if "frames" in config:
            assert (facts["frames"], facts["fps"], facts["sample_solver"]) == (config["frames"], config["fps"], config["sample_solver"])
        else:
            assert facts["format"] == config["output_format"]
            assert [lora["name"] for lora in facts.get("loras", [])] == [lora["name"] for lora in config.get("loras", [])]
    assert output["metadata"]["reference_mode"] == _mode_of(request)


def _mode_of(request: dict[str, Any]) -> str:
    metadata, config = request.get("metadata", {}), request["config"]
    given = config.get("reference_mode") or metadata.get("reference_type") or ("modify" if "reference_image_url" in metadata else "none")
    return str(given)


def told_its_own(load: Around, job: Job, output: Any) -> None:
    """Callbacks about a job went where it asked, in order, each under an id of its own, and nothing followed its end."""
    began, ended = messages = load.told(job["id"])
    assert all(message.verified for message in messages)
    assert (began.payload["status"], ended.payload) == ("processing", output)
    assert [message.headers["webhook-id"] for message in messages] == [f"{job['id']}_processing", f"{job['id']}_completed"]
    asked = job["input"].get("callback_url", load.loop.inbox.url)
    assert all(asked.endswith(message.path) for message in messages)
    (receiver,) = {inbox.url for inbox in load.receivers for message in inbox.messages if message.payload["job_id"] == job["id"]}
    assert asked.startswith(receiver)


def progressed(load: Around, job: Job) -> None:
    """Progress was the job's own, never went back, and ended before its result."""
    posts = [post for post in load.loop.gateway.posts if post.job_id == job["id"]]
    assert [post.is_result for post in posts] == [False] * (len(posts) - 1) + [True]
    updates = load.loop.gateway.progress(job["id"])
    steps = [update["step"] for update in updates]
    assert steps == sorted(set(steps))
    assert len({update["steps"] for update in updates}) <= 1, "of one job, and of no other"


def all_at_once(shop: Shop, numbers: range) -> None:
    load, jobs = shop.load, {number: shop.order(number) for number in numbers}
    alone = {number: shop.alone(number) for number in numbers}
    load.uploads.longest = 0.5
    load.submit(*jobs.values())
    outputs = {number: load.output(job["id"]) for number, job in jobs.items()}
    load.uploads.longest = 0.0
    assert {number: load.files(output) for number, output in outputs.items()} == alone
    for number, job in jobs.items():
        belongs_to(job, outputs[number])
        told_its_own(load, job, outputs[number])
        progressed(load, job)
    assert load.loop.gateway.most_in_hand <= 4
    assert len({file for files in alone.values() for file in files}) == sum(len(files) for files in alone.values()), "no two are alike"


def test_pictures_made_among_others_are_bit_for_bit_those_made_alone(sdxl: Shop) -> None:
    all_at_once(sdxl, range(4))


def among_others(shop: Shop, numbers: range, *others: Job) -> dict[str, Any]:
    """Has a few good jobs done beside some that will not complete, and returns what became of those."""
    load = shop.load
    alone = {number: shop.alone(number) for number in numbers}
    good = [renamed(shop.order(number), f"good-{number}-beside-{others[0]['id']}") for number in numbers]
    before = [renamed(shop.order(0), f"slow-before-{others[0]['id']}")]
    load.submit(*before, *others, *good)
    outputs = [load.output(job["id"]) for job in good]
    assert {number: load.files(output) for number, output in zip(numbers, outputs, strict=True)} == alone
    return {job["id"]: load.output(job["id"]) for job in others}


def code(output: Any) -> Any:
    return output["metadata"].get("error_code")


@pytest.mark.slow
def test_a_job_that_fails_leaves_the_pictures_of_its_neighbours_as_they_are(sdxl: Shop) -> None:
    with_lora, broken = sdxl.order(1), renamed(sdxl.order(1), "broken-lora")
    broken["input"]["config"]["loras"] = [{"name": "stripes", "scale": 1.0}, {"name": "broken", "scale": 1.0}]
    sdxl.load.uploads.refused = frozenset({"refused"})
    failing = [renamed(with_lora, "oom-with-lora"), renamed(sdxl.order(3), "nan-with-control"), broken, renamed(sdxl.order(2), "refused")]
    outputs = among_others(sdxl, range(6), *failing)
    sdxl.load.uploads.refused = frozenset()
    assert {job_id: code(output) for job_id, output in outputs.items()} == {
        "oom-with-lora": "OOM_ERROR",
        "nan-with-control": "GENERATION_ERROR",
        "broken-lora": "MODEL_UNAVAILABLE",
        "refused": "UPLOAD_ERROR",
    }
    for job_id, output in outputs.items():
        assert [message.payload for message in sdxl.load.told(job_id)][-1] == output


@pytest.mark.slow
def test_a_job_that_is_stopped_with_a_lora_on_leaves_the_pictures_of_its_neighbours_as_they_are(sdxl: Shop) -> None:
    load, stopped = sdxl.load, renamed(sdxl.order(1), "slow-with-lora")
    alone = {number: sdxl.alone(number) for number in (0, 1, 2)}
    load.submit(stopped)
    load.loop.wait_for_step("slow-with-lora", PATIENCE)
    good = {number: renamed(sdxl.order(number), f"after-stop-{number}") for number in alone}
    load.submit(*good.values())
    load.loop.gateway.stop("slow-with-lora")
    assert {number: load.files(load.output(job["id"])) for number, job in good.items()} == alone
    assert load.loop.gateway.results("slow-with-lora") == []
    assert [code(message.payload) for message in load.told("slow-with-lora") if message.payload["status"] == "failed"] == ["CANCELLED"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_forty_jobs_at_once_are_bit_for_bit_what_they_are_alone(sdxl: Shop) -> None:
    all_at_once(sdxl, range(100, 140))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_clips_made_among_others_are_bit_for_bit_those_made_alone(wan: Shop) -> None:
    all_at_once(wan, range(12))
