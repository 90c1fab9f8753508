"""Loading models in a process of its own: imports, network access and output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

LOAD_ALL = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(refuse)
from pathlib import Path
import torch
from handlers.sdxl.weights.load import load_sdxl
from handlers.wan.weights.load import load_wan
from handlers.chat.engines.transformers.load import load_chat

folder, cpu = Path(sys.argv[1]), torch.device("cpu")
load_chat(folder / "qwen_instruct", cpu, torch.float32)
load_sdxl(folder / "sdxl", cpu, torch.float32)
load_wan(folder / "wan", cpu, torch.float32)
"""

LOAD_CHAT = """
import sys
from pathlib import Path
import torch
import shared.models.load, handlers.sdxl.weights.load, handlers.wan.weights.load, handlers.chat.engines.transformers.load

assert not {"diffusers", "transformers"} & set(sys.modules), "an import alone brought a library"
handlers.chat.engines.transformers.load.load_chat(Path(sys.argv[1]) / "qwen_instruct", torch.device("cpu"), torch.float32)
assert "diffusers" not in sys.modules, "chat brought diffusers"
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def test_loading_uses_no_network_and_prints_only_its_log_lines(tiny_models: Path) -> None:
    done = run(LOAD_ALL, str(tiny_models))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == done.stdout.count("gb_per_s=") == 8


def test_imports_are_lazy_and_chat_does_not_import_diffusers(tiny_models: Path) -> None:
    done = run(LOAD_CHAT, str(tiny_models))
    assert (done.returncode, done.stderr) == (0, "")
