"""All three handlers on this machine: `make demo`.

Each runs as on RunPod, through the SDK and with its own `test_input.json`, on small models on the CPU. Results go to `out/`, callbacks to
a receiver on loopback that verifies their signatures.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.inbox import Inbox

ROOT = Path(__file__).parents[1]
OUTPUT = Path("out")


@dataclass(frozen=True)
class Scene:
    """One handler's part of the demo."""

    handler: str
    title: str


SCENES = (Scene("sdxl", "SDXL: pictures"), Scene("wan", "WAN: a clip"), Scene("chat", "Chat: a text"))


def main() -> None:
    """Runs the demo. The first argument is the folder with the small models."""
    models = Path(sys.argv[1])
    with Inbox(secrets.token_urlsafe(32)) as inbox:
        for scene in SCENES:
            _play(scene, inbox, models)
    print(f"\nEverything lies in {OUTPUT}/. What came back, in full: {OUTPUT}/<user>/<job>/callback.json")


def _play(scene: Scene, inbox: Inbox, models: Path) -> None:
    print(f"\n{scene.title}")
    job = json.loads((ROOT / "handlers" / scene.handler / "test_input.json").read_text())
    job["input"]["callback_url"] = inbox.url  # chat posts a callback only when asked; for the others it is where they would go anyway
    started = time.perf_counter()
    command = [sys.executable, "-m", f"handlers.{scene.handler}.handler", "--test_input", json.dumps(job)]
    done = subprocess.run(command, cwd=ROOT, env=_environment(inbox, models), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}{done.stderr}\nThe {scene.handler} handler failed; its log is above.")
    _show(inbox.payloads[-1], time.perf_counter() - started)


def _environment(inbox: Inbox, models: Path) -> dict[str, str]:
    """Nothing of a real project's configuration reaches the demo."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RUNPOD", "SUPABASE", "JOB_", "CALLBACK_"))}
    return kept | {
        "MODELS_DIR": str(models),
        "QWEN_INSTRUCT_MODEL": str(models / "smollm2"),
        "OUTPUT_DIR": str(OUTPUT),
        "JOB_CALLBACK_URL": inbox.url,
        "JOB_CALLBACK_SECRET": inbox.secret,
        "CALLBACK_ALLOWED_HOSTS": "127.0.0.1",
    }


def _show(payload: dict[str, Any], seconds: float) -> None:
    timings = payload["metadata"]["timings"]
    for step, taken in timings.items():
        print(f"  {step:<10}{taken * 1000:9.1f} ms")
    print(f"  {'call back':<10}  verified    both signatures, status {payload['status']}")
    for asset in payload["assets"]:
        print(f"  → {_describe(asset)}")
    print(f"  ({seconds:.0f} s with the start of the process and the loading of the model)")


def _describe(asset: dict[str, Any]) -> str:
    if asset["type"] == "text":
        return f"“{asset['content'].strip()}”  ({asset['metadata']['tokens_generated']} tokens)"
    facts = asset["metadata"]
    size = f"{facts['width']}×{facts['height']}"
    length = f", {facts['frames']} frames at {facts['fps']} fps, {asset['duration_seconds']:.2f} s" if asset["type"] == "video" else ""
    return f"{OUTPUT / asset['url']}  {size}{length}, {asset['file_size_bytes']:,} bytes, seed {asset['generation_seed']}"


if __name__ == "__main__":
    main()
