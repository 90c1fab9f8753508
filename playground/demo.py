"""Runs all three handlers on this machine: `make demo`.

Each job of `playground/requests/` runs as on RunPod, through the SDK, in a separate worker process, on small models on the CPU. Results are
written to `out/`, and callbacks are sent to a receiver on loopback that verifies their signatures.
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

from tqdm import tqdm  # type: ignore[import-untyped]  # its types are a separate package

from playground.callback_receiver import CallbackReceiver
from playground.gallery import contact_sheet, write_gif
from shared.child_environment import without_worker_settings

ROOT = Path(__file__).parents[1]
OUTPUT = Path("out")
CONTACT_SHEET, ANIMATION, CONVERSATION, TRANSCRIPT = (
    OUTPUT / name for name in ("contact_sheet.png", "clip.gif", "conversation.txt", "demo.txt")
)

TITLES = {"sdxl": "SDXL: images", "wan": "WAN: a clip", "chat": "Chat: a conversation"}


@dataclass
class DemoRun:
    """The state of a run of the demo.

    Attributes:
        models: The folder with the small models.
        receiver: Receives the callbacks.
        progress_bar: Counts the jobs.
        lines: All lines printed so far.
    """

    models: Path
    receiver: CallbackReceiver
    progress_bar: Any
    lines: list[str] = field(default_factory=list)

    def print_line(self, line: str = "") -> None:
        """Prints a line above the progress bar."""
        self.lines.append(line)
        self.progress_bar.write(line)

    def run_job(self, handler: str, job: dict[str, Any]) -> dict[str, Any]:
        """Runs one job in a new worker process and returns its payload. A failed job ends the demo."""
        self.progress_bar.set_description(f"{TITLES[handler]}, {job['id']}")
        # Chat sends a callback only on request; for the other handlers this is the default URL anyway.
        text = json.dumps({"id": job["id"], "input": job | {"callback_url": self.receiver.url}})
        started = time.perf_counter()
        command = [sys.executable, "-m", f"handlers.{handler}.handler", "--test_input", text]
        environment = worker_environment(self.models, self.receiver)
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        payloads = self.receiver.payloads
        if done.returncode != 0 or not payloads or payloads[-1]["job_id"] != job["id"]:
            self.progress_bar.close()
            sys.exit(f"{done.stdout}{done.stderr}\nThe {handler} handler failed; its log is above.")
        self.progress_bar.update()
        payload: dict[str, Any] = payloads[-1]
        self._print_result(payload, time.perf_counter() - started)
        return payload

    def _print_result(self, payload: dict[str, Any], seconds: float) -> None:
        for asset in payload["assets"]:
            self.print_line(f"    {_describe(asset)}")
        steps = " · ".join(f"{step} {duration * 1000:.0f} ms" for step, duration in payload["metadata"]["timings"].items())
        self.print_line(f"    {steps} · callback verified · {seconds:.0f} s including worker start")


def main() -> None:
    """Runs the demo. The first argument is the folder with the small models."""
    jobs = {handler: load_jobs(handler) for handler in TITLES}
    started = time.perf_counter()
    with (
        CallbackReceiver(secrets.token_urlsafe(32)) as receiver,
        tqdm(total=sum(map(len, jobs.values())), unit="job", leave=False, disable=None) as progress_bar,
    ):
        demo = DemoRun(Path(sys.argv[1]), receiver, progress_bar)
        run_sdxl(demo, jobs["sdxl"])
        run_wan(demo, jobs["wan"])
        run_chat(demo, jobs["chat"])
        demo.print_line(f"\n{len(receiver.payloads)} jobs in {time.perf_counter() - started:.0f} s. Results:")
        for path in (CONTACT_SHEET, ANIMATION, CONVERSATION):
            demo.print_line(f"    {path}")
        demo.print_line(f"Full payloads: {OUTPUT}/<user>/<job>/callback.json")
    TRANSCRIPT.write_text("\n".join(demo.lines) + "\n", encoding="utf-8")


def load_jobs(handler: str) -> list[dict[str, Any]]:
    """Loads the demo's jobs for a handler, each the `input` of one request."""
    jobs: list[dict[str, Any]] = json.loads((ROOT / "playground" / "requests" / f"{handler}.json").read_text(encoding="utf-8"))
    return jobs


def run_sdxl(demo: DemoRun, jobs: list[dict[str, Any]]) -> None:
    """Generates images and arranges them on a contact sheet."""
    demo.print_line(TITLES["sdxl"])
    images = []
    for job in jobs:
        demo.print_line(f"  “{job['prompt']}”")
        for asset in demo.run_job("sdxl", job)["assets"]:
            images.append((OUTPUT / asset["url"], f"{job['prompt']}, seed {asset['generation_seed']}"))
    contact_sheet(images).save(CONTACT_SHEET)


def run_wan(demo: DemoRun, jobs: list[dict[str, Any]]) -> None:
    """Generates clips and converts the last one to a GIF."""
    demo.print_line(f"\n{TITLES['wan']}")
    for job in jobs:
        demo.print_line(f"  “{job['prompt']}”")
        (asset,) = demo.run_job("wan", job)["assets"]
        write_gif(OUTPUT / asset["url"], ANIMATION)


def run_chat(demo: DemoRun, jobs: list[dict[str, Any]]) -> None:
    """Runs a conversation: each job's messages are appended to the previous turns."""
    demo.print_line(f"\n{TITLES['chat']}")
    turns: list[dict[str, str]] = []
    for job in jobs:
        turns += job["messages"]
        demo.print_line(f"  you: {turns[-1]['content']}")
        (asset,) = demo.run_job("chat", job | {"messages": turns})["assets"]
        turns.append({"role": "assistant", "content": asset["content"].strip()})
    names = {"user": "you", "assistant": "chat", "system": "system"}
    CONVERSATION.write_text("".join(f"{names[turn['role']]}: {turn['content']}\n" for turn in turns), encoding="utf-8")


def worker_environment(models: Path, receiver: CallbackReceiver) -> dict[str, str]:
    """Returns the environment of the demo's workers. It inherits no setting of a real deployment.

    Args:
        models: The folder with the small models.
        receiver: Receives the callbacks.
    """
    # The small models gain nothing from several threads, and on a busy machine spinning threads slow them down many times over.
    return {
        "OMP_NUM_THREADS": "1",
        **without_worker_settings(os.environ),
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
    metadata = asset["metadata"]
    size = f"{metadata['width']}×{metadata['height']}"
    is_video = asset["type"] == "video"
    length = f", {metadata['frames']} frames at {metadata['fps']} fps, {asset['duration_seconds']:.2f} s" if is_video else ""
    return f"→ {OUTPUT / asset['url']}  {size}{length}, {asset['file_size_bytes']:,} bytes, seed {asset['generation_seed']}"


if __name__ == "__main__":
    main()
