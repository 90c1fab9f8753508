"""What a build needs of this machine: where pip gets its packages from here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def pip_options(scratch: Path) -> list[str]:
    """Options of a build that hand pip's settings on, with the local folders that they name. Nothing of it enters an image.

    Args:
        scratch: A folder for a file with these settings.
    """
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    settings = dict(re.findall(r"^(?:global|:env:)\.([a-z-]+)='(.*)'$", listed, flags=re.MULTILINE))
    configuration = scratch / "pip.conf"
    configuration.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    words = [word for value in settings.values() for word in value.split()]
    # The pages of an index link to files beside it.
    named = {Path(word.removeprefix("file://")).parent if word.startswith("file://") else Path(word) for word in words}
    local = sorted(path for path in named if path.is_absolute() and path.exists())
    mounts = {configuration: Path("/etc/pip.conf"), **{path: path for path in local}}
    return [part for source, target in mounts.items() for part in ("--volume", f"{source}:{target}:ro")]
