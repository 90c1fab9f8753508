"""Downloads weights into a `MODELS_DIR`: verified by SHA-256, resumable, and recorded in a lock file.

`python -m builder.download_weights sdxl --to DIR` downloads one entry of the catalogue, or all entries that a handler uses, at pinned
revisions of the Hugging Face Hub. Files found in RunPod's model cache or on the network volume are copied instead. An interrupted run
resumes when it is started again; a complete folder is verified against its lock file and left unchanged.

`--with references,controls,upscalers,refiner,safety` (or `all`) also downloads the published add-ons for these features, into the folders
where the handler reads them.

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
from builder.weights.addons import ADDONS, Addon, find_published_addon, select_addons
from builder.weights.checkpoint import inspect_source, install_checkpoint
from shared.settings import Settings, SettingsError, enable_hub_access, load_settings
from shared.weights.catalogue import CATALOGUE, SDXL, Weights
from shared.weights.download import THREADS, DownloadPlan, check_space, plan_download, run_download, verified_lock
from shared.weights.hub import DownloadError, find_published
from shared.weights.lock import Lock
from shared.weights.parallel import OnProgress
from shared.weights.resolve import LOCATIONS


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
    _announce(weights.name, weights.repo, weights.revision, weights.licence)
    if (lock := verified_lock(weights.repo, weights.revision, folder)) is not None:
        return _complete(weights.name, lock)
    plan = plan_download(find_published(weights), folder)
    found = [location.find(weights, settings) for location in LOCATIONS]
    local_copies = [path for path in found if path is not None and path.is_dir() and path.absolute() != folder.absolute()]
    return _run(weights.name, plan, local_copies, threads)


def download_addon(addon: Addon, folder: Path, threads: int = THREADS) -> Lock:
    """Downloads one add-on with a progress bar.

    Args:
        addon: The add-on.
        folder: `MODELS_DIR`.
        threads: Files that are downloaded at once.

    Raises:
        DownloadError: The download is incomplete. Another run resumes it.
    """
    target = folder / addon.target
    if (lock := verified_lock(addon.repo, addon.revision, target)) is not None:
        _announce(addon.target, addon.repo, lock.revision, addon.licence)
        return _complete(addon.target, lock)
    published = find_published_addon(addon)
    _announce(addon.target, addon.repo, published.revision, addon.licence)
    if addon.revision is None:
        print(f"{addon.target}: the catalogue knows no revision of it, so this is the latest; its lock file keeps it.")
    return _run(addon.target, plan_download(published, target), (), threads)


def _announce(name: str, repo: str, revision: str | None, licence: str) -> None:
    print(f"{name}: {repo} at {revision}, licence {licence}", flush=True)


def _complete(name: str, lock: Lock) -> Lock:
    print(f"{name}: complete and verified against its lock file. Nothing to do.")
    return lock


def _run(name: str, plan: DownloadPlan, local_copies: Sequence[Path], threads: int) -> Lock:
    with _progress_bar(name, plan.bytes, plan.received) as advance:
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
    features = ", ".join(dict.fromkeys(addon.feature for addon in ADDONS))
    parser.add_argument("--with", dest="features", type=_names, default=(), metavar="FEATURES", help=f"add-ons: {features}, or all")
    parser.add_argument("--threads", type=int, default=THREADS, metavar="N", help=f"files at once (default {THREADS})")
    parser.add_argument("--checkpoint", metavar="URL-OR-PATH", help="a custom SDXL checkpoint, one .safetensors file")
    parser.add_argument("--sha256", metavar="HEX", type=str.lower, help="the expected hash of the checkpoint")
    parser.add_argument("--licence", metavar="TEXT", default="not stated", help="the checkpoint's licence, recorded in its lock file")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def main(arguments: list[str] | None = None, catalogue: Sequence[Addon] = ADDONS) -> int:
    """Runs the command line and returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.names and not options.checkpoint and not options.features:
        parser.error("a NAME, --with or --checkpoint is required")
    enable_hub_access()
    _silence_hub_warnings()
    try:
        settings = load_settings()
        folder = options.to or settings.models_dir
        selected = select_weights(options.names)
        addons = select_addons(options.features, sorted({weights.used_by for weights in selected}), catalogue)
        for weights in selected:
            _report(folder / weights.name, download(weights, folder / weights.name, settings, options.threads))
        for addon in addons:
            _report(folder / addon.target, download_addon(addon, folder, options.threads))
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
