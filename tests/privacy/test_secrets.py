"""Where keys are kept: behind `SecretStr` alone, in no attribute of any object of a worker, whichever way it is reached."""

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
from tests.doubles.fake_storage import FakeStorage
from tests.doubles.jobs import sdxl_job
from tests.doubles.stub_worker import HANDLER

SERVICE_KEY = "canary-service-key"
SECRET = "canary-callback-secret-0123456789"
TOKEN = "canary-url-token"
KEYS = (SERVICE_KEY, SECRET)


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Endpoint[Any]]:
    """A worker that has done a job: fetched nothing, stored a picture, called back."""
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
        made = _Endpoint(HANDLER, _start_worker(HANDLER, settings), settings)
        done: Any = asyncio.run(made.complete({**sdxl_job("j"), "id": "j"}))
        assert done["status"] == "completed"
        assert len(receiver.messages) == 1
        yield made


def reachable(start: object) -> Iterator[tuple[str, object]]:
    """Everything that can be reached from an object of ours through attributes, containers and what functions have closed over."""
    seen: set[int] = set()
    kept: list[object] = []  # so that no id is used twice
    left = [("it", start)]
    while left:
        path, held = left.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        kept.append(held)
        yield path, held
        left += [(f"{path}{name}", inner) for name, inner in _inner(held)]


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


def test_no_object_of_a_worker_holds_a_key_in_the_open(endpoint: _Endpoint[Any]) -> None:
    found = list(reachable(endpoint))
    assert {path for path, held in found if isinstance(held, SecretStr)}, "the walk reaches the keys"
    assert [path for path, held in found if isinstance(held, str | bytes) and any(key in str(held) for key in KEYS)] == []


def test_no_object_of_a_worker_shows_a_key_or_a_token(endpoint: _Endpoint[Any]) -> None:
    shown = []
    for path, held in reachable(endpoint):
        if type(held).__module__.startswith(("shared", "handlers")):
            shown += [path for key in (*KEYS, TOKEN) if key in f"{held!r} {held!s}"]
            shown += [path for key in KEYS if hasattr(held, "__dict__") and key in repr(vars(held))]
    assert shown == []


def test_settings_show_neither_keys_nor_urls(endpoint: _Endpoint[Any]) -> None:
    settings = load_settings()
    for said in (repr(settings), str(settings), f"{settings}", repr(settings.model_dump()), settings.model_dump_json()):
        assert not any(key in said for key in KEYS)
    assert TOKEN not in f"{settings!r} {settings}"


def test_the_walk_would_find_a_key_in_the_open() -> None:
    @dataclasses.dataclass
    class Careless:
        headers: dict[str, str]

    Careless.__module__ = "shared.careless"
    careless = Careless({"apikey": SERVICE_KEY})
    for holder in (careless, partial(print, SERVICE_KEY), lambda: careless, [{"in": (careless,)}]):
        assert SERVICE_KEY in [held for _, held in reachable(holder)]
