"""Many concurrent jobs of the real handlers with slow uploads: each makes the same files as alone and reports to its own receiver."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.load.harness import Job, LoadHarness, start_load_harness
from tests.chaos.load.jobs import sdxl_job, wan_job, with_id
from tests.doubles.jobs import webhook_id

JOBS: dict[str, Callable[[LoadHarness, int], Job]] = {"sdxl": sdxl_job, "wan": wan_job}


@dataclass
class NumberedJobs:
    """The numbered jobs of a handler, and the hashes of the files that each makes alone."""

    handler: str
    harness: LoadHarness
    _expected: dict[int, list[str]] = field(default_factory=dict)

    def job(self, number: int) -> Job:
        return JOBS[self.handler](self.harness, number)

    def expected(self, number: int) -> list[str]:
        """Runs a job alone when it is first asked for."""
        if number not in self._expected:
            self._expected[number] = self.harness.hashes_alone(self.job(number))
        return self._expected[number]


def start_handler(handler: str, folder: Path, models: Path) -> Iterator[NumberedJobs]:
    environment = {"LOAD_HANDLER": handler, "MODELS_DIR": str(models), "CALLBACK_PROCESSING": "true"}
    with start_load_harness(folder, "tests.chaos.load.worker", job_receivers=2, **environment) as harness:
        yield NumberedJobs(handler, harness)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory, small_models: Path) -> Iterator[NumberedJobs]:
    yield from start_handler("sdxl", tmp_path_factory.mktemp("sdxl"), install_adapters(tmp_path_factory.mktemp("models"), small_models))


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[NumberedJobs]:
    yield from start_handler("wan", tmp_path_factory.mktemp("wan"), tiny_models)


def install_adapters(folder: Path, models: Path) -> Path:
    """Fills a model folder with the small models, a style adapter and a truncated LoRA."""
    for name in ("sdxl", "controlnets"):
        (folder / name).symlink_to(models / name)
    for name in ("loras", "ip_adapters"):
        shutil.copytree(models / name, folder / name)
    (folder / "ip_adapters/small.safetensors").rename(folder / "ip_adapters/style.safetensors")
    (folder / "loras/broken.safetensors").write_bytes((models / "loras/stripes.safetensors").read_bytes()[:-1000])
    return folder


def assert_describes(job: Job, output: Any) -> None:
    """Asserts that everything in a payload is about this job."""
    request, config = job["input"], job["input"]["config"]
    size = config.get("resolution") or f"{config['width']}x{config['height']}"
    count = config.get("num_images", 1)
    assert (output["job_id"], output["status"]) == (job["id"], "completed")
    assert len(output["assets"]) == count
    for index, asset in enumerate(output["assets"]):
        metadata = asset["metadata"]
        assert asset["url"].startswith(f"{request['user_id']}/{job['id']}/{index}.")
        assert (f"{metadata['width']}x{metadata['height']}", metadata["batch_size"]) == (size, count)
        assert metadata["seed"] == asset["generation_seed"] == config["seed"] + index
        assert metadata["guidance_scale"] == config["guidance_scale"]
        if "frames" in config:
            names = ("frames", "fps", "sample_solver")
            assert [metadata[name] for name in names] == [config[name] for name in names]
        else:
            assert metadata["format"] == config["output_format"]
            assert [lora["name"] for lora in metadata.get("loras", [])] == [lora["name"] for lora in config.get("loras", [])]
    assert output["metadata"]["reference_mode"] == _reference_mode(request)


def _reference_mode(request: dict[str, Any]) -> str:
    metadata, config = request.get("metadata", {}), request["config"]
    default = "modify" if "reference_image_url" in metadata else "none"
    return str(config.get("reference_mode") or metadata.get("reference_type") or default)


def assert_callbacks(harness: LoadHarness, job: Job, output: Any) -> None:
    """Asserts that the callbacks of a job went to its receiver, in order, each under an id of its own."""
    processing, completed = messages = harness.received_callbacks(job["id"])
    assert all(message.verified for message in messages)
    assert (processing.payload["status"], completed.payload) == ("processing", output)
    expected = [webhook_id(job["id"], status, user_id=job["input"]["user_id"]) for status in ("processing", "completed")]
    assert [message.headers["webhook-id"] for message in messages] == expected
    url = job["input"].get("callback_url", harness.receiver.url)
    assert all(url.endswith(message.path) for message in messages)
    (receiver,) = {each.url for each in harness.receivers for message in each.messages if message.payload["job_id"] == job["id"]}
    assert url.startswith(receiver)


def assert_progress(harness: LoadHarness, job: Job) -> None:
    """Asserts that progress updates are the job's own, increase, and precede its result."""
    posts = [post for post in harness.runpod_api.posts if post.job_id == job["id"]]
    assert [post.is_result for post in posts] == [False] * (len(posts) - 1) + [True]
    updates = harness.runpod_api.progress(job["id"])
    steps = [update["step"] for update in updates]
    assert steps == sorted(set(steps))
    assert len({update["steps"] for update in updates}) <= 1, "updates of one job"


