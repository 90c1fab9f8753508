"""Reference images from hosts that are hostile, broken or slow."""

from __future__ import annotations

import base64
import gzip
import random
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import trustme
from PIL import Image

from shared.media.containers import UnreadableImage
from shared.media.images import open_image
from tests.chaos.fault_injection.harness import URL_TOKEN, Harness, sdxl, with_fields
from tests.chaos.fault_injection.image_files import (
    animation,
    decompression_bombs,
    encode,
    image_bytes,
    image_with_long_text,
    non_images,
    unusual_images,
)
from tests.chaos.fault_injection.registry import fault
from tests.doubles.image_server import Behaviour, ImageServer, answers, drips, floods, hangs, redirects, resets, stops_short

ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
NON_PUBLIC_HOSTS = [
    "127.0.0.1",
    "10.0.0.1",
    "169.254.169.254",
    "192.168.1.1",
    "100.100.100.200",
    "168.63.129.16",
    "[::1]",
    "[::ffff:127.0.0.1]",
]
NON_PUBLIC_HOSTS += [
    "[64:ff9b::7f00:1]",
    "[fe80::1]",
    "2130706433",
    "0x7f.1",
    "127.1",
    "0177.0.0.1",
    "localhost",
    "localhost.",
    "127。0。0。1",
]
REDIRECT_TARGETS = (
    "https://127.0.0.1/a.png",
    "https://169.254.169.254/",
    "file:///etc/passwd",
    "http://example.com/a.png",
    "//127.0.0.1/a.png",
)
INVALID_DATA_URLS = {
    "data:image/png;base64,%%%": "not base64",
    "data:text/html;base64,PGh0bWw+": "must start with",
    "data:image/png;base64," + "A" * 4_000_000: "more than",
    "data:,x": "must start with",
}
"""URLs, and a part of the message that rejects each."""
PUBLIC_ADDRESS = "93.184.216.34"  # never contacted: the worker's audit hook refuses it

