"""Fills a folder that serves as `MODELS_DIR` with weights: verified, resumable, and with a lock file that says what they are.

`python -m builder.download_weights sdxl --to DIR` brings one entry of the catalogue, or all that a handler uses, at pinned revisions of the
Hugging Face hub. What lies on this machine in RunPod's cached models or on the network volume is copied instead. A run that was stopped is
started again and goes on; a run that has nothing to do reads the files, compares them with the lock, and ends.

`python -m builder.download_weights --checkpoint URL-OR-PATH --to DIR` brings an SDXL checkpoint of your own as `DIR/sdxl.safetensors`.

HF_TOKEN is used where it is set, and written nowhere.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from builder.command_line import command_parser
from builder.weights.checkpoint import describe, take
from shared.settings import Settings, SettingsError, allow_hub, load_settings
from shared.weights.catalogue import CATALOGUE, SDXL, Weights
from shared.weights.download import THREADS, run_download, check_space, verified_lock, plan
from shared.weights.hub import DownloadError
from shared.weights.lock import Lock
from shared.weights.resolve import LOCATIONS
from shared.weights.transfer import OnProgress


def chosen(names: Sequence[str]) -> list[Weights]:
    """The entries of the catalogue that are meant by names of entries and of handlers.

    Raises:
        DownloadError: There is no such name.
    """
    known = {weights.name for weights in CATALOGUE} | {weights.used_by for weights in CATALOGUE}
    if unknown := sorted(set(names) - known):
        raise DownloadError(f"There is no {', '.join(unknown)} in the catalogue; there is {', '.join(sorted(known))}.")
    return [weights for weights in CATALOGUE if weights.name in names or weights.used_by in names]


def download(weights: Weights, folder: Path, settings: Settings, threads: int = THREADS) -> Lock:
    """Brings one entry of the catalogue, with a progress bar.

    Raises:
        DownloadError: It is not complete. Another run goes on.
    """
    print(f"{weights.name}: {weights.repo} at {weights.revision}, licence {weights.licence}", flush=True)
    if (lock := verified_lock(weights, folder)) is not None:
        print(f"{weights.name}: complete, and as its lock says. Nothing to do.")
        return lock
    todo = plan(weights, folder)
    places = [place.find(weights, settings) for place in LOCATIONS]
    local_copies = [place for place in places if place is not None and place.is_dir() and place.absolute() != folder.absolute()]
    with _bar(weights.name, todo.bytes, todo.came) as advance:
        return run_download(todo, advance, local_copies=local_copies, threads=threads)


def download_checkpoint(source: str, folder: Path, sha256: str | None, licence: str) -> Lock:
    """Brings an operator's own checkpoint, with a progress bar.

    Raises:
        DownloadError: It does not come, or is not what it should be.
    """
    target = folder / f"{SDXL.name}.safetensors"
    file = describe(source, target, sha256)
    print(f"{target.name}: licence {licence}", flush=True)
    if file.sha256 is None:
        print("Nobody states the SHA-256 of this checkpoint: only its structure can be checked. Give --sha256 if you know it.")
    if not target.exists():
        check_space(folder, file.bytes)
    with _bar(target.name, file.bytes, 0) as advance:
        return take(file, source, target, licence, advance)


@contextmanager
def _bar(name: str, total: int, came: int) -> Iterator[OnProgress]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    # In a log, where nothing can be overwritten, a line now and then is enough.
    pause = 0.2 if sys.stderr.isatty() else 15.0
    with tqdm(desc=name, total=total, initial=came, unit="B", unit_scale=True, mininterval=pause, maxinterval=max(pause, 10.0)) as bar:

        def advance(count: int) -> None:
            with bar.get_lock():
                bar.update(count)

        yield advance


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("download_weights", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(weights.name for weights in CATALOGUE)}, or a handler")
    parser.add_argument("--to", type=Path, metavar="DIR", help="the folder to fill (default: MODELS_DIR)")
    parser.add_argument("--threads", type=int, default=THREADS, metavar="N", help=f"files at a time (default {THREADS})")
    parser.add_argument("--checkpoint", metavar="URL-OR-PATH", help="an SDXL checkpoint of your own, one .safetensors file")
    parser.add_argument("--sha256", metavar="HEX", type=str.lower, help="what the checkpoint must hash to")
    parser.add_argument("--licence", metavar="TEXT", default="not stated", help="the checkpoint's licence, for its lock")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.names and not options.checkpoint:
        parser.error("say what to download: a NAME, or --checkpoint")
    allow_hub()
    _quiet_hub()
    try:
        settings = load_settings()
        folder = options.to or settings.models_dir
        for weights in chosen(options.names):
            _report(folder / weights.name, download(weights, folder / weights.name, settings, options.threads))
        if options.checkpoint:
            lock = download_checkpoint(options.checkpoint, folder, options.sha256, options.licence)
            _report(folder / lock.files[0].path, lock)
    except (DownloadError, SettingsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def _quiet_hub() -> None:
    """Its warnings have URLs, and that of an own checkpoint may hold a key."""
    from huggingface_hub.utils.logging import set_verbosity

    set_verbosity(logging.ERROR)


def _report(path: Path, lock: Lock) -> None:
    print(f"{path}  {lock.bytes / 1e9:.2f} GB  {len(lock.files)} files, verified and verified_lock", flush=True)


if __name__ == "__main__":
    sys.exit(main())