def assert_concurrent_equals_alone(jobs: NumberedJobs, numbers: range) -> None:
    harness, submitted = jobs.harness, {number: jobs.job(number) for number in numbers}
    expected = {number: jobs.expected(number) for number in numbers}
    harness.uploads.max_delay = 0.5
    harness.submit(*submitted.values())
    outputs = {number: harness.output(job["id"]) for number, job in submitted.items()}
    harness.uploads.max_delay = 0.0
    assert {number: harness.file_hashes(output) for number, output in outputs.items()} == expected
    for number, job in submitted.items():
        assert_describes(job, outputs[number])
        assert_callbacks(harness, job, outputs[number])
        assert_progress(harness, job)
    assert harness.runpod_api.max_in_flight <= 4
    hashes = [each for files in expected.values() for each in files]
    assert len(set(hashes)) == len(hashes), "all files differ"


def test_concurrent_images_are_bit_identical_to_those_made_alone(sdxl: NumberedJobs) -> None:
    assert_concurrent_equals_alone(sdxl, range(4))


def run_failing_among_others(jobs: NumberedJobs, numbers: range, *failing: Job) -> dict[str, Any]:
    """Runs failing jobs among valid ones, asserts that these make the same files as alone, and returns the payloads of the failing ones."""
    harness = jobs.harness
    expected = {number: jobs.expected(number) for number in numbers}
    valid = [with_id(jobs.job(number), f"valid-{number}-{failing[0]['id']}") for number in numbers]
    first = with_id(jobs.job(0), f"slow-first-{failing[0]['id']}")
    harness.submit(first, *failing, *valid)
    outputs = [harness.output(job["id"]) for job in valid]
    assert {number: harness.file_hashes(output) for number, output in zip(numbers, outputs, strict=True)} == expected
    return {job["id"]: harness.output(job["id"]) for job in failing}


def error_code(output: Any) -> Any:
    return output["metadata"].get("error_code")


@pytest.mark.slow
def test_failing_jobs_do_not_change_the_images_of_others(sdxl: NumberedJobs) -> None:
    with_lora, broken = sdxl.job(1), with_id(sdxl.job(1), "broken-lora")
    broken["input"]["config"]["loras"] = [{"name": "stripes", "scale": 1.0}, {"name": "broken", "scale": 1.0}]
    sdxl.harness.uploads.rejected = frozenset({"rejected"})
    failing = [with_id(with_lora, "oom-with-lora"), with_id(sdxl.job(3), "nan-with-control"), broken, with_id(sdxl.job(2), "rejected")]
    outputs = run_failing_among_others(sdxl, range(6), *failing)
    sdxl.harness.uploads.rejected = frozenset()
    assert {job_id: error_code(output) for job_id, output in outputs.items()} == {
        "oom-with-lora": "OOM_ERROR",
        "nan-with-control": "GENERATION_ERROR",
        "broken-lora": "MODEL_UNAVAILABLE",
        "rejected": "UPLOAD_ERROR",
    }
    for job_id, output in outputs.items():
        assert [message.payload for message in sdxl.harness.received_callbacks(job_id)][-1] == output


@pytest.mark.slow
def test_cancelling_a_job_with_a_lora_does_not_change_the_images_of_others(sdxl: NumberedJobs) -> None:
    harness, cancelled = sdxl.harness, with_id(sdxl.job(1), "slow-with-lora")
    expected = {number: sdxl.expected(number) for number in (0, 1, 2)}
    harness.submit(cancelled)
    harness.wait_for_step("slow-with-lora")
    others = {number: with_id(sdxl.job(number), f"after-cancel-{number}") for number in expected}
    harness.submit(*others.values())
    harness.runpod_api.stop("slow-with-lora")
    assert {number: harness.file_hashes(harness.output(job["id"])) for number, job in others.items()} == expected
    assert harness.runpod_api.results("slow-with-lora") == []
    failed = [message.payload for message in harness.received_callbacks("slow-with-lora") if message.payload["status"] == "failed"]
    assert [error_code(payload) for payload in failed] == ["CANCELLED"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [16, pytest.param(40, marks=pytest.mark.nightly)])
def test_many_concurrent_images_are_bit_identical_to_those_made_alone(sdxl: NumberedJobs, count: int) -> None:
    assert_concurrent_equals_alone(sdxl, range(100, 100 + count))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [6, pytest.param(12, marks=pytest.mark.nightly)])
def test_concurrent_clips_are_bit_identical_to_those_made_alone(wan: NumberedJobs, count: int) -> None:
    assert_concurrent_equals_alone(wan, range(count))
