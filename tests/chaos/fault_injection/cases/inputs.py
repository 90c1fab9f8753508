"""Invalid requests, which are rejected before any work."""

from __future__ import annotations

from typing import Any

from tests.chaos.fault_injection.harness import Harness, sdxl, wan, with_fields
from tests.chaos.fault_injection.registry import fault

REJECTIONS = {"VALIDATION_ERROR", "MODEL_UNAVAILABLE", "REFERENCE_IMAGE_ERROR"}

INVALID_INPUTS: tuple[Any, ...] = (None, [], "text", 7)
INVALID_NUMBERS: tuple[Any, ...] = ("20", 1e308, float("nan"), -1, 10**30, True)
INVALID_IDS = ("../..", "%2e%2e", "a/b", "a\\b", "a\0b", "a\nb", "ä", "🦩", "", ".", "x" * 300)
UNUSUAL_PROMPTS = ("\ud800", "a\0b", "\u202eabc", "heron " * 770, "🦩🦩🦩", "((((" * 1250, "a++++" * 1000, "<|endoftext|>" * 50, "   ")
UNKNOWN_NAMES = (
    "../../etc/passwd",
    "/etc/passwd",
    "https://example.com/a.safetensors",
    "evil.ckpt",
    "evil.pt",
    "evil.bin",
    "nothing",
    "..",
)
HOSTILE_URLS = ("http://169.254.169.254/", "https://example.com/x", "file:///etc/passwd", "gopher://x")


def error_code(output: dict[str, Any]) -> Any:
    """Returns the error code of a failed job, None for a completed one."""
    return output["metadata"].get("error_code")


@fault("F01", "An input that is null, a list, a string or a number", "rejected under RunPod's job id")
def _(harness: Harness) -> None:
    for index, value in enumerate(INVALID_INPUTS):
        output = harness.run_job({"id": f"F01-{index}", "input": value}, rejected=True)
        assert (output["job_id"], error_code(output)) == (f"F01-{index}", "VALIDATION_ERROR")


@fault("F02", 'Values of the wrong type or out of range: `"20"`, 1e308, NaN, -1, 10³⁰, `true`', "rejected; the message names the field")
def _(harness: Harness) -> None:
    for index, value in enumerate(INVALID_NUMBERS):
        output = harness.run_job(sdxl(f"F02-{index}", steps=value), rejected=True)
        assert error_code(output) == "VALIDATION_ERROR"
        assert [problem["field"] for problem in output["metadata"]["problems"]] == ["config.steps"]


@fault(
    "F03",
    "Sizes: a width of a million pixels, 10 000 images or frames, a prompt of 5 MB, 10 000 references, deep nesting",
    "rejected without allocating much memory",
)
def _(harness: Harness) -> None:
    worker = harness.worker()
    worker.reset_peak_memory()
    before = worker.memory()
    control = {"kind": "canny", "image": "https://example.com/a.png"}
    nested: Any = []
    for _ in range(400):
        nested = [nested]
    oversized: list[dict[str, Any]] = [
        {"resolution": "1000000x1000000"},
        {"width": 0, "height": 0, "resolution": None},
        {"resolution": "1023x1023"},
        {"num_images": 10_000},
        {"controls": [control] * 10_000},
        {"loras": nested},
    ]
    for index, config in enumerate(oversized):
        assert error_code(harness.run_job(sdxl(f"F03-{index}", **config), rejected=True)) == "VALIDATION_ERROR"
    assert error_code(harness.run_job(sdxl("F03-prompt", prompt="x" * 5_000_000), rejected=True)) == "VALIDATION_ERROR"
    assert error_code(harness.run_job(wan("F03-frames", frames=10_000), rejected=True)) == "VALIDATION_ERROR", "a request of another type"
    assert worker.memory("VmHWM") - before < 150 * 2**20


@fault(
    "F04",
    "Ids that are unsafe in a path: `../..`, `%2e%2e`, `a/b`, NUL, a newline, an emoji, empty, 300 characters",
    "rejected; nothing is stored",
)
def _(harness: Harness) -> None:
    before = set(harness.storage.objects)
    for field in ("user_id", "id"):
        for index, value in enumerate(INVALID_IDS):
            output = harness.run_job(with_fields(sdxl(f"F04-{field}-{index}"), **{field: value}), rejected=True)
            assert error_code(output) == "VALIDATION_ERROR"
    assert set(harness.storage.objects) == before


@fault("F05", "Prompts: a lone surrogate, NUL, right-to-left marks, 770 words, emoji, 5 000 brackets", "completed, or `VALIDATION_ERROR`")
def _(harness: Harness) -> None:
    for index, prompt in enumerate(UNUSUAL_PROMPTS):
        for weights in (False, True):
            output = harness.run_job(sdxl(f"F05-{index}-{weights}", prompt=prompt, compel_enabled=weights))
            assert output["status"] == "completed" or error_code(output) == "VALIDATION_ERROR"


@fault("F06", "Model names that are unknown, paths, URLs or end in `.ckpt`", "rejected; no file outside the model folders is opened")
def _(harness: Harness) -> None:
    for index, name in enumerate(UNKNOWN_NAMES):
        kinds: dict[str, dict[str, Any]] = {"lora": {"loras": [{"name": name}]}, "ti": {"textual_inversions": [name]}, "vae": {"vae": name}}
        for kind, config in kinds.items():
            assert error_code(harness.run_job(sdxl(f"F06-{kind}-{index}", **config), rejected=True)) in REJECTIONS
    assert error_code(harness.run_job(sdxl("F06-scheduler", scheduler="quick"), rejected=True)) == "VALIDATION_ERROR"


@fault(
    "F07",
    "Hostile `callback_url`s: cloud metadata addresses, other hosts, `file:`, a user name before the allowed host",
    "rejected; only the configured receiver is called",
)
def _(harness: Harness) -> None:
    allowed = harness.receiver.url.removeprefix("http://").partition("/")[0]
    for index, url in enumerate((*HOSTILE_URLS, f"https://{allowed}@example.com/")):
        output = harness.run_job(with_fields(sdxl(f"F07-{index}"), callback_url=url), rejected=True)
        assert error_code(output) == "VALIDATION_ERROR"


@fault("F08", "A job that is delivered again after its end, and twice at once", "the same files, the same `webhook-id`")
def _(harness: Harness) -> None:
    worker, job = harness.worker(), sdxl("F08")
    first = harness.run_job(job)
    content = harness.storage.objects[first["assets"][0]["url"]].content
    for _ in range(2):
        worker.runpod_api.submit(job)
    worker.runpod_api.wait_for(lambda: len(worker.runpod_api.results("F08")) == 3)
    assert {body["output"]["status"] for body in worker.runpod_api.results("F08")} == {"completed"}
    assert harness.storage.objects[first["assets"][0]["url"]].content == content
    webhook_ids = [message.headers["webhook-id"] for message in harness.receiver.messages if message.payload["job_id"] == "F08"]
    assert len(webhook_ids) == 3
    assert len(set(webhook_ids)) == 1
