"""Keys are stored in `SecretStr` only: no object reachable from a worker holds or shows one in plain text."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import pytest
from pydantic import SecretStr

from playground.callback_receiver import CallbackReceiver
from shared.serverless import _Endpoint, _start_worker
from shared.settings import load_settings
from shared.telemetry import StartTimeline
from tests.doubles.fake_storage import FakeStorage
from tests.doubles.jobs import sdxl_job
from tests.doubles.processes import clean_environment, run_module
from tests.doubles.stub_worker import HANDLER

SERVICE_KEY = "canary-service-key"
SECRET = "canary-callback-secret-0123456789"
TOKEN = "canary-url-token"
KEYS = (SERVICE_KEY, SECRET)


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Endpoint[Any]]:
    """A worker that has completed a job with an upload and a callback."""
    monkeypatch.chdir(tmp_path)
    with FakeStorage(SERVICE_KEY) as storage, CallbackReceiver(SECRET) as receiver:
        variables = {
            "SUPABASE_URL": storage.url,
            "SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY,
            "JOB_CALLBACK_URL": f"{receiver.url}?token={TOKEN}",
            "JOB_CALLBACK_SECRET": SECRET,
            "OUTBOX_DIR": str(tmp_path / "outbox"),
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        settings = load_settings()
        endpoint = _Endpoint(HANDLER, _start_worker(HANDLER, settings, StartTimeline()), settings)
        done: Any = asyncio.run(endpoint.complete({**sdxl_job("j"), "id": "j"}))
        assert done["status"] == "completed"
        assert len(receiver.messages) == 1
        yield endpoint


def reachable(start: object) -> Iterator[tuple[str, object]]:
    """Yields every object reachable through attributes, containers, partials, bound methods and closures, with its path."""
    seen: set[int] = set()
    alive: list[object] = []  # prevents the reuse of ids
    pending = [("endpoint", start)]
    while pending:
        path, held = pending.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        alive.append(held)
        yield path, held
        pending += [(f"{path}{name}", inner) for name, inner in _inner(held)]


def _inner(held: Any) -> Iterator[tuple[str, object]]:
    match held:
        case SecretStr() | str() | bytes() | int() | float() | None:
            return
        case Mapping():
            yield from ((f"[{key!r}]", value) for key, value in held.items())
        case list() | tuple() | set() | frozenset():
            yield from (("[]", each) for each in held)
        case partial():
            yield from ((".args", each) for each in (held.func, *held.args, *held.keywords.values()))
        case MethodType():
            yield ".self", held.__self__
        case FunctionType():
            yield from ((".closure", cell.cell_contents) for cell in held.__closure__ or ())
        case _ if type(held).__module__.startswith(("shared", "handlers", "tests.doubles")):
            names = [*getattr(held, "__dict__", {}), *(slot for kind in type(held).__mro__ for slot in getattr(kind, "__slots__", ()))]
            yield from ((f".{name}", getattr(held, name)) for name in names if hasattr(held, name))


def test_no_object_of_a_worker_holds_a_key_in_plain_text(endpoint: _Endpoint[Any]) -> None:
    found = list(reachable(endpoint))
    assert {path for path, held in found if isinstance(held, SecretStr)}, "the traversal reaches the keys"
    assert [path for path, held in found if isinstance(held, str | bytes) and any(key in str(held) for key in KEYS)] == []


def test_no_repr_of_a_workers_objects_contains_a_key_or_token(endpoint: _Endpoint[Any]) -> None:
    shown = []
    for path, held in reachable(endpoint):
        if type(held).__module__.startswith(("shared", "handlers")):
            shown += [path for key in (*KEYS, TOKEN) if key in f"{held!r} {held!s}"]
            shown += [path for key in KEYS if hasattr(held, "__dict__") and key in repr(vars(held))]
    assert shown == []


def test_settings_hide_keys_and_tokens_when_printed_or_dumped(endpoint: _Endpoint[Any]) -> None:
    settings = load_settings()
    for text in (repr(settings), str(settings), f"{settings}", repr(settings.model_dump()), settings.model_dump_json()):
        assert not any(key in text for key in KEYS)
    assert TOKEN not in f"{settings!r} {settings}"


def test_child_processes_inherit_no_key_and_no_secret(tmp_path: Path) -> None:
    with FakeStorage(SERVICE_KEY) as storage:
        variables = {
            "SUPABASE_URL": storage.url,
            "supabase_service_role_key": SERVICE_KEY,  # settings are read whatever their case
            "JOB_CALLBACK_URL": f"https://example.com/?token={TOKEN}",
            "JOB_CALLBACK_SECRET": SECRET,
            "JOB_CALLBACK_SECRET_PREVIOUS": f"{SECRET}-before",
            "STORAGE_BUCKET": "workspace-temp",
        }
        done = run_module(
            "tests.privacy.probing_worker",
            "--test_input",
            '{"input": {"id": "J"}}',
            folder=tmp_path,
            environment=clean_environment(**variables),
        )
    assert "The environment was printed." in done.stderr
    assert "STORAGE_BUCKET=workspace-temp" in done.stdout
    assert "canary" not in done.stdout


def test_the_traversal_finds_a_key_in_plain_text() -> None:
    @dataclasses.dataclass
    class Careless:
        headers: dict[str, str]

    Careless.__module__ = "shared.careless"
    careless = Careless({"apikey": SERVICE_KEY})
    for holder in (careless, partial(print, SERVICE_KEY), lambda: careless, [{"in": (careless,)}]):
        assert SERVICE_KEY in [held for _, held in reachable(holder)]
