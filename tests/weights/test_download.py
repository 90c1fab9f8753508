from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from shared.weights.catalogue import QWEN_BASE

# What a worker does at its start, in a process of its own: the hub's library reads its environment when it is imported.
START = """
from shared.settings import SettingsError, load_settings, prepare_environment
from shared.weights.catalogue import QWEN_BASE
from shared.weights.resolve import resolve

prepare_environment()
try:
    print("FOUND", resolve(QWEN_BASE, load_settings()))
except SettingsError as error:
    print("STOPPED", error)
"""


class Hub:
    """Answers as a model hub does, with one set of files, and remembers what was asked for."""

    def __init__(self, server: HTTPServer, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []
        self.url = server.url_for("").rstrip("/")
        server.expect_request(re.compile(".*")).respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        self.asked.append(request.path)
        tree, _, name = request.path.partition(f"/{QWEN_BASE.repo}/resolve/{QWEN_BASE.revision}/")
        if request.path == f"/api/models/{QWEN_BASE.repo}/tree/{QWEN_BASE.revision}":
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": self._etag(path)} for path, content in self.files.items()
            ]
            return Response(json.dumps(entries), content_type="application/json")
        if tree or name not in self.files:
            return Response(status=404)
        return Response(self.files[name], headers={"ETag": f'"{self._etag(name)}"', "X-Repo-Commit": str(QWEN_BASE.revision)})

    def _etag(self, name: str) -> str:
        return hashlib.sha1(self.files[name]).hexdigest()


@pytest.fixture
def hub(httpserver: HTTPServer, tiny_models: Path) -> Hub:
    folder = tiny_models / "qwen_base"
    return Hub(httpserver, {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "made.json"})


def start(hub: Hub, models: Path, **environment: str) -> str:
    root = Path(__file__).parents[2]
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(models.parent / "home"), "MODELS_DIR": str(models), "NO_PROXY": "*", "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", START], env=environment, cwd=root, capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_weights_that_are_nowhere_are_downloaded_at_their_pinned_revision_when_the_operator_allows_it(hub: Hub, tmp_path: Path) -> None:
    output = start(hub, tmp_path / "models", ALLOW_DOWNLOADS="1")
    folder = tmp_path / "models" / "qwen_base"
    assert f"FOUND {folder}\n" in output
    assert {name: (folder / name).read_bytes() for name in hub.files} == hub.files
    assert all(f"/{QWEN_BASE.revision}" in path for path in hub.asked)


def test_only_what_the_catalogue_names_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    hub.files |= {"pytorch_model.bin": b"a pickle", "README.md": b"words", "onnx/model.onnx": b"another form"}
    start(hub, tmp_path / "models", ALLOW_DOWNLOADS="1")
    assert not any(path.endswith((".bin", ".md", ".onnx")) for path in hub.asked)


def test_a_second_start_asks_no_hub(hub: Hub, tmp_path: Path) -> None:
    start(hub, tmp_path / "models", ALLOW_DOWNLOADS="1")
    hub.asked.clear()
    assert "FOUND" in start(hub, tmp_path / "models", ALLOW_DOWNLOADS="1")
    assert hub.asked == []


def test_no_hub_is_asked_unless_the_operator_allows_it(hub: Hub, tmp_path: Path) -> None:
    assert "STOPPED The weights 'qwen_base' (Qwen/Qwen2.5-7B) were not found." in start(hub, tmp_path / "models")
    assert hub.asked == []


def test_a_download_that_leaves_files_out_stops_the_worker(hub: Hub, tmp_path: Path) -> None:
    del hub.files["model-00002-of-00002.safetensors"]
    output = start(hub, tmp_path / "models", ALLOW_DOWNLOADS="1")
    assert "STOPPED The download of the weights 'qwen_base' is not complete" in output
    assert "lacks model-00002-of-00002.safetensors" in output


def test_a_repository_that_is_not_there_stops_the_worker(hub: Hub, tmp_path: Path) -> None:
    hub.files.clear()
    output = start(hub, tmp_path / "models", ALLOW_DOWNLOADS="1")
    assert "STOPPED The download of the weights 'qwen_base' is not complete" in output
