"""Downloads weights into a `MODELS_DIR`: verified by SHA-256, resumable, and recorded in a lock file.

`python -m builder.download_weights sdxl --to DIR` downloads one entry of the catalogue, or all entries that a handler uses, at pinned
revisions of the Hugging Face Hub. Files found in RunPod's model cache or on the network volume are copied instead. An interrupted run
resumes when it is started again; a complete folder is verified against its lock file and left unchanged.

`python -m builder.download_weights --checkpoint URL-OR-PATH --to DIR` installs a custom SDXL checkpoint as `DIR/sdxl.safetensors`.

HF_TOKEN is read from the environment and never written to disk or output.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from builder.command_line import command_parser
from builder.weights.checkpoint import inspect_source, install_checkpoint
from shared.settings import Settings, SettingsError, enable_hub_access, load_settings
from shared.weights.catalogue import CATALOGUE, SDXL, Weights
from shared.weights.download import THREADS, check_space, plan_download, run_download, verified_lock
from shared.weights.hub import DownloadError
from shared.weights.lock import Lock
from shared.weights.resolve import LOCATIONS
from shared.weights.transfer import OnProgress


def select_weights(names: Sequence[str]) -> list[Weights]:
    """Returns the catalogue entries that the names of entries or handlers select.

    Raises:
        DownloadError: A name is neither an entry nor a handler.
    """
    known = {weights.name for weights in CATALOGUE} | {weights.used_by for weights in CATALOGUE}
    if unknown := sorted(set(names) - known):
        raise DownloadError(f"Not in the catalogue: {', '.join(unknown)}. Available: {', '.join(sorted(known))}.")
    return [weights for weights in CATALOGUE if weights.name in names or weights.used_by in names]


def download(weights: Weights, folder: Path, settings: Settings, threads: int = THREADS) -> Lock:
    """Downloads one catalogue entry with a progress bar.

    Raises:
        DownloadError: The download is incomplete. Another run resumes it.
    """
    print(f"{weights.name}: {weights.repo} at {weights.revision}, licence {weights.licence}", flush=True)
    if (lock := verified_lock(weights, folder)) is not None:
        print(f"{weights.name}: complete and verified against its lock file. Nothing to do.")
        return lock
    plan = plan_download(weights, folder)
    found = [location.find(weights, settings) for location in LOCATIONS]
    local_copies = [path for path in found if path is not None and path.is_dir() and path.absolute() != folder.absolute()]
    with _progress_bar(weights.name, plan.bytes, plan.received) as advance:
        return run_download(plan, advance, local_copies=local_copies, threads=threads)


def download_checkpoint(source: str, folder: Path, sha256: str | None, licence: str) -> Lock:
    """Downloads or copies a custom SDXL checkpoint with a progress bar.

    Raises:
        DownloadError: The transfer failed, or the file failed verification.
    """
    target = folder / f"{SDXL.name}.safetensors"
    file = inspect_source(source, target, sha256)
    print(f"{target.name}: licence {licence}", flush=True)
    if file.sha256 is None:
        print("The SHA-256 of this checkpoint is unknown, so only its structure is verified. Pass --sha256 if you know it.")
    if not target.exists():
        check_space(folder, file.bytes)
    with _progress_bar(target.name, file.bytes, 0) as advance:
        return install_checkpoint(file, source, target, licence, advance)


@contextmanager
def _progress_bar(name: str, total: int, initial: int) -> Iterator[OnProgress]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    # A log file cannot be overwritten in place, so it gets a line only every 15 seconds.
    interval = 0.2 if sys.stderr.isatty() else 15.0
    with tqdm(
        desc=name, total=total, initial=initial, unit="B", unit_scale=True, mininterval=interval, maxinterval=max(interval, 10.0)
    ) as bar:

        def advance(count: int) -> None:
            with bar.get_lock():
                bar.update(count)

        yield advance


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("download_weights", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(weights.name for weights in CATALOGUE)}, or a handler")
    parser.add_argument("--to", type=Path, metavar="DIR", help="the target folder (default: MODELS_DIR)")
    parser.add_argument("--threads", type=int, default=THREADS, metavar="N", help=f"parallel downloads (default {THREADS})")
    parser.add_argument("--checkpoint", metavar="URL-OR-PATH", help="a custom SDXL checkpoint, one .safetensors file")
    parser.add_argument("--sha256", metavar="HEX", type=str.lower, help="the expected hash of the checkpoint")
    parser.add_argument("--licence", metavar="TEXT", default="not stated", help="the checkpoint's licence, recorded in its lock file")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.names and not options.checkpoint:
        parser.error("a NAME or --checkpoint is required")
    enable_hub_access()
    _silence_hub_warnings()
    try:
        settings = load_settings()
        folder = options.to or settings.models_dir
        for weights in select_weights(options.names):
            _report(folder / weights.name, download(weights, folder / weights.name, settings, options.threads))
        if options.checkpoint:
            lock = download_checkpoint(options.checkpoint, folder, options.sha256, options.licence)
            _report(folder / lock.files[0].path, lock)
    except (DownloadError, SettingsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. Run the same command to resume.", file=sys.stderr)
        return 130
    return 0


def _silence_hub_warnings() -> None:
    """The library's warnings contain URLs, and the URL of a custom checkpoint may contain a token."""
    from huggingface_hub.utils.logging import set_verbosity

    set_verbosity(logging.ERROR)


def _report(path: Path, lock: Lock) -> None:
    print(f"{path}  {lock.bytes / 1e9:.2f} GB  {len(lock.files)} files, verified and locked", flush=True)


if __name__ == "__main__":
    sys.exit(main())
