"""docs/deploy.md, docker-bake.hcl, the Dockerfile and the image commands are consistent."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import hcl2
import pytest

from builder.images.build import main, version
from builder.images.container_engine import NoContainerEngine, find_engine
from handlers import HANDLERS
from shared.settings import Settings
from shared.weights.catalogue import CATALOGUE
from tests.doubles.processes import clean_environment

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
# Used by RunPod, huggingface_hub or the shell examples.
EXTERNAL = {
    "HF_TOKEN",
    "RUNPOD_INIT_TIMEOUT",
    "ENDPOINT_ID",
    "RUNPOD_API_KEY",
    "REGISTRY",
    "COMPLETED",
    "IN_QUEUE",
    "IN_PROGRESS",
    "UPLOAD_ERROR",
    "SUPABASE_SERVICE_ROLE_KEY",
    "PWD",
}

ARGUMENTS = dict(re.findall(r"^ARG (\w+)=(.+)$", DOCKERFILE, flags=re.MULTILINE))


def bake() -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {plain(name): plain(each) for name, each in value.items() if not name.startswith("__")}
        if isinstance(value, list):
            return [plain(each) for each in value]
        return value.strip('"') if isinstance(value, str) else value

    with (ROOT / "docker-bake.hcl").open(encoding="utf-8") as file:
        content = plain(hcl2.load(file))
    return {kind: {name: body for block in blocks for name, body in block.items()} for kind, blocks in content.items()}


def test_the_weights_table_matches_the_catalogue() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([\w./-]+)` \| ([\d.]+) GB \| ([^|]+) \|$", PAGE, flags=re.MULTILINE)
    assert rows == [(entry.name, entry.repo, f"{entry.size / 1e9:.2f}", entry.licence) for entry in CATALOGUE]


def test_the_build_argument_table_matches_the_dockerfile() -> None:
    table = PAGE.partition("| build argument |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table, flags=re.MULTILINE))
    assert {name: default.strip("` ") for name, default in rows.items() if default.startswith("`")} == {
        name: ARGUMENTS[name] for name in rows if name != "MODELS"
    }


def test_the_page_names_the_cuda_version_of_the_default_torch() -> None:
    version = f"{ARGUMENTS['TORCH'][2:-1]}.{ARGUMENTS['TORCH'][-1]}"
    assert f"| CUDA | {version} and every newer one |" in PAGE
    assert f"select {version} and all newer versions" in PAGE


def test_every_choice_of_torch_on_the_page_is_a_lock_file() -> None:
    (row,) = re.findall(r"^\| `TORCH` \|.*$", PAGE, flags=re.MULTILINE)
    files = {path.stem.removeprefix("torch-") for path in (ROOT / "builder/requirements").glob("torch-*.txt")}
    assert set(re.findall(r"`(c\w+)`", row)) == files


def test_the_image_of_a_handler_that_compiles_for_the_gpu_has_a_c_compiler() -> None:
    """Triton compiles a launcher in C for each kernel."""
    compiling = {
        path.relative_to(ROOT / "handlers").parts[0] for path in (ROOT / "handlers").rglob("*.py") if "can_compile(" in path.read_text()
    }
    final = DOCKERFILE.rpartition("\nFROM ")[2].replace("\\\n", " ")
    installs = re.findall(r'if \[ "\$\{HANDLER\}" != (\w+) \]; then\s+apt-get update.*?apt-get install [^&]*\bgcc libc6-dev\b', final)
    assert compiling == set(HANDLERS) - set(installs) == {"sdxl", "wan"}


def test_every_variable_on_the_page_is_a_setting_or_build_argument() -> None:
    named = set(re.findall(r"`([A-Z][A-Z_]{3,})(?:=[^`]*)?`", PAGE)) | set(re.findall(r"^([A-Z_]+)=", PAGE, flags=re.MULTILINE))
    assert named - {name.upper() for name in Settings.model_fields} - set(ARGUMENTS) - EXTERNAL == set()


def test_every_command_on_the_page_exists() -> None:
    modules = set(re.findall(r"python -m ([\w.]+)", PAGE))
    assert "builder.download_weights" in modules
    assert {module for module in modules if importlib.util.find_spec(module) is None} == set()


def test_the_weights_stage_contains_all_code_that_a_download_imports(tmp_path: Path) -> None:
    stage = DOCKERFILE.partition(" AS weights\n")[2].partition("\nFROM")[0]
    for line in re.findall(r"^COPY (.+)$", stage, flags=re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            new = tmp_path / target / (Path(source).name if target.endswith("/") else "")
            new.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, new)
    code = "import builder.download_weights, shared.weights.download, shared.weights.transfer"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=clean_environment(PYTHONPATH=str(tmp_path)), timeout=60, check=True)


def test_every_copied_file_is_in_the_build_context() -> None:
    included = [line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")]
    copied = [source for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, flags=re.MULTILINE) for source in line.split()[:-1]]
    assert "builder/download_weights.py" in copied
    assert [path for path in copied if path.partition("/")[0] not in included and not any(fnmatch(path, each) for each in included)] == []


def test_docker_bake_has_one_target_per_handler() -> None:
    content = bake()
    target = content["target"]["worker"]
    assert content["group"]["default"]["targets"] == ["worker", "chat-vllm"]
    assert (target["name"], target["matrix"]["handler"], target["args"]["HANDLER"]) == ("handler", list(HANDLERS), "handler")
    assert {target["tags"], target["cache-from"], target["cache-to"]} == {
        f"${{{function}(handler)}}" for function in ("tags", "cache_from", "cache_to")
    }


def test_every_bake_argument_is_declared_in_the_dockerfile() -> None:
    assert set(bake()["target"]["worker"]["args"]) <= set(ARGUMENTS)


def test_images_are_tagged_with_the_project_version_and_never_latest() -> None:
    assert bake()["variable"]["VERSION"]["default"] == ARGUMENTS["VERSION"] == version()
    assert "latest`" not in PAGE.replace("there is no `latest`", "")
    assert ":latest" not in (ROOT / "docker-bake.hcl").read_text() + (ROOT / ".github/workflows/images.yml").read_text()


def test_an_engine_whose_daemon_does_not_respond_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, status in {"docker": 1, "podman": 125, "buildah": 0}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_engine() == "buildah"
    (tmp_path / "buildah").unlink()
    with pytest.raises(NoContainerEngine, match="apt-get install buildah"):
        find_engine()


def test_an_image_is_built_with_the_selected_engine(capfd: pytest.CaptureFixture[str]) -> None:
    main(["chat", "--engine", "buildah", "--registry", "docker.io/you", "--arg", "RUN_AS=worker", "--print"])
    command = capfd.readouterr().out.splitlines()[0]
    assert command.startswith("buildah build --layers --isolation chroot --file ")
    assert f"--tag docker.io/you/chat-worker:{version()} --build-arg HANDLER=chat" in command
    assert "--build-arg RUN_AS=worker " in command
