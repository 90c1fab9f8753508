"""Preflight checks of an image or a machine: `python -m handlers.sdxl.handler --check`.

`--check image` checks what an image must contain, `--check weights` the weights as well, and plain `--check` everything that a worker needs
at its start. The build of an image runs the first or the second. A worker runs `startup_problems` and refuses to start if there are any.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module

from shared.command_line import Scope
from shared.jobs.delivery.outbox import open_outbox
from shared.settings import Settings, SettingsError, check_complete, load_settings
from shared.storage import open_storage
from shared.telemetry import logger
from shared.webhooks import Webhook
from shared.weights.catalogue import Weights
from shared.weights.errors import WeightsError
from shared.weights.resolve import resolve
from shared.weights.verify import verify

Check = Callable[[Settings], object]
"""Raises `SettingsError` or `WeightsError` if the requirement is not met."""

# Enough for a clip, or for a dozen images, while they are written.
_MIN_FREE_BYTES = 256 * 2**20


def self_check(
    scope: Scope,
    libraries: Callable[[Settings], Sequence[str]],
    checks: Mapping[str, Check],
    required_weights: Callable[[Settings], Sequence[Weights]],
    stored_types: Sequence[str],
    load: Check,
) -> None:
    """Runs the checks of a handler, logs a line for each, and exits the process: with 0 if all have passed, else with 1.

    Args:
        scope: How much to check.
        libraries: Returns the modules that the handler imports when it loads its models.
        checks: The handler's own checks, by name.
        required_weights: Returns the weights that the handler needs under the given settings.
        stored_types: The MIME types of the files that the handler stores.
        load: Loads the models. Called for a machine whose other checks have passed: only loading finds every defect of weights.
    """
    try:
        settings = load_settings()
    except SettingsError as error:
        logger().error("check failed", check="configuration", reason=str(error))
        sys.exit(1)
    selected: dict[str, Check] = {"libraries": lambda settings: _import_all(libraries(settings)), **checks}
    if scope != "image":
        selected |= {f"weights {entry.name}": partial(_find, entry) for entry in required_weights(settings)}
    if scope == "machine":
        selected |= _machine_checks(stored_types)
    failed = [name for name, check in selected.items() if not _passes(name, check, settings)]
    if scope == "machine" and not failed and not _passes("models", load, settings):
        failed.append("models")
    sys.exit(1 if failed else 0)


def startup_problems(
    settings: Settings, checks: Mapping[str, Check], weights: Sequence[Weights], stored_types: Sequence[str]
) -> dict[str, str]:
    """Checks everything that a worker needs before it loads anything, without stopping at the first problem.

    Args:
        settings: May be incomplete.
        checks: The handler's own checks, by name.
        weights: The weights that the handler needs.
        stored_types: The MIME types of the files that the handler stores.

    Returns:
        The problems by the name of their check; empty if the worker may start.
    """
    machine = _machine_checks(stored_types)
    selected: dict[str, Check] = {"configuration": check_complete, **checks, "disk": machine["disk"], "outbox": machine["outbox"]}
    selected |= {f"weights {entry.name}": partial(_verify, entry) for entry in weights}
    problems = {name: problem for name, check in selected.items() if (problem := _problem(check, settings)) is not None}
    if "configuration" not in problems:  # these two depend on a complete configuration
        remote = {name: machine[name] for name in ("storage", "callbacks")}
        problems |= {name: problem for name, check in remote.items() if (problem := _problem(check, settings)) is not None}
    return problems


def check_disk(_settings: Settings) -> None:
    """Checks the free space for temporary files.

    Raises:
        SettingsError: There is too little.
    """
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < _MIN_FREE_BYTES:
        raise SettingsError(
            f"There are {free // 2**20} MiB left for temporary files, and {_MIN_FREE_BYTES // 2**20} are needed. "
            "Give the container a larger disk, or set TMPDIR to a folder with more room."
        )


def _problem(check: Check, settings: Settings) -> str | None:
    try:
        check(settings)
    except (SettingsError, WeightsError) as error:
        return str(error)
    return None


def _passes(name: str, check: Check, settings: Settings) -> bool:
    problem = _problem(check, settings)
    if problem is not None:
        logger().error("check failed", check=name, reason=problem)
        return False
    logger().info("check passed", check=name)
    return True


def _import_all(names: Sequence[str]) -> None:
    for name in names:
        try:
            import_module(name)
        except (ImportError, OSError, RuntimeError) as error:  # OSError: a shared library; RuntimeError: transformers wraps both in it
            raise SettingsError(f"{name} cannot be imported ({error}). Build the image again, or run `make setup`.") from None


def _find(weights: Weights, settings: Settings) -> None:
    verify(weights.name, resolve(weights, settings.model_copy(update={"allow_downloads": False})))


def _verify(weights: Weights, settings: Settings) -> None:
    """Verifies weights that are present. Missing ones are a problem only if they cannot be downloaded; a download verifies its files."""
    try:
        found = resolve(weights, settings.model_copy(update={"allow_downloads": False}))
    except SettingsError:
        if settings.allow_downloads:
            return
        raise
    verify(weights.name, found)


def _machine_checks(stored_types: Sequence[str]) -> Mapping[str, Check]:
    return {
        "storage": lambda settings: open_storage(settings).check(stored_types),
        "outbox": lambda settings: open_outbox(settings).check(),
        "callbacks": Webhook,
        "disk": check_disk,
    }
