"""References that are hostile, broken or slow."""

from __future__ import annotations

import base64
import gzip
import random
import ssl
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import trustme
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from shared.media.images import UnreadableImage, open_image
from tests.chaos.faults.registry import fault
from tests.chaos.faults.world import URL_TOKEN, World, sdxl, with_fields
from tests.doubles.reference_host import Behaviour, ReferenceHost, answers, drips, hangs, pours, redirects, resets, stops_short

ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
NOT_PUBLIC = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.1.1", "100.100.100.200", "168.63.129.16", "[::1]", "[::ffff:127.0.0.1]"]
NOT_PUBLIC += ["[64:ff9b::7f00:1]", "[fe80::1]", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "localhost", "localhost.", "127。0。0。1"]
TARGETS = ("https://127.0.0.1/a.png", "https://169.254.169.254/", "file:///etc/passwd", "http://example.com/a.png", "//127.0.0.1/a.png")
BAD_DATA = {
    "data:image/png;base64,%%%": "not base64",
    "data:text/html;base64,PGh0bWw+": "must begin with",
    "data:image/png;base64," + "A" * 4_000_000: "more than",
    "data:,x": "must begin with",
}
"""URLs, and why each is refused."""
PUBLIC = "93.184.216.34"  # never contacted: the worker's own hook lets no connection out

