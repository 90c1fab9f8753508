"""Makes this machine's pip configuration available to an image build: index mirrors, certificates, local package folders."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def pip_options(scratch: Path) -> list[str]:
    """Returns options of `podman build` and `buildah build` that mount pip's configuration and every local path it names.

    The mounts exist during the build only and do not become part of the image.

    Args:
        scratch: A folder for the generated `pip.conf`.
    """
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    settings = dict(re.findall(r"^(?:global|:env:)\.([a-z-]+)='(.*)'$", listed, flags=re.MULTILINE))
    configuration = scratch / "pip.conf"
    configuration.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    words = [word for value in settings.values() for word in value.split()]
    # An index page links to files in its own folder.
    named = {Path(word.removeprefix("file://")).parent if word.startswith("file://") else Path(word) for word in words}
    local = sorted(path for path in named if path.is_absolute() and path.exists())
    mounts = {configuration: Path("/etc/pip.conf"), **{path: path for path in local}}
    return [part for source, target in mounts.items() for part in ("--volume", f"{source}:{target}:ro")]
