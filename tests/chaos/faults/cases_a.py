"""Bad input: refused before any work."""

from __future__ import annotations

import base64
from typing import Any

from tests.chaos.faults.registry import fault
from tests.chaos.faults.world import World, sdxl, wan, with_fields

REFUSALS = {"VALIDATION_ERROR", "MODEL_UNAVAILABLE", "REFERENCE_IMAGE_ERROR"}

NO_INPUTS: tuple[Any, ...] = (None, [], "text", 7)
WRONG_NUMBERS: tuple[Any, ...] = ("20", 1e308, float("nan"), -1, 10**30, True)
WRONG_IDS = ("../..", "%2e%2e", "a/b", "a\\b", "a\0b", "a\nb", "ä", "🦩", "", ".", "x" * 300)
ODD_PROMPTS = ("\ud800", "a\0b", "\u202eabc", "heron " * 770, "🦩🦩🦩", "((((" * 1250, "a++++" * 1000, "<|endoftext|>" * 50, "   ")
STRANGE_NAMES = (
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


def code(output: dict[str, Any]) -> Any:
    return output["metadata"].get("error_code")


@fault("F01", "An input that is null, a list, a text or a number", "answered under RunPod's id")
def _(world: World) -> None:
    for index, value in enumerate(NO_INPUTS):
        output = world.do({"id": f"F01-{index}", "input": value}, refused=True)
        assert (output["job_id"], code(output)) == (f"F01-{index}", "VALIDATION_ERROR")


@fault("F02", 'Values of wrong types: `"20"`, 1e308, NaN, -1, 10³⁰, `true`', "the field is named, and nothing is computed")
def _(world: World) -> None:
    for index, value in enumerate(WRONG_NUMBERS):
        output = world.do(sdxl(f"F02-{index}", steps=value), refused=True)
        assert code(output) == "VALIDATION_ERROR"
        assert [problem["field"] for problem in output["metadata"]["problems"]] == ["config.steps"]


@fault(
    "F03",
    "Sizes: a million pixels wide, 10 000 pictures or frames, 5 MB of prompt, 10 000 references, deep nesting",
    "refused in little memory",
)
def _(world: World) -> None:
    worker = world.worker()
    worker.forget_peak()
    before = worker.memory()
    control = {"kind": "canny", "image": "https://example.com/a.png"}
    nested: Any = []
    for _ in range(400):
        nested = [nested]
    bombs: list[dict[str, Any]] = [
        {"resolution": "1000000x1000000"},
        {"width": 0, "height": 0, "resolution": None},
        {"resolution": "1023x1023"},
        {"num_images": 10_000},
        {"controls": [control] * 10_000},
        {"loras": nested},
    ]
    for index, bomb in enumerate(bombs):
        assert code(world.do(sdxl(f"F03-{index}", **bomb), refused=True)) == "VALIDATION_ERROR"
    assert code(world.do(sdxl("F03-prompt", prompt="x" * 5_000_000), refused=True)) == "VALIDATION_ERROR"
    assert code(world.do(wan("F03-frames", frames=10_000), refused=True)) == "VALIDATION_ERROR", "WAN's requests have another type"
    assert worker.memory("VmHWM") - before < 150 * 2**20


@fault(
    "F04",
    "Ids that would lead elsewhere: `../..`, `%2e%2e`, `a/b`, NUL, a newline, an emoji, nothing, 300 characters",
    "refused; nothing is stored",
)
def _(world: World) -> None:
    before = set(world.storage.objects)
    for field in ("user_id", "id"):
        for index, value in enumerate(WRONG_IDS):
            output = world.do(with_fields(sdxl(f"F04-{field}-{index}"), **{field: value}), refused=True)
            assert code(output) == "VALIDATION_ERROR"
    assert set(world.storage.objects) == before


@fault("F05", "Prompts: a lone surrogate, NUL, right-to-left marks, 770 words, emoji, 5 000 brackets", "completed, or refused by name")
def _(world: World) -> None:
    for index, prompt in enumerate(ODD_PROMPTS):
        for weights in (False, True):
            output = world.do(sdxl(f"F05-{index}-{weights}", prompt=prompt, compel_enabled=weights))
            assert output["status"] == "completed" or code(output) == "VALIDATION_ERROR"


@fault("F06", "Names of models that are unknown, are paths, are URLs or end in `.ckpt`", "refused; no file outside of the shelf is opened")
def _(world: World) -> None:
    for index, name in enumerate(STRANGE_NAMES):
        kinds: dict[str, dict[str, Any]] = {"lora": {"loras": [{"name": name}]}, "ti": {"textual_inversions": [name]}, "vae": {"vae": name}}
        for kind, config in kinds.items():
            assert code(world.do(sdxl(f"F06-{kind}-{index}", **config), refused=True)) in REFUSALS
    assert code(world.do(sdxl("F06-scheduler", scheduler="quick"), refused=True)) == "VALIDATION_ERROR"


@fault(
    "F07",
    "Hostile `callback_url`s: metadata addresses, other hosts, `file:`, a user name in front",
    "nobody but the configured receiver is told",
)
def _(world: World) -> None:
    allowed = world.inbox.url.removeprefix("http://").partition("/")[0]
    for index, url in enumerate((*HOSTILE_URLS, f"https://{allowed}@example.com/")):
        output = world.do(with_fields(sdxl(f"F07-{index}"), callback_url=url), refused=True)
        assert code(output) == "VALIDATION_ERROR"


@fault("F08", "The same job twice, one after the other and at once", "the same files, the same `webhook-id`")
def _(world: World) -> None:
    worker, job = world.worker(), sdxl("F08")
    first = world.do(job)
    content = world.storage.objects[first["assets"][0]["url"]].content
    for _ in range(2):
        worker.gateway.submit(job)
    worker.gateway.wait_for(lambda: len(worker.gateway.results("F08")) == 3)
    assert {body["output"]["status"] for body in worker.gateway.results("F08")} == {"completed"}
    assert world.storage.objects[first["assets"][0]["url"]].content == content
    told = [message.headers["webhook-id"] for message in world.inbox.messages if message.payload["job_id"] == "F08"]
    assert len(told) == 3
    assert len(set(told)) == 1


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
