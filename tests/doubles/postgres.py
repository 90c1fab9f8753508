"""A throw-away PostgreSQL server that looks like the database of a hosted Supabase project with the migrations applied."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.doubles.processes import ROOT

PROJECT = ROOT / "supabase"
_TEMPLATE, _BARE = "postgres", "bare"
# No test outlives the server, so nothing has to reach the disk.
_OPTIONS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=60", "shared_buffers=64MB", "wal_level=logical")


class Database:
    """One database.

    Args:
        url: Its URL as the role `postgres`, as `SUPABASE_DB_URL` of edge functions.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def execute(self, sql: str, *, superuser: bool = False) -> str:
        """Runs statements and returns what psql prints: unaligned rows without headers."""
        url = self.url.replace("postgres@", "supabase_admin@", 1) if superuser else self.url
        command = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", url, "-f", "-"]
        done = subprocess.run(command, input=sql, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Returns the rows of a query."""
        rows: list[dict[str, Any]] = json.loads(self.execute(f"select coalesce(json_agg(r), '[]') from ({query}) as r"))
        return rows


class PostgresServer:
    """Starts a server on a free port inside a `with` block. Debian's binaries refuse to run as root: then they run as `postgres`."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._port = _free_port()
        self._user = "postgres" if os.geteuid() == 0 else None
        self._count = 0

    def __enter__(self) -> Self:
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._run("initdb", "-U", "supabase_admin", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        self.start()
        database = self.migrated()
        database.execute((PROJECT / "tests/database/hosted_project.sql").read_text("utf-8"), superuser=True)
        self._copy(_TEMPLATE, _BARE)
        supabase("db", "push", f"--remote={database.url}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Starts the server and waits until it accepts connections."""
        options = " ".join(f"-c {option}" for option in (*_OPTIONS, "listen_addresses=127.0.0.1"))
        log = str(self._folder / "server.log")
        self._run("pg_ctl", "-l", log, "-w", "-t", "30", "-o", f"-p {self._port} -k {self._folder} {options}", "start")

    def stop(self) -> None:
        """Stops the server at once, as a crash does."""
        self._run("pg_ctl", "-m", "immediate", "-w", "stop")

    def url(self, name: str) -> str:
        """Returns the URL of a database as the role `postgres`."""
        return f"postgres://postgres@127.0.0.1:{self._port}/{name}"

    def migrated(self) -> Database:
        """Returns the database of the project, for what does not write to it."""
        return Database(self.url(_TEMPLATE))

    def new_database(self, *, migrated: bool = True) -> Database:
        """Returns a copy of the project's database without any rows of users, or, as it is before the first migration."""
        self._count += 1
        return self._copy(_TEMPLATE if migrated else _BARE, f"copy_{self._count}")

    def _copy(self, template: str, name: str) -> Database:
        Database(self.url("template1")).execute(f"create database {name} template {template} owner postgres", superuser=True)
        return Database(self.url(name))

    def _run(self, program: str, *arguments: str) -> None:
        newest = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        command = [str(newest / program), "-D", str(self._folder / "data"), *arguments]
        # A server inherits the descriptors: pipes would stay open.
        with (self._folder / "commands.log").open("ab") as log:
            done = subprocess.run(command, user=self._user, cwd=self._folder, stdout=log, stderr=log, check=False)
        assert done.returncode == 0, (self._folder / "commands.log").read_text()


def supabase_cli() -> Path:
    """Returns the path of the Supabase CLI."""
    (found,) = (PROJECT / "tests/node_modules/@supabase").glob("cli-*/bin/supabase")
    return found


def supabase(*arguments: str) -> str:
    """Runs the Supabase CLI on this project and returns what it prints."""
    quiet = {"DO_NOT_TRACK": "1", "SUPABASE_TELEMETRY_DISABLED": "1"}
    command = [str(supabase_cli()), "--yes", *arguments, "--workdir", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | quiet)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
