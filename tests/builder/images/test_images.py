"""The container images: their content, their default command, and the layers that a change rebuilds."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest
from PIL import Image as PillowImage

from handlers import HANDLERS
from shared.weights.catalogue import QWEN_INSTRUCT
from shared.weights.lock import read_lock
from tests.builder.images.conftest import Container, Image, Images
from tests.doubles.fake_hub import FakeHub
from tests.doubles.processes import ROOT

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

VOLUME_MODELS = "/runpod-volume/models"
CONTEXT = ("Dockerfile", ".dockerignore", "builder", "handlers", "shared")


def handler_of(image: Image) -> str:
    return image.tag.rpartition("/")[2].partition("-worker")[0]


def _job(handler: str) -> dict[str, Any]:
    job: dict[str, Any] = json.loads((ROOT / "handlers" / handler / "test_input.json").read_text())["input"]
    return job


def payload_of(container: Container, job: dict[str, Any]) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads((container.root / "app/out" / job["user_id"] / job["id"] / "callback.json").read_bytes())
    return payload


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A copy of the build context that tests may change."""
    for name in CONTEXT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_its_default_command_runs_its_test_job(image: Image, images: Images, tiny_models: Path) -> None:
    container = images.container(image)
    done = container.run(mounts={tiny_models: VOLUME_MODELS})
    assert done.returncode == 0, done.stdout + done.stderr
    job = _job(handler_of(image))
    payload = payload_of(container, job)
    assert (payload["status"], payload["job_id"]) == ("completed", job["id"])
    assert payload["assets"]
    for asset in payload["assets"]:
        if asset["type"] == "text":
            assert asset["content"]
        elif asset["type"] == "image":
            with PillowImage.open(container.root / "app/out" / asset["url"]) as generated:
                assert "x".join(map(str, generated.size)) == job["config"]["resolution"]
        else:
            assert len(iio.imread(container.root / "app/out" / asset["url"], plugin="pyav")) == job["config"]["frames"]


def test_without_weights_it_exits_with_1_and_lists_the_searched_locations(chat: Image, images: Images) -> None:
    done = images.container(chat).run()
    assert done.returncode == 1
    assert "/runpod-volume/models/qwen_instruct (no such folder)" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_contains_only_the_code_of_its_handler(image: Image, images: Images) -> None:
    app = images.container(image).root / "app"
    handlers = {path.name for path in (app / "handlers").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert handlers == {handler_of(image)}
    assert {path.name for path in app.iterdir()} == {"builder", "handlers", "requirements", "shared", "test_input.json"}
    assert {path.name for path in (app / "builder").glob("*.py")} == {"__init__.py", "command_line.py", "download_weights.py"}
    assert {path.name for path in (app / "builder/weights").glob("*.py")} == {"__init__.py", "addons.py", "checkpoint.py"}


def test_only_packages_of_its_lock_file_are_installed(image: Image, images: Images) -> None:
    (packages,) = images.container(image).root.glob("usr/local/lib/python3.11/site-packages")
    installed = {path.name.split("-")[0].lower().replace("_", "-").replace(".", "-") for path in packages.glob("*.dist-info")}
    lock = (ROOT / f"builder/requirements/{handler_of(image)}.txt").read_text()
    locked = {line.partition("==")[0] for line in lock.splitlines() if "==" in line}
    assert locked <= installed
    extra = installed - locked - {"torch", "triton", "pip", "setuptools", "wheel"}
    assert {name for name in extra if not name.startswith(("nvidia", "cuda"))} == set()


def test_every_module_of_a_start_has_byte_code(image: Image, images: Images) -> None:
    """Without it a start takes twice as long. `-B` keeps the imports from writing what is missing."""
    program = f"""
import importlib, os, sys
from shared.settings import Settings
handler = importlib.import_module("handlers.{handler_of(image)}.handler").HANDLER
for library in ("runpod.serverless", *handler.all_libraries(Settings())):
    importlib.import_module(library)
specs = [module.__spec__ for module in list(sys.modules.values()) if getattr(module, "__spec__", None)]
print([spec.name for spec in specs if spec.cached and not os.path.exists(spec.cached)])
"""
    done = images.container(image).run("python", "-B", "-c", program)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["[]"]), done.stdout + done.stderr


def test_chat_has_no_diffusion(chat: Image, images: Images) -> None:
    done = images.container(chat).run("python", "-c", "import torch, transformers, diffusers")
    assert done.returncode == 1
    assert "No module named 'diffusers'" in done.stderr