OVERSIZED_BODIES = (
    floods(ENDLESS, b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    answers(b"x", headers={"Content-Length": str(99 * 10**9)}),
    floods(b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 65536),
    answers(b"x" * (2 * 1024**2 + 1)),
)
SLOW_HOSTS = {
    "body": drips(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x"),
    "headers": drips(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "no": hangs,
}


def job_with_reference(job_id: str, url: str) -> dict[str, Any]:
    """Returns an image-to-image job."""
    return with_fields(sdxl(job_id), metadata={"reference_image_url": url, "reference_mode": "modify"})


def reject(harness: Harness, job_id: str, url: str, *, retryable: bool = False) -> str:
    """Asserts that a job with this reference is rejected, and returns the message."""
    output = harness.run_job(job_with_reference(job_id, url), rejected=True)
    message: str = output["error_message"]
    assert (output["metadata"].get("error_code"), output["metadata"].get("retryable")) == ("REFERENCE_IMAGE_ERROR", retryable), message
    assert URL_TOKEN not in message
    return message


def transient_failures() -> list[Behaviour]:
    """Returns failures of an image server that a retry survives."""
    return [stops_short(image_bytes()), resets, answers(b"", status=429), answers(b"", status=503)]


@fault("F09", "Non-public addresses in every notation", "no connection is made")
def _(harness: Harness) -> None:
    before = len(harness.worker().connections)
    for index, host in enumerate(NON_PUBLIC_HOSTS):
        reject(harness, f"F09-{index}", f"https://{host}/a.png?token={URL_TOKEN}")
    assert all("169.254" not in line for line in harness.worker().connections[before:])


REBINDING_NAMES = {"mixed.test": [[PUBLIC_ADDRESS, "127.0.0.1"]], "rebinding.test": [[PUBLIC_ADDRESS], ["127.0.0.1"]]}
"""Names, and the addresses that each lookup returns."""


@fault("F10", "A name with a public and a private address; DNS rebinding", "rejected at connection time")
def _(harness: Harness) -> None:
    harness.worker().set_dns(REBINDING_NAMES)
    for name in REBINDING_NAMES:
        assert "not public" in reject(harness, f"F10-{name.partition('.')[0]}", f"https://{name}/a.png")


@fault("F11", "Redirects to private addresses, to `file:`, to http, in a loop, too many", "rejected")
def _(harness: Harness) -> None:
    for index, target in enumerate(REDIRECT_TARGETS):
        reject(harness, f"F11-{index}", harness.storage.serve(f"/refs/to-{index}", redirects(target)))
    loop = harness.storage.serve("/refs/loop", redirects("/refs/loop"))
    assert "redirects more than" in reject(harness, "F11-loop", loop)


@fault(
    "F12",
    "An endless body; a `Content-Length` of 99 GB; no length; one byte too many",
    "stopped at the limit without allocating much memory",
)
def _(harness: Harness) -> None:
    worker = harness.worker()
    worker.reset_peak_memory()
    before = worker.memory()
    for index, body in enumerate(OVERSIZED_BODIES):
        assert "more than" in reject(harness, f"F12-{index}", harness.storage.serve(f"/refs/large-{index}", body))
    assert worker.memory("VmHWM") - before < 50 * 2**20


@fault("F13", "A body and headers sent byte by byte; a host that never responds", "ended by the total deadline")
def _(harness: Harness) -> None:
    for name, behaviour in SLOW_HOSTS.items():
        assert "timed out" in reject(harness, f"F13-{name}", harness.storage.serve(f"/refs/slow-{name}", behaviour), retryable=True)


@cache
def encoded_bodies() -> tuple[Behaviour, ...]:
    """Returns a gzip bomb, a body that is not of its declared encoding, and an image compressed without being requested."""
    bodies = ((gzip.compress(bytes(200 * 2**20), 1), "gzip"), (image_bytes(), "br"), (image_bytes(), "gzip"))
    return tuple(answers(body, headers={"Content-Encoding": encoding}) for body, encoding in bodies)


@fault("F14", "A gzip bomb; a wrong `Content-Encoding`", "rejected without reading the body")
def _(harness: Harness) -> None:
    worker = harness.worker()
    worker.reset_peak_memory()
    before = worker.memory()
    for index, behaviour in enumerate(encoded_bodies()):
        assert "encoding" in reject(harness, f"F14-{index}", harness.storage.serve(f"/refs/encoded-{index}", behaviour))
    assert worker.memory("VmHWM") - before < 50 * 2**20


@contextmanager
def https_server(harness: Harness, certificate: trustme.LeafCert) -> Iterator[str]:
    """Serves an image at `https://images.test` with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with ImageServer(tls=context) as host:
        host.serve("/a.png", answers(image_bytes()))
        harness.worker().set_dns({"images.test": [[PUBLIC_ADDRESS]]})
        harness.worker().route(PUBLIC_ADDRESS, host.port)
        yield f"https://images.test/a.png?token={URL_TOKEN}"


def invalid_certificates(harness: Harness) -> dict[str, trustme.LeafCert]:
    """Returns certificates for another name, expired, and of an unknown authority."""
    now = datetime.now(UTC)
    return {
        "other": harness.authority.issue_cert("other.test"),
        "expired": harness.authority.issue_cert("images.test", not_before=now - timedelta(days=9), not_after=now - timedelta(days=1)),
        "unknown": trustme.CA().issue_cert("images.test"),
    }


@fault(
    "F15",
    "Truncated bodies, resets, 429 and 503, then the image; 401, 403, 404, 410; expired, untrusted or wrong certificates",
    "retried, or rejected as not retryable",
)
def _(harness: Harness) -> None:
    for index, failure in enumerate(transient_failures()):
        output = harness.run_job(
            job_with_reference(f"F15-{index}", harness.storage.serve(f"/refs/then-{index}", failure, answers(image_bytes())))
        )
        assert output["status"] == "completed", output["error_message"]
    for status in (401, 403, 404, 410):
        url = harness.storage.serve(f"/refs/{status}", answers(b"", status=status)) + f"?token={URL_TOKEN}"
        assert str(status) in reject(harness, f"F15-{status}", url)
    for name, certificate in invalid_certificates(harness).items():
        with https_server(harness, certificate) as url:
            assert "no valid certificate" in reject(harness, f"F15-{name}", url)
    with https_server(harness, harness.authority.issue_cert("images.test")) as url:
        assert harness.run_job(job_with_reference("F15-valid", url))["status"] == "completed"


@fault("F16", "HTML, JSON, SVG, MP4, GIF, TIFF, BMP, an empty body, random bytes, all declared as `image/png`", "rejected by content")
def _(harness: Harness) -> None:
    for index, body in enumerate(non_images()):
        reject(harness, f"F16-{index}", harness.storage.serve(f"/refs/other-{index}", answers(body, headers={"Content-Type": "image/png"})))


@fault(
    "F17",
    "Decompression bombs: 50 000 × 50 000 and 13 000 × 13 000 pixels in a few kilobytes; a comment of 5 MB; an animation",
    "bombs are rejected, the comment is skipped, the first frame is used; without allocating much memory",
)
def _(harness: Harness) -> None:
    worker = harness.worker()
    worker.reset_peak_memory()
    before = worker.memory()
    for index, bomb in enumerate(decompression_bombs()):
        assert "pixels" in reject(harness, f"F17-{index}", harness.storage.serve(f"/refs/bomb-{index}", answers(bomb)))
    for name, content in (("text", image_with_long_text()), ("animation", animation())):
        output = harness.run_job(job_with_reference(f"F17-{name}", harness.storage.serve(f"/refs/{name}", answers(content))))
        assert output["status"] == "completed", output["error_message"]
    assert worker.memory("VmHWM") - before < 300 * 2**20


@fault(
    "F18", "Images that are truncated or have flipped bits, from 300 seeds", "decoded, or rejected; the decoder's own errors do not escape"
)
def _(harness: Harness) -> None:
    for seed in range(300):
        chance = random.Random(seed)
        content = bytearray(image_bytes(("PNG", "JPEG", "WEBP")[seed % 3]))
        for _ in range(chance.randint(1, 8)):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        try:
            assert open_image(bytes(content[: chance.randint(1, len(content))])).mode == "RGB"
        except UnreadableImage:
            continue
    for format in ("PNG", "JPEG", "WEBP"):
        reject(harness, f"F18-{format}", harness.storage.serve(f"/refs/truncated-{format}", answers(image_bytes(format)[:200])))


@fault(
    "F19",
    "CMYK, 16 bits, 1 bit, palettes, alpha, rotated by EXIF, a colour profile; 1 × 1 and 16 × 2 000 pixels",
    "decoded as they look, or rejected for their size",
)
def _(harness: Harness) -> None:
    images = unusual_images()
    for index, content in enumerate(images):
        url = harness.storage.serve(f"/refs/unusual-{index}", answers(content))
        assert harness.run_job(job_with_reference(f"F19-{index}", url))["status"] == "completed"
    assert 150 < np.asarray(open_image(images[0])).mean() < 160, "16 bits are scaled, not clipped to white"
    for size in ((1, 1), (16, 2000)):
        reject(harness, f"F19-{size[0]}", harness.storage.serve(f"/refs/size-{size[0]}", answers(encode(Image.new("RGB", size)))))


@fault("F20", "`data:` URLs: an image, invalid base64, too large, HTML", "decoded like a download, or rejected")
def _(harness: Harness) -> None:
    valid = f"data:image/png;base64,{base64.b64encode(image_bytes()).decode()}"
    assert harness.run_job(job_with_reference("F20-valid", valid))["status"] == "completed"
    for index, (url, reason) in enumerate(INVALID_DATA_URLS.items()):
        assert reason in reject(harness, f"F20-{index}", url)
