"""A stand-in for vLLM's server: its arguments, its processes, its log and its routes, without its model.

An executable made by `make_python` takes the place of the Python of vLLM's environment. The server writes numbers, one per token, and
obeys files in the folder of `VLLM_STAND_IN`:

- `fail-MODEL`: the start of this model's server fails with the error in it.
- `slow`: a token takes so many seconds.
- `hang`: nothing is answered any more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

END_TOKEN = 2
_PREFIX = "(APIServer pid=1) {} 11-30 12:00:00 [api_server.py:7] {}"


def make_python(folder: Path) -> Path:
    """Makes the executable that takes the place of vLLM's Python."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__)} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def folder() -> Path:
    """The folder with the files that control the server, and `requests.jsonl` and `pids` that it writes."""
    return Path(os.environ["VLLM_STAND_IN"])


class Server(ThreadingHTTPServer):
    """The server.

    Attributes:
        options: The arguments that it was started with.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__((options.host, options.port), Handler)
        self.options = options


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._hang()
        listed = [{"id": self.server.options.served_model_name, "max_model_len": 500}]
        self._respond(200, {} if self.path == "/health" else {"data": listed})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with (folder() / "requests.jsonl").open("a") as requests:
            requests.write(json.dumps({"path": self.path, **body}) + "\n")
        _log("ERROR", f"refused: {body['prompt']} canary")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in _events(body):
            self._hang()
            self.wfile.write(f"data: {event}\n\n".encode())
            self.wfile.flush()

    def _respond(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _hang(self) -> None:
        while (folder() / "hang").exists():
            time.sleep(0.05)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs no request."""


def _log(level: str, text: str) -> None:
    sys.stdout.write(_PREFIX.format(level, text) + "\n")
    sys.stdout.flush()


def _events(body: dict[str, Any]) -> Iterator[str]:
    """Yields a completion that ends by itself after ten tokens."""
    prompt, limit = len(body["prompt"]), body["max_tokens"]
    slow = folder() / "slow"
    count = 0
    while count < limit and (slow.exists() or count < 10):
        count += 1
        if slow.exists():
            time.sleep(float(slow.read_text()))
        choice = {"index": 0, "text": f" {count}", "finish_reason": None, "stop_reason": None, "token_ids": [count]}
        yield json.dumps({"choices": [choice], "usage": {"prompt_tokens": prompt, "completion_tokens": count}})
    ends = count < limit
    choice = {"index": 0, "text": "", "finish_reason": "stop" if ends else "length", "stop_reason": END_TOKEN if ends else None}
    usage = {"prompt_tokens": prompt, "completion_tokens": count + ends, "prompt_tokens_details": {"cached_tokens": 3}}
    yield json.dumps({"choices": [choice], "usage": usage})
    yield json.dumps({"choices": [], "usage": usage})
    yield "[DONE]"


def main(arguments: list[str]) -> None:
    """Runs the server, or does what `python -c` would."""
    if "-c" in arguments:
        return
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--model", "--served-model-name", "--host"):
        parser.add_argument(name)
    parser.add_argument("--port", type=int)
    options, _ = parser.parse_known_args(arguments)
    (folder() / "arguments.jsonl").open("a").write(json.dumps({"arguments": arguments, "environment": dict(os.environ)}) + "\n")
    _log("INFO", "  █▄█▀ banner")
    _log("INFO", f"Loading weights from {options.model}/model.safetensors")
    fail = folder() / f"fail-{options.served_model_name}"
    if fail.exists():
        _log("ERROR", fail.read_text())
        sys.exit(1)
    # vLLM's engine is a process of its own, and survives its API server.
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder() / "pids").open("a").write(f"{os.getpid()} {engine.pid}\n")
    Server(options).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
