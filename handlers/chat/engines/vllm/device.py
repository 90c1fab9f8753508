"""What payloads report about the device, asked of the driver: torch, which the other engines ask, is in vLLM's environment only."""

from __future__ import annotations

import re
import subprocess

from pydantic import JsonValue

_QUERY = ("nvidia-smi", "--query-gpu=name,memory.used,memory.total", "--format=csv,noheader,nounits")
_LINE = re.compile(r"(?P<name>.+), (?P<used>\d+), (?P<total>\d+)$", re.MULTILINE)
_TIMEOUT = 30.0  # seconds; the first call may have to start the driver


def describe_gpu() -> dict[str, JsonValue]:
    """Returns the name of the first GPU and its memory in MiB, as `shared.models.device.describe_device` does; empty if it is unknown.

    `vram_used` is what is in use now. vLLM reserves its memory when it starts, so that does not change.
    """
    try:
        output = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_TIMEOUT, check=True).stdout
    except FileNotFoundError:
        return {"device": "cpu", "vram_used": 0, "vram_total": 0}
    except (OSError, subprocess.SubprocessError):
        return {}
    if (match := _LINE.match(output)) is None:
        return {}
    return {"device": match["name"], "vram_used": int(match["used"]), "vram_total": int(match["total"])}