def test_no_file_of_the_build_machine_remains(image: Image, images: Images) -> None:
    root = images.container(image).root
    candidates = [*(root / "root").rglob("*"), root / "etc/pip.conf", *(root / "run").rglob("*"), *(root / "tmp").rglob("*")]
    assert [path for path in candidates if path.is_file() and path.stat().st_size and path.name not in (".bashrc", ".profile")] == []


def test_the_images_share_their_largest_layers(images: Images) -> None:
    tables = [images.build(handler).layers for handler in HANDLERS]
    common = [same[0] for same in zip(*tables, strict=False) if len({layer.digest for layer in same}) == 1]
    for table in tables:
        assert sum(layer.size for layer in common) > 0.7 * sum(layer.size for layer in table)


def test_a_code_change_rebuilds_one_small_layer(images: Images, chat: Image, context: Path) -> None:
    with (context / "handlers/chat/recipe.py").open("a") as file:
        file.write("# one more line\n")
    changed = images.build("chat", context, "localhost/changed")
    before, after = chat.layers, changed.layers
    assert [layer.digest for layer in after[:-1]] == [layer.digest for layer in before[:-1]]
    assert after[-1].digest != before[-1].digest
    assert after[-1].size < 10_000_000


def test_the_build_fails_if_the_code_cannot_be_imported(images: Images, chat: Image, context: Path) -> None:
    (context / "handlers/chat/recipe.py").write_text("import a_library_that_is_not_there\n")
    done = images.try_build("chat", context, "localhost/broken")
    assert done.returncode != 0
    assert "handlers.chat.recipe cannot be imported" in done.stdout + done.stderr


def test_it_runs_as_an_unprivileged_user(images: Images, chat: Image, tiny_models: Path) -> None:
    container = images.container(images.build("chat", ROOT, "localhost/without-root", RUN_AS="worker"))
    done = container.run("sh", "-c", f"id -un && {chat.command[2]}", mounts={tiny_models: "/app/models"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == "worker"
    assert payload_of(container, _job("chat"))["status"] == "completed"


def test_baked_weights_are_downloaded_and_the_hub_token_is_not_in_the_image(images: Images, tiny_models: Path, tmp_path: Path) -> None:
    folder = tiny_models / QWEN_INSTRUCT.name
    token = tmp_path / "token"
    token.write_text("hf_canary_token")
    with FakeHub({path.name: path.read_bytes() for path in folder.iterdir()}, QWEN_INSTRUCT.repo, str(QWEN_INSTRUCT.revision)) as hub:
        arguments = {"WEIGHTS": "baked", "MODELS": QWEN_INSTRUCT.name, "HF_ENDPOINT": hub.url}
        image = images.build("chat", ROOT, "localhost/baked", "--secret", f"id=hf_token,src={token}", **arguments)
        assert {request.authorization for request in hub.requests if "/resolve/" in request.path} == {"Bearer hf_canary_token"}
    container = images.container(image)
    done = container.run()
    assert done.returncode == 0, done.stdout + done.stderr
    lock = read_lock(container.root / "opt/models" / QWEN_INSTRUCT.name)
    assert lock is not None
    assert lock.revision == QWEN_INSTRUCT.revision
    assert "hf_canary_token" not in json.dumps(image.config)
    written = [path for folder in ("app", "opt", "root", "tmp", "run") for path in (container.root / folder).rglob("*") if path.is_file()]
    assert not any(b"hf_canary_token" in path.read_bytes() for path in written)


def test_it_can_download_weights_to_a_volume(images: Images, chat: Image, tiny_models: Path, tmp_path: Path) -> None:
    folder = tiny_models / QWEN_INSTRUCT.name
    volume = tmp_path / "volume"
    volume.mkdir()
    with FakeHub({path.name: path.read_bytes() for path in folder.iterdir()}, QWEN_INSTRUCT.repo, str(QWEN_INSTRUCT.revision)) as hub:
        command = ["python", "-m", "builder.download_weights", QWEN_INSTRUCT.name, "--to", "/workspace/models"]
        done = images.container(chat).run(*command, mounts={volume: "/workspace"}, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verified and locked" in done.stdout
    container = images.container(chat)
    assert container.run(mounts={volume: "/runpod-volume"}).returncode == 0
    assert payload_of(container, _job("chat"))["status"] == "completed"


def test_print_the_layer_sizes(images: Images, capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for handler in HANDLERS:
        layers = images.build(handler).layers
        lines.append(f"\n{handler}  {sum(layer.size for layer in layers) / 1e6:,.1f} MB, without weights, with the torch of this machine")
        lines += [f"  {layer.size / 1e6:9,.1f} MB  {layer.digest[7:19]}  {layer.step}" for layer in layers]
        assert layers[-1].size < 10_000_000
    with capsys.disabled():
        sys.stdout.write("\n".join([*lines, ""]))
