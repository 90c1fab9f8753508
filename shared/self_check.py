"""What an image or a machine must have, looked at without starting to work: `python -m handlers.sdxl.handler --check`.

`--check image` looks at what an image has, `--check weights` at the weights as well, and `--check` alone at all that is there when a worker
starts. The build of an image runs the first or the second; what a worker refuses to start for is among the third.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Literal

from shared.jobs.delivery.outbox import Outbox
from shared.settings import Settings, SettingsError, check_complete, load_settings
from shared.storage import open_storage
from shared.telemetry import logger
from shared.webhooks import Webhook
from shared.weights.catalogue import Weights
from shared.weights.resolve import resolve
from shared.weights.verify import verify

Scope = Literal["image", "weights", "machine"]
Check = Callable[[Settings], object]
"""Raises `SettingsError` when something is not as it must be."""

_OPTION = "--check"
_LEAST_FREE = 256 * 2**20
_NARROWER: Mapping[str, Scope] = {"image": "image", "weights": "weights"}


def parse_scope(arguments: Sequence[str]) -> Scope | None:
    """How much a command line asks to check; None when it asks for work."""
    if _OPTION not in arguments:
        return None
    following = [*arguments[arguments.index(_OPTION) + 1 :], ""][0]
    return _NARROWER.get(following, "machine")


def self_check(scope: Scope, libraries: Sequence[str], checks: Mapping[str, Check], needs: Callable[[Settings], Sequence[Weights]]) -> None:
    """Runs the checks of a handler, logs a line for each, and ends the process: with 0 when all have passed, else with 1.

    Args:
        scope: How much to check.
        libraries: The modules that it imports when it loads its models.
        checks: Its own, by name.
        needs: The weights that it cannot do without, as the operator has it.
    """
    try:
        settings = load_settings()
    except SettingsError as error:
        logger().error("check failed", check="configuration", reason=str(error))
        sys.exit(1)
    wanted: dict[str, Check] = {"libraries": lambda _settings: _import_all(libraries), **checks}
    if scope != "image":
        wanted |= {f"weights {entry.name}": partial(_find, entry) for entry in needs(settings)}
    if scope == "machine":
        wanted |= _OF_A_MACHINE
    failed = [name for name, check in wanted.items() if not _passes(name, check, settings)]
    sys.exit(1 if failed else 0)


def startup_problems(settings: Settings, checks: Mapping[str, Check], weights: Sequence[Weights]) -> dict[str, str]:
    """Looks at all that a worker needs before it loads anything, and does not stop at the first thing that is wrong.

    Args:
        settings: May be incomplete.
        checks: The handler's own, by name.
        weights: What it cannot do without.

    Returns:
        What is wrong, by the names of the checks; empty when the worker may start.
    """
    wanted: dict[str, Check] = {"configuration": check_complete, **checks, "disk": check_disk, "outbox": _OF_A_MACHINE["outbox"]}
    wanted |= {f"weights {entry.name}": partial(_verify, entry) for entry in weights}
    wrong = {name: reason for name, check in wanted.items() if (reason := _reason(check, settings)) is not None}
    if "configuration" not in wrong:  # without it they have nothing to look at
        others = {name: _OF_A_MACHINE[name] for name in ("storage", "callbacks")}
        wrong |= {name: reason for name, check in others.items() if (reason := _reason(check, settings)) is not None}
    return wrong


def check_disk(_settings: Settings) -> None:
    """Makes sure that a clip, or a dozen pictures, have room while they are written.

    Raises:
        SettingsError: They have none.
    """
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE:
        raise SettingsError(
            f"There are {free // 2**20} MiB left for temporary files, and {_LEAST_FREE // 2**20} are needed. Give the container a larger "
            "disk, or set TMPDIR to a folder with more room."
        )


def _reason(check: Check, settings: Settings) -> str | None:
    try:
        check(settings)
    except SettingsError as error:
        return str(error)
    return None


def _passes(name: str, check: Check, settings: Settings) -> bool:
    reason = _reason(check, settings)
    if reason is not None:
        logger().error("check failed", check=name, reason=reason)
        return False
    logger().info("check passed", check=name)
    return True


def _import_all(names: Sequence[str]) -> None:
    for name in names:
        try:
            import_module(name)
        except (ImportError, OSError, RuntimeError) as error:  # OSError: a shared library; RuntimeError: what transformers makes of both
            raise SettingsError(f"{name} cannot be imported ({error}). Build the image again, or run `make setup`.") from None


def _find(weights: Weights, settings: Settings) -> None:
    verify(weights.name, resolve(weights, settings.model_copy(update={"allow_downloads": False})))


def _verify(weights: Weights, settings: Settings) -> None:
    """Of a worker that may download them, only what is there already: the download compares what it brings."""
    try:
        found = resolve(weights, settings.model_copy(update={"allow_downloads": False}))
    except SettingsError:
        if settings.allow_downloads:
            return
        raise
    verify(weights.name, found)


_OF_A_MACHINE: Mapping[str, Check] = {
    "storage": lambda settings: open_storage(settings).check(),
    "outbox": lambda settings: Outbox(settings.outbox, max_bytes=settings.outbox_max_bytes, max_age=settings.outbox_max_age).check(),
    "callbacks": Webhook,
    "disk": check_disk,
}
