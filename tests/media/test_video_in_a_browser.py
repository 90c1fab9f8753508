"""A clip plays where people watch it: in a browser, before the whole of it has arrived."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from shared.media.extras import extra_path, passing
from shared.media.videos import write_video

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FRAMES, FPS, WIDTH, HEIGHT = 33, 16, 160, 96
PAGE = b"""<!doctype html><video id="clip" muted src="/clip.mp4"></video><pre id="said"></pre><script>
const clip = document.getElementById("clip"), said = document.getElementById("said");
for (const event of ["loadedmetadata", "loadeddata", "error"]) clip.addEventListener(event, () => {
  said.textContent += `${event} ${clip.videoWidth}x${clip.videoHeight} ${clip.duration} `;
});
</script>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")


class Site(http.server.ThreadingHTTPServer):
    """Serves the page, and the first bytes of the clip. The rest never comes."""

    daemon_threads = True

    def __init__(self, clip: bytes, sent: int, kind: str) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.clip = clip
        self.sent = sent
        self.kind = kind
        self.over = threading.Event()


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        site = self.server
        assert isinstance(site, Site)
        body, kind = (site.clip, site.kind) if self.path == "/clip.mp4" else (PAGE, "text/html")
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind == site.kind:
            body = body[: site.sent]
        self.wfile.write(body)
        self.wfile.flush()
        if len(body) < len(site.clip) and kind == site.kind:
            site.over.wait(30)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextmanager
def served(clip: bytes, share: float, kind: str = "video/mp4") -> Iterator[str]:
    site = Site(clip, int(len(clip) * share), kind)
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{site.server_port}/"
    finally:
        site.over.set()
        site.shutdown()
        site.server_close()
        thread.join()


def watch(url: str, profile: Path) -> str:
    """What the page says after some seconds of the browser's own time."""
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required", f"--user-data-dir={profile}",
        "--timeout=4000", "--dump-dom",
    ]  # fmt: skip
    assert BROWSER is not None
    page = subprocess.run([BROWSER, *flags, url], capture_output=True, text=True, timeout=60, check=True).stdout
    said = re.search(r'<pre id="said">(.*?)</pre>', page)
    assert said is not None, page
    return said[1]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "0.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    write_video(iter(noise), path, fps=FPS)
    return path.read_bytes()


def test_a_browser_reads_its_size_and_its_duration(clip: bytes, tmp_path: Path) -> None:
    with served(clip, 1.0) as url:
        said = watch(url, tmp_path)
    assert f"loadedmetadata {WIDTH}x{HEIGHT} {FRAMES / FPS}" in said
    assert "error" not in said


def test_it_starts_before_it_is_fully_loaded(clip: bytes, tmp_path: Path) -> None:
    with served(clip, 0.5) as url:
        said = watch(url, tmp_path)
    assert f"loadeddata {WIDTH}x{HEIGHT} {FRAMES / FPS}" in said


def test_a_browser_plays_the_webm_beside_it_too(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for _ in passing(iter(noise), ["webm"], tmp_path, fps=FPS):
        pass
    with served(extra_path(tmp_path, "webm").read_bytes(), 1.0, "video/webm") as url:
        said = watch(url, tmp_path / "profile")
    assert re.search(rf"loadeddata {WIDTH}x{HEIGHT} {FRAMES / FPS:.2f}", said)
    assert "error" not in said
