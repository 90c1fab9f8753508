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

assert not {"diffusers", "transformers"} & set(sys.modules), "an import alone brought a library"
folder, cpu = Path(sys.argv[1]), torch.device("cpu")
load_chat(folder / "qwen_instruct", cpu, torch.float32)
assert "diffusers" not in sys.modules, "chat brought diffusers"
load_sdxl(folder / "sdxl", cpu, torch.float32)
load_wan(folder / "wan", cpu, torch.float32)
"""


def test_models_load_without_network_with_lazy_imports_and_only_their_log_lines(tiny_models: Path) -> None:
    """Chat comes first: it must not import diffusers."""
    command = [sys.executable, "-c", LOAD_ALL, str(tiny_models)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == done.stdout.count("gb_per_s=") == 8
