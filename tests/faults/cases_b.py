"""References that are hostile, broken or slow."""

from __future__ import annotations

from tests.doubles.reference_host import pours
from tests.faults.registry import fault
from tests.faults.world import World, sdxl, with_fields

ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"


def referring(job_id: str, url: str) -> dict[str, object]:
    """A job that starts from a reference."""
    return with_fields(sdxl(job_id), metadata={"reference_image_url": url, "reference_mode": "modify"})


@fault("F12", "A body without end", "it is stopped at the limit, and memory stays bounded")
def _(world: World) -> None:
    url = world.storage.serve("/refs/endless.png", pours(ENDLESS, b"10000\r\n" + b"x" * 65536 + b"\r\n"))
    worker = world.worker()
    worker.forget_peak()
    before = worker.memory()
    output = world.do(referring("F12", url), refused=True)
    assert output["metadata"]["error_code"] == "REFERENCE_IMAGE_ERROR"
    assert "more than" in output["error_message"]
    assert worker.memory("VmHWM") - before < 50 * 2**20
