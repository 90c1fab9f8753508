"""All three handlers on this machine: `make demo`.

Each job runs as on RunPod, through the SDK, in a worker process of its own, on small models on the CPU. The jobs are in
`playground/requests/`. Results go to `out/`, callbacks to a receiver on loopback that verifies their signatures.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]  # its types are a package of their own

from playground.callback_receiver import CallbackReceiver
from playground.gallery import contact_sheet, preview
from shared.settings import unconfigured

ROOT = Path(__file__).parents[1]
OUTPUT = Path("out")
SHEET, ANIMATION, CONVERSATION, TRANSCRIPT = (OUTPUT / name for name in ("contact_sheet.png", "clip.gif", "conversation.txt", "demo.txt"))

TITLES = {"sdxl": "SDXL: pictures", "wan": "WAN: a clip", "chat": "Chat: a conversation"}


@dataclass
class Stage:
    """Where the demo plays.

    Attributes:
        models: The folder with the small models.
        inbox: Receives the callbacks.
        bar: Counts the jobs.
        lines: What was shown so far.
    """

    models: Path
    receiver: CallbackReceiver
    bar: Any
    lines: list[str] = field(default_factory=list)

    def say(self, line: str = "") -> None:
        """Shows a line above the bar."""
        self.lines.append(line)
        self.bar.write(line)

    def play(self, handler: str, job: dict[str, Any]) -> dict[str, Any]:
        """Runs one job in a worker of its own and returns its payload. A job that fails ends the demo."""
        self.bar.set_description(f"{TITLES[handler]}, {job['id']}")
        # Chat posts a callback only when asked; for the others it is where they would go anyway.
        text = json.dumps({"id": job["id"], "input": job | {"callback_url": self.receiver.url}})
        started = time.perf_counter()
        command = [sys.executable, "-m", f"handlers.{handler}.handler", "--test_input", text]
        environment = worker_environment(self.models, self.receiver)
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        payloads = self.receiver.payloads
        if done.returncode != 0 or not payloads or payloads[-1]["job_id"] != job["id"]:
            self.bar.close()
            sys.exit(f"{done.stdout}{done.stderr}\nThe {handler} handler failed; its log is above.")
        self.bar.update()
        payload: dict[str, Any] = payloads[-1]
        self._show(payload, time.perf_counter() - started)
        return payload

    def _show(self, payload: dict[str, Any], seconds: float) -> None:
        for asset in payload["assets"]:
            self.say(f"    {_describe(asset)}")
        steps = " · ".join(f"{step} {taken * 1000:.0f} ms" for step, taken in payload["metadata"]["timings"].items())
        self.say(f"    {steps} · callback verified · {seconds:.0f} s with the start of the worker")


def main() -> None:
    """Runs the demo. The first argument is the folder with the small models."""
    jobs = {handler: requests(handler) for handler in TITLES}
    started = time.perf_counter()
    with CallbackReceiver(secrets.token_urlsafe(32)) as receiver, tqdm(total=sum(map(len, jobs.values())), unit="job", leave=False, disable=None) as bar:
        stage = Stage(Path(sys.argv[1]), receiver, bar)
        draw(stage, jobs["sdxl"])
        film(stage, jobs["wan"])
        converse(stage, jobs["chat"])
        stage.say(f"\n{len(receiver.payloads)} jobs in {time.perf_counter() - started:.0f} s. Look at:")
        for path in (SHEET, ANIMATION, CONVERSATION):
            stage.say(f"    {path}")
        stage.say(f"What came back, in full: {OUTPUT}/<user>/<job>/callback.json")
    TRANSCRIPT.write_text("\n".join(stage.lines) + "\n", encoding="utf-8")


def requests(handler: str) -> list[dict[str, Any]]:
    """The demo's jobs for a handler: each is the `input` of one request."""
    jobs: list[dict[str, Any]] = json.loads((ROOT / "playground" / "requests" / f"{handler}.json").read_text(encoding="utf-8"))
    return jobs


def draw(stage: Stage, jobs: list[dict[str, Any]]) -> None:
    """Has SDXL draw, and puts all pictures on one sheet."""
    stage.say(TITLES["sdxl"])
    pictures = []
    for job in jobs:
        stage.say(f"  “{job['prompt']}”")
        pictures += [
            (OUTPUT / asset["url"], f"{job['prompt']}, seed {asset['generation_seed']}") for asset in stage.play("sdxl", job)["assets"]
        ]
    contact_sheet(pictures).save(SHEET)


def film(stage: Stage, jobs: list[dict[str, Any]]) -> None:
    """Has WAN film, and makes an animation of the last clip."""
    stage.say(f"\n{TITLES['wan']}")
    for job in jobs:
        stage.say(f"  “{job['prompt']}”")
        (asset,) = stage.play("wan", job)["assets"]
        preview(OUTPUT / asset["url"], ANIMATION)


def converse(stage: Stage, jobs: list[dict[str, Any]]) -> None:
    """Has the chat model answer turn by turn: each job's messages follow what was said before."""
    stage.say(f"\n{TITLES['chat']}")
    said: list[dict[str, str]] = []
    for job in jobs:
        said += job["messages"]
        stage.say(f"  you: {said[-1]['content']}")
        (asset,) = stage.play("chat", job | {"messages": said})["assets"]
        said.append({"role": "assistant", "content": asset["content"].strip()})
    names = {"user": "you", "assistant": "chat", "system": "system"}
    CONVERSATION.write_text("".join(f"{names[turn['role']]}: {turn['content']}\n" for turn in said), encoding="utf-8")


def worker_environment(models: Path, receiver: CallbackReceiver) -> dict[str, str]:
    """The environment of the demo's workers. Nothing of a real project's configuration reaches them.

    Args:
        models: The folder with the small models.
        inbox: Receives the callbacks.
    """
    # One thread is enough for small models, and threads that wait for each other beside other work take many times as long.
    return {
        "OMP_NUM_THREADS": "1",
        **unconfigured(os.environ),
        "MODELS_DIR": str(models.absolute()),
        "OUTPUT_DIR": str(OUTPUT.absolute()),
        "OUTBOX_DIR": str(OUTPUT.absolute() / "outbox"),
        "JOB_CALLBACK_URL": receiver.url,
        "JOB_CALLBACK_SECRET": receiver.secret,
        "CALLBACK_ALLOWED_HOSTS": "127.0.0.1",
    }


def _describe(asset: dict[str, Any]) -> str:
    if asset["type"] == "text":
        return f"chat: {asset['content'].strip()}  ({asset['metadata']['tokens_generated']} tokens)"
    facts = asset["metadata"]
    size = f"{facts['width']}×{facts['height']}"
    length = f", {facts['frames']} frames at {facts['fps']} fps, {asset['duration_seconds']:.2f} s" if asset["type"] == "video" else ""
    return f"→ {OUTPUT / asset['url']}  {size}{length}, {asset['file_size_bytes']:,} bytes, seed {asset['generation_seed']}"


if __name__ == "__main__":
    main()