TOO_MUCH = (
    pours(ENDLESS, b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    answers(b"x", headers={"Content-Length": str(99 * 10**9)}),
    pours(b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 65536),
    answers(b"x" * (2 * 1024**2 + 1)),
)
SLOW = {
    "body": drips(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x"),
    "headers": drips(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "no": hangs,
}


def referring(job_id: str, url: str) -> dict[str, Any]:
    """A job that starts from a reference."""
    return with_fields(sdxl(job_id), metadata={"reference_image_url": url, "reference_mode": "modify"})


def refused(world: World, job_id: str, url: str, *, retryable: bool = False) -> str:
    """The reason for which a reference is not used."""
    output = world.do(referring(job_id, url), refused=True)
    assert (output["metadata"].get("error_code"), output["metadata"].get("retryable")) == ("REFERENCE_IMAGE_ERROR", retryable), output[
        "error_message"
    ]
    assert URL_TOKEN not in output["error_message"]
    message: str = output["error_message"]
    return message


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(format: str = "PNG") -> bytes:
    """A real one."""
    return saved(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)), format)


def no_pictures() -> list[bytes]:
    """Bodies that are called a picture."""
    bodies = [b"<html>", b"{}", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0\0\0\x18ftypmp42", b"", random.Random(0).randbytes(4096)]
    bodies += [saved(Image.new("RGB", (64, 64)), format) for format in ("GIF", "TIFF", "BMP", "PPM", "ICO")]
    return [*bodies, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"SIMPLE  =  T"]


def troubles() -> list[Behaviour]:
    """What a host of pictures may do once, and then not again."""
    return [stops_short(picture()), resets, answers(b"", status=429), answers(b"", status=503)]


@fault("F09", "Addresses that are not public, in every notation", "no connection is made")
def _(world: World) -> None:
    before = len(world.worker().connections)
    for index, host in enumerate(NOT_PUBLIC):
        refused(world, f"F09-{index}", f"https://{host}/a.png?token={URL_TOKEN}")
    assert all("169.254" not in line for line in world.worker().connections[before:])


UNSTEADY = {"mixed.test": [[PUBLIC, "127.0.0.1"]], "rebinding.test": [[PUBLIC], ["127.0.0.1"]]}
"""Names, and the addresses that each look-up finds."""


@fault("F10", "A name with a public and a private address; one that changes from public to private", "refused where the connection is made")
def _(world: World) -> None:
    world.worker().names(UNSTEADY)
    for name in UNSTEADY:
        assert "not public" in refused(world, f"F10-{name.partition('.')[0]}", f"https://{name}/a.png")


@fault("F11", "Redirects to private addresses, to `file:`, to http, in a loop, too many", "refused")
def _(world: World) -> None:
    for index, target in enumerate(TARGETS):
        refused(world, f"F11-{index}", world.storage.serve(f"/refs/to-{index}", redirects(target)))
    loop = world.storage.serve("/refs/loop", redirects("/refs/loop"))
    assert "redirected more than" in refused(world, "F11-loop", loop)


@fault("F12", "A body without end; 99 GB that are announced; no length; a byte too many", "stopped at the limit, in little memory")
def _(world: World) -> None:
    worker = world.worker()
    worker.forget_peak()
    before = worker.memory()
    for index, body in enumerate(TOO_MUCH):
        assert "more than" in refused(world, f"F12-{index}", world.storage.serve(f"/refs/large-{index}", body))
    assert worker.memory("VmHWM") - before < 50 * 2**20


@fault("F13", "A body and headers that drip, byte by byte; a host that never answers", "ended by the total deadline")
def _(world: World) -> None:
    for name, behaviour in SLOW.items():
        assert "in time" in refused(world, f"F13-{name}", world.storage.serve(f"/refs/slow-{name}", behaviour), retryable=True)


@cache
def encoded() -> tuple[Behaviour, ...]:
    """A bomb, an encoding that is none, and a picture that nobody asked to be packed."""
    bodies = ((gzip.compress(bytes(200 * 2**20), 1), "gzip"), (picture(), "br"), (picture(), "gzip"))
    return tuple(answers(body, headers={"Content-Encoding": encoding}) for body, encoding in bodies)


@fault("F14", "A gzip bomb; an encoding that is none", "refused unread: nothing encoded was asked for")
def _(world: World) -> None:
    worker = world.worker()
    worker.forget_peak()
    before = worker.memory()
    for index, behaviour in enumerate(encoded()):
        assert "encoding" in refused(world, f"F14-{index}", world.storage.serve(f"/refs/encoded-{index}", behaviour))
    assert worker.memory("VmHWM") - before < 50 * 2**20


@contextmanager
def https_host(world: World, certificate: trustme.LeafCert) -> Iterator[str]:
    """A picture at `https://pictures.test`, whose host shows this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with ReferenceHost(tls=context) as host:
        host.serve("/a.png", answers(picture()))
        world.worker().names({"pictures.test": [[PUBLIC]]})
        world.worker().lead(PUBLIC, host.port)
        yield f"https://pictures.test/a.png?token={URL_TOKEN}"


def bad_certificates(world: World) -> dict[str, trustme.LeafCert]:
    """For another name, of the past, of an authority that nobody knows."""
    now = datetime.now(UTC)
    began, ended = now - timedelta(days=9), now - timedelta(days=1)
    return {
        "other": world.authority.issue_cert("other.test"),
        "expired": world.authority.issue_cert("pictures.test", not_before=began, not_after=ended),
        "unknown": trustme.CA().issue_cert("pictures.test"),
    }


@fault(
    "F15",
    "Bodies cut short and connections reset, 429 and 503 and then the picture; 401, 403, 404, 410; certificates for another name, of the past, "
    "of an authority that nobody knows",
    "tried again, or refused for good",
)
def _(world: World) -> None:
    for index, trouble in enumerate(troubles()):
        output = world.do(referring(f"F15-{index}", world.storage.serve(f"/refs/then-{index}", trouble, answers(picture()))))
        assert output["status"] == "completed", output["error_message"]
    for status in (401, 403, 404, 410):
        url = world.storage.serve(f"/refs/{status}", answers(b"", status=status)) + f"?token={URL_TOKEN}"
        assert str(status) in refused(world, f"F15-{status}", url)
    for name, certificate in bad_certificates(world).items():
        with https_host(world, certificate) as url:
            assert "no valid certificate" in refused(world, f"F15-{name}", url)
    with https_host(world, world.authority.issue_cert("pictures.test")) as url:
        assert world.do(referring("F15-valid", url))["status"] == "completed"


@fault("F16", "HTML, JSON, SVG, MP4, GIF, TIFF, BMP, nothing, random bytes, all called `image/png`", "refused by what they are")
def _(world: World) -> None:
    for index, body in enumerate(no_pictures()):
        refused(world, f"F16-{index}", world.storage.serve(f"/refs/odd-{index}", answers(body, headers={"Content-Type": "image/png"})))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, rows: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))  # grey
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


@cache
def bombs() -> tuple[tuple[bytes, str], ...]:
    """Small files that are large pictures or long texts, and why each is refused."""
    zeros = zlib.compress(bytes(13_000 + 1) * 13_000)  # 164 kB
    text = PngInfo()
    text.add_text("comment", "x" * 5_000_000, zip=True)
    long = saved(Image.new("RGB", (64, 64)), pnginfo=text)
    return (_png(50_000, 50_000, b""), "pixels"), (_png(13_000, 13_000, zeros), "pixels"), (long, "damaged")


@fault(
    "F17",
    "Pictures of 50 000 × 50 000 and of 13 000 × 13 000 in a few kilobytes, 5 MB of text, an animation",
    "refused, or the first frame; in little memory",
)
def _(world: World) -> None:
    worker = world.worker()
    worker.forget_peak()
    before = worker.memory()
    for index, (bomb, reason) in enumerate(bombs()):
        assert reason in refused(world, f"F17-{index}", world.storage.serve(f"/refs/bomb-{index}", answers(bomb)))
    frames = [Image.new("RGB", (64, 64), (shade, 0, 0)) for shade in (10, 200)]
    moving = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    assert world.do(referring("F17-moving", world.storage.serve("/refs/moving", answers(moving))))["status"] == "completed"
    assert worker.memory("VmHWM") - before < 300 * 2**20


@fault(
    "F18", "Pictures that are cut off or have flipped bits, from 300 seeds", "our own refusal, or a picture; nothing else leaves the opener"
)
def _(world: World) -> None:
    for seed in range(300):
        chance = random.Random(seed)
        content = bytearray(picture(("PNG", "JPEG", "WEBP")[seed % 3]))
        for _ in range(chance.randint(1, 8)):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        try:
            assert open_image(bytes(content[: chance.randint(1, len(content))])).mode == "RGB"
        except UnreadableImage:
            continue
    for format in ("PNG", "JPEG", "WEBP"):
        refused(world, f"F18-{format}", world.storage.serve(f"/refs/cut-{format}", answers(picture(format)[:200])))


def legal_pictures() -> list[bytes]:
    """Odd ones: 16 bits, CMYK, turned by EXIF, 1 bit, a palette, alpha, grey, with a profile."""
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    made = [saved(Image.fromarray(np.full((64, 64), 40_000, np.uint16))), saved(Image.new("CMYK", (64, 64)), "JPEG")]
    made += [saved(Image.new("RGB", (64, 64)), "JPEG", exif=exif)]
    made += [saved(Image.new(mode, (64, 64))) for mode in ("1", "P", "LA", "RGBA", "L")]
    return [*made, saved(Image.new("RGB", (64, 64)), icc_profile=profile)]


@fault(
    "F19",
    "CMYK, 16 bits, 1 bit, palettes, alpha, turned by EXIF, a profile; 1 × 1 and 16 × 2 000",
    "used as they look, or refused for their shape",
)
def _(world: World) -> None:
    legal = legal_pictures()
    for index, content in enumerate(legal):
        assert world.do(referring(f"F19-{index}", world.storage.serve(f"/refs/legal-{index}", answers(content))))["status"] == "completed"
    assert 150 < np.asarray(open_image(legal[0])).mean() < 160, "16 bits are scaled, not clipped to white"
    for size in ((1, 1), (16, 2000)):
        refused(world, f"F19-{size[0]}", world.storage.serve(f"/refs/shape-{size[0]}", answers(saved(Image.new("RGB", size)))))


@fault("F20", "`data:` URLs: a picture, bad base64, too much of it, HTML", "through the same opener, or refused")
def _(world: World) -> None:
    good = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"
    assert world.do(referring("F20-good", good))["status"] == "completed"
    for index, (url, reason) in enumerate(BAD_DATA.items()):
        assert reason in refused(world, f"F20-{index}", url)
