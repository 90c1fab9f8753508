"""Playback of clips in Chromium, also before the download ends."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from playground.loopback import LoopbackServer, RequestHandler
from shared.media.extras import extra_path, tee_extras
from shared.media.videos import write_video

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FRAMES, FPS, WIDTH, HEIGHT = 33, 16, 160, 96
PAGE = b"""<!doctype html><video id="clip" muted src="/clip.mp4"></video><pre id="events"></pre><script>
const clip = document.getElementById("clip"), log = document.getElementById("events");
for (const event of ["loadedmetadata", "loadeddata", "error"]) clip.addEventListener(event, () => {
  log.textContent += `${event} ${clip.videoWidth}x${clip.videoHeight} ${clip.duration} `;
});
</script>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")


class Site(LoopbackServer):
    """Serves the page and the first part of the clip. The rest is never sent."""

    def __init__(self, clip: bytes, share: float, kind: str = "video/mp4") -> None:
        super().__init__(_Request)
        self.clip, self.sent, self.kind = clip, clip[: int(len(clip) * share)], kind


class _Request(RequestHandler[Site]):
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        site = self.service
        if self.path != "/clip.mp4":
            self.respond(200, PAGE, "text/html")
            return
        self.send_head(200, {"Content-Type": site.kind, "Content-Length": str(len(site.clip))})
        self.wfile.write(site.sent)
        self.wfile.flush()
        if len(site.sent) < len(site.clip):
            site.closing.wait(100)


def watch(url: str, profile: Path) -> str:
    """Returns the events that the page recorded until it was loaded, which waits for the first frame."""
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required", f"--user-data-dir={profile}",
        "--timeout=50000", "--dump-dom",
    ]  # fmt: skip
    assert BROWSER is not None
    page = subprocess.run([BROWSER, *flags, url], capture_output=True, text=True, timeout=100, check=True).stdout
    events = re.search(r'<pre id="events">(.*?)</pre>', page)
    assert events is not None, page
    return events[1]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "0.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    write_video(iter(noise), path, fps=FPS)
    return path.read_bytes()


def test_browser_reads_size_and_duration(clip: bytes, tmp_path: Path) -> None:
    with Site(clip, 1.0) as site:
        events = watch(site.url, tmp_path)
    assert f"loadedmetadata {WIDTH}x{HEIGHT} {FRAMES / FPS}" in events
    assert "error" not in events


def test_playback_starts_before_the_download_ends(clip: bytes, tmp_path: Path) -> None:
    with Site(clip, 0.5) as site:
        events = watch(site.url, tmp_path)
    assert f"loadeddata {WIDTH}x{HEIGHT} {FRAMES / FPS}" in events


def test_browser_plays_the_webm(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for _ in tee_extras(iter(noise), ["webm"], tmp_path, fps=FPS):
        pass
    with Site(extra_path(tmp_path, "webm").read_bytes(), 1.0, "video/webm") as site:
        events = watch(site.url, tmp_path / "profile")
    assert re.search(rf"loadeddata {WIDTH}x{HEIGHT} {FRAMES / FPS:.2f}", events)
    assert "error" not in events
