"""Runs all three handlers on this machine: `make demo`.

The jobs of `playground/requests/` run behind the local gateway, in one worker for each handler, on small models on the CPU. Results are
written to `out/`; the signature of each callback is verified.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm  # type: ignore[import-untyped]  # its types are a separate package

from playground.gallery import contact_sheet, write_gif
from playground.gateway.background import BackgroundGateway
from playground.gateway.callbacks import PATH as CALLBACKS
from playground.gateway.endpoint import Endpoint
from playground.gateway.server import GatewayOptions

ROOT = Path(__file__).parents[1]
OUTPUT = Path("out")
CONTACT_SHEET, ANIMATION, CONVERSATION, TRANSCRIPT = (
    OUTPUT / name for name in ("contact_sheet.png", "clip.gif", "conversation.txt", "demo.txt")
)

SubmittedJob = tuple[dict[str, Any], str]
"""A job's input and its id."""

TITLES = {"sdxl": "SDXL: images", "wan": "WAN: a clip", "chat": "Chat: a conversation"}


_SECONDS = 600.0  # for one job, of which most take one second


@dataclass
class DemoRun:
    """The state of a run of the demo.

    Attributes:
        gateway: Runs the jobs.
        progress_bar: Counts the jobs.
        lines: All lines printed so far.
    """

    gateway: BackgroundGateway
    progress_bar: Any
    lines: list[str] = field(default_factory=list)

    def print_line(self, line: str = "") -> None:
        """Prints a line above the progress bar."""
        self.lines.append(line)
        self.progress_bar.write(line)

    def submit(self, handler: str, job: dict[str, Any]) -> str:
        """Queues a job and returns its id."""
        # Chat sends a callback only on request; for the other handlers this is the default URL anyway.
        request = {"input": job | {"callback_url": f"{self.gateway.root}{CALLBACKS}"}}
        job_id: str = self.gateway.request("POST", f"{handler}/run", json=request).raise_for_status().json()["id"]
        return job_id

    def result(self, handler: str, job_id: str) -> dict[str, Any]:
        """Waits for a job, prints its result and returns its payload. A job that fails, or whose worker ends, ends the demo."""
        self.progress_bar.set_description(TITLES[handler])
        pool = self.gateway.pool(handler)

        def has_ended(endpoint: Endpoint) -> bool:
            return endpoint.job(job_id).status.final or pool.started > 1

        self.gateway.wait_for(handler, has_ended, _SECONDS)
        status = self.gateway.request("GET", f"{handler}/status/{job_id}").json()
        output = status.get("output")
        payload: dict[str, Any] = output[-1] if isinstance(output, list) else output
        if status["status"] != "COMPLETED" or not self._is_called_back(payload):
            self.progress_bar.close()
            log = (OUTPUT / "logs" / f"{handler}-1.log").read_text("utf-8", errors="replace")
            sys.exit(f"{log}\nThe {handler} handler failed; its log is above.")
        self.progress_bar.update()
        self._print_result(payload, status["executionTime"] / 1000)
        return payload

    def _is_called_back(self, payload: dict[str, Any]) -> bool:
        """Whether the payload has arrived as a callback whose signatures are valid."""
        callbacks = httpx.get(f"{self.gateway.root}{CALLBACKS}/{payload['job_id']}").json()
        return any(callback["problem"] is None and json.loads(callback["body"]) == payload for callback in callbacks)

    def _print_result(self, payload: dict[str, Any], seconds: float) -> None:
        for asset in payload["assets"]:
            self.print_line(f"    {_describe(asset)}")
        steps = " · ".join(f"{step} {duration * 1000:.0f} ms" for step, duration in payload["metadata"]["timings"].items())
        self.print_line(f"    {steps} · callback verified · {seconds:.1f} s")


def main() -> None:
    """Runs the demo. The first argument is the folder with the small models."""
    jobs = {handler: load_jobs(handler) for handler in TITLES}
    endpoints = {handler: f"handlers.{handler}.handler" for handler in TITLES}
    started, count = time.perf_counter(), sum(map(len, jobs.values()))
    with (
        BackgroundGateway(GatewayOptions(Path(sys.argv[1]), OUTPUT, endpoints, port=0)) as gateway,
        tqdm(total=count, unit="job", leave=False, disable=None) as progress_bar,
    ):
        demo = DemoRun(gateway, progress_bar)
        # Each worker starts with its first job, while the others work on theirs.
        images, clips = ([(job, demo.submit(handler, job)) for job in jobs[handler]] for handler in ("sdxl", "wan"))
        show_images(demo, images)
        show_clips(demo, clips)
        run_chat(demo, jobs["chat"])
        _print_summary(demo, count, time.perf_counter() - started)
    TRANSCRIPT.write_text("\n".join(demo.lines) + "\n", encoding="utf-8")


def _print_summary(demo: DemoRun, count: int, seconds: float) -> None:
    demo.print_line(f"\n{count} jobs in {seconds:.0f} s, with the start of the workers. Results:")
    for path in (CONTACT_SHEET, ANIMATION, CONVERSATION):
        demo.print_line(f"    {path}")
    demo.print_line(f"Full payloads: {OUTPUT}/<user>/<job>/callback.json")
    demo.print_line("To try every parameter in the browser: make playground")


def load_jobs(handler: str) -> list[dict[str, Any]]:
    """Loads the demo's jobs for a handler, each the `input` of one request."""
    jobs: list[dict[str, Any]] = json.loads((ROOT / "playground" / "requests" / f"{handler}.json").read_text(encoding="utf-8"))
    return jobs


def show_images(demo: DemoRun, jobs: Sequence[SubmittedJob]) -> None:
    """Waits for images and arranges them on a contact sheet."""
    demo.print_line(TITLES["sdxl"])
    images = []
    for job, job_id in jobs:
        demo.print_line(f"  “{job['prompt']}”")
        for asset in demo.result("sdxl", job_id)["assets"]:
            images.append((OUTPUT / asset["url"], f"{job['prompt']}, seed {asset['generation_seed']}"))
    contact_sheet(images).save(CONTACT_SHEET)


def show_clips(demo: DemoRun, jobs: Sequence[SubmittedJob]) -> None:
    """Waits for clips and converts the last one to a GIF."""
    demo.print_line(f"\n{TITLES['wan']}")
    for job, job_id in jobs:
        demo.print_line(f"  “{job['prompt']}”")
        (asset,) = demo.result("wan", job_id)["assets"]
        write_gif(OUTPUT / asset["url"], ANIMATION)


def run_chat(demo: DemoRun, jobs: list[dict[str, Any]]) -> None:
    """Runs a conversation: each job's messages are appended to the previous turns."""
    demo.print_line(f"\n{TITLES['chat']}")
    turns: list[dict[str, str]] = []
    for job in jobs:
        turns += job["messages"]
        demo.print_line(f"  you: {turns[-1]['content']}")
        (asset,) = demo.result("chat", demo.submit("chat", job | {"messages": turns}))["assets"]
        turns.append({"role": "assistant", "content": asset["content"].strip()})
    names = {"user": "you", "assistant": "chat", "system": "system"}
    CONVERSATION.write_text("".join(f"{names[turn['role']]}: {turn['content']}\n" for turn in turns), encoding="utf-8")


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
