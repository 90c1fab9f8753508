"""Every block of `docs/integration.md` is executed: by the real CLI against local doubles of a hosted project, and with a stub worker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.doubles.deno import CONFIG, deno, deno_environment, executable
from tests.doubles.postgres import PROJECT, PostgresServer, supabase_cli
from tests.doubles.processes import ROOT
from tests.doubles.supabase_management_api import FakeManagementAPI
from tests.doubles.supabase_project import PUBLISHABLE_KEY, SupabaseProject
from tests.supabase.stack import Stack

pytestmark = pytest.mark.timeout(600)

PROJECT_REF = "abcdefghijklmnopqrst"
PAGE = (ROOT / "docs/integration.md").read_text("utf-8")
PUSH, SECRETS, DEPLOY, SUBMIT, ROTATE = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
SCHEDULE, TIERS, ROTATE_KEY, RENAME, MOVE = re.findall(r"```sql\n(.*?)```", PAGE, flags=re.DOTALL)
(CLIENT,) = re.findall(r"```typescript\n(.*?)```", PAGE, flags=re.DOTALL)


def run_block(block: str, folder: Path, **variables: str) -> str:
    """Runs a shell block as a reader does, and returns what it prints. The CLI calls `MANAGEMENT_API`, if that is given."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    profile = "".join(f"{name}: {variables.get('MANAGEMENT_API', 'http://127.0.0.1:1')}\n" for name in ("api_url", "dashboard_url"))
    (tools / "profile.yaml").write_text(f"name: local\nproject_host: supabase.co\n{profile}")
    (tools / "supabase").write_text(f'#!/bin/sh\nexec {supabase_cli()} "$@" --workdir {ROOT} --profile {tools / "profile.yaml"}\n')
    (tools / "supabase").chmod(0o755)
    path = os.pathsep.join((str(tools), str(Path(sys.executable).parent), os.environ["PATH"]))
    tokens = {"SUPABASE_ACCESS_TOKEN": "sbp_" + 40 * "0", "DO_NOT_TRACK": "1", "SUPABASE_TELEMETRY_DISABLED": "1"}
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)} | tokens | variables
    done = subprocess.run(["bash", "-euc", block], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def variables_of_functions() -> set[str]:
    """Returns the names of the variables that the functions read."""
    sources = "".join(path.read_text() for path in (PROJECT / "functions").rglob("*.ts"))
    named = set(re.findall(r'(?:required|optional)\("([A-Z_]+)"', sources))
    assert "required(`RUNPOD_${model_type.toUpperCase()}_ENDPOINT`)" in sources
    return named | {f"RUNPOD_{model}_ENDPOINT" for model in ("SDXL", "WAN", "CHAT")}


def test_the_tables_schedule_and_tiers_are_those_of_the_page(postgres: PostgresServer, tmp_path: Path) -> None:
    database = postgres.new_database(migrated=False)
    run_block(PUSH, tmp_path, SUPABASE_DB_URL=database.url)
    for block in (SCHEDULE, TIERS, ROTATE_KEY):
        database.execute(block)
    (key,) = database.rows("select decrypted_secret from vault.decrypted_secrets where name = 'cron_key'")
    assert key == {"decrypted_secret": "sb_secret_new…"}
    assert database.execute("select private.call_function('reconcile')") != ""
    assert [row["max_open_jobs"] for row in database.rows("select * from tiers order by name")] == [2, 20, 50]


def test_secrets_are_set_that_the_functions_read(tmp_path: Path) -> None:
    with FakeManagementAPI() as api:
        endpoints = {"SDXL_ENDPOINT": "s", "WAN_ENDPOINT": "w", "CHAT_ENDPOINT": "c"}
        hosted = {"MANAGEMENT_API": api.url, "PROJECT_REF": PROJECT_REF}
        run_block(SECRETS, tmp_path, RUNPOD_API_KEY="k", **endpoints, **hosted)
        assert api.secrets.keys() <= variables_of_functions()
        assert all(api.secrets.values())
        before = api.secrets["JOB_CALLBACK_SECRET"]
        run_block(ROTATE, tmp_path, JOB_CALLBACK_SECRET=before, **hosted)
        assert api.secrets["JOB_CALLBACK_SECRET_PREVIOUS"] == before != api.secrets["JOB_CALLBACK_SECRET"]
        assert api.secrets.keys() <= variables_of_functions()


def test_every_function_is_deployed_with_all_its_modules(tmp_path: Path) -> None:
    with FakeManagementAPI() as api:
        run_block(DEPLOY, tmp_path, MANAGEMENT_API=api.url, PROJECT_REF=PROJECT_REF)
    assert set(api.functions) == {path.parent.name for path in (PROJECT / "functions").glob("*/index.ts")}
    for name, deployed in api.functions.items():
        assert deployed.settings["verify_jwt"] is False
        graph = json.loads(deno("hosted", "info", "--json", f"functions/{name}/index.ts"))
        modules = {Path(unquote(urlsplit(module["specifier"]).path)) for module in graph["modules"] if module["kind"] != "npm"}
        assert modules
        assert {str(path.relative_to(ROOT)) for path in modules} <= deployed.files.keys()
        assert all((ROOT / file).read_bytes() == content for file, content in deployed.files.items())


def test_every_function_has_its_settings() -> None:
    configured = tomllib.loads((PROJECT / "config.toml").read_text())["functions"]
    names = {path.parent.name for path in (PROJECT / "functions").glob("*/index.ts")}
    assert set(configured) == names
    assert all(settings == {"verify_jwt": False, "import_map": "./functions/deno.json"} for settings in configured.values())


def test_a_job_is_queued_from_a_shell_and_from_a_page(postgres: PostgresServer, tmp_path: Path) -> None:
    with Stack(postgres, tmp_path / "worker", tmp_path, {"sdxl": "tests.doubles.stub_worker"}) as stack:
        project = stack.project
        project.accounts["user@example.com"] = project.new_user().id
        user = {"SUPABASE_EMAIL": "user@example.com", "SUPABASE_PASSWORD": "any"}
        printed = run_block(SUBMIT, tmp_path, SUPABASE_URL=project.url, SUPABASE_PUBLISHABLE_KEY=PUBLISHABLE_KEY, **user)
        files = [tmp_path / line for line in printed.splitlines()]
        assert [path.name for path in files] == ["0.png", "1.png", "2.png"]
        assert {path.read_bytes()[:4] for path in files} == {b"\x89PNG"}
        shown = run_page(CLIENT, tmp_path, project)
        *statuses, first, second, third = shown
        assert statuses[-1] == "completed"
        assert all(url.startswith(f"{project.url}/storage/v1/object/sign/workspace-temp/") for url in (first, second, third))


def run_page(block: str, folder: Path, project: SupabaseProject) -> list[str]:
    """Runs the block of a frontend and returns the lines that it logs."""
    program = block.replace("https://PROJECT_REF.supabase.co", project.url).replace("sb_publishable_…", PUBLISHABLE_KEY)
    (folder / "page.ts").write_text(program.replace("./examples/client.ts", str(ROOT / "examples/client.ts")) + "\nDeno.exit();\n")
    command = [executable("newest"), "run", "--quiet", "--check", *CONFIG, "--allow-all", str(folder / "page.ts")]
    done = subprocess.run(command, cwd=PROJECT, env=deno_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


OLD_TABLES = """
create table public.jobs (
  id uuid primary key, user_id uuid, job_type text, format text, quality text, status text, original_prompt text, metadata jsonb not null,
  created_at timestamptz default now(), completed_at timestamptz
);
create table public.workspace_assets (
  id uuid primary key default gen_random_uuid(), user_id uuid, job_id uuid, asset_type text, temp_storage_path text, thumbnail_path text,
  file_size_bytes bigint, mime_type text, duration_seconds numeric, asset_index int, generation_seed bigint, original_prompt text,
  model_used text, generation_settings jsonb, created_at timestamptz default now(), expires_at timestamptz default now() + interval '7 days'
);
"""


def test_jobs_and_assets_move_over_from_older_tables(postgres: PostgresServer, tmp_path: Path) -> None:
    database = postgres.new_database(migrated=False)
    user, ended, running = (f"00000000-0000-4000-8000-00000000000{digit}" for digit in "abc")
    database.execute(OLD_TABLES)
    database.execute(f"""
      insert into auth.users (id) values ('{user}');
      insert into jobs (id, user_id, job_type, format, quality, status, original_prompt, metadata) values
        ('{ended}', '{user}', 'sdxl_image_high', 'image', 'high', 'completed', 'a heron', '{{"a": 1}}'),
        ('{running}', '{user}', 'video_fast', 'video', 'fast', 'processing', 'a heron', '{{}}');
      insert into workspace_assets (user_id, job_id, asset_type, temp_storage_path, asset_index) values
        ('{user}', '{ended}', 'image', 'a/b/0.png', 0), ('{user}', '{ended}', 'image', 'a/b/0.png', 0)""")
    database.execute(RENAME)
    run_block(PUSH, tmp_path, SUPABASE_DB_URL=database.url)
    database.execute(MOVE)
    assert database.rows("select id, model_type, status, metadata from jobs") == [
        {"id": ended, "model_type": "sdxl", "status": "completed", "metadata": {"a": 1}}
    ]
    assert database.rows("select job_id, asset_index from workspace_assets") == [{"job_id": ended, "asset_index": 0}]
