"""Fixtures that build and run the container images with buildah, without a daemon, a registry or namespaces."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.images.base_image import TAG as BASE_IMAGE
from builder.images.base_image import make_base_image
from builder.images.build import image_tag, version
from builder.images.container_engine import build_command
from builder.images.pip_settings import pip_options
from handlers import HANDLERS
from tests.doubles.processes import ROOT

_STORAGE = ROOT / ".images"


@dataclass(frozen=True)
class Layer:
    """One layer of an image: the digest of its content, its size in bytes, and the build step that created it."""

    digest: str
    size: int
    created_by: str

    @property
    def step(self) -> str:
        """An abbreviated build step."""
        noise = r"^\|\d+ |\b[A-Z_]+=\S+ |--mount=\S+ |/bin/sh -c |#\(nop\) |\b(file|dir):\w+ in "
        return " ".join(re.sub(noise, "", self.created_by).split())[:90] or "base image"


class Image:
    """A built image."""

    def __init__(self, images: Images, tag: str) -> None:
        self._images = images
        self.tag = tag
        self.config: dict[str, Any] = json.loads(images.buildah("inspect", "--type", "image", tag).stdout)

    @property
    def layers(self) -> list[Layer]:
        """The layers, base first."""
        sizes = self._images.layer_sizes()
        digests = self.config["OCIv1"]["rootfs"]["diff_ids"]
        created_by = [step.get("created_by", "") for step in self.config["OCIv1"]["history"] if not step.get("empty_layer")]
        return [Layer(digest, sizes[digest], step) for digest, step in zip(digests, created_by, strict=True)]

    @property
    def command(self) -> list[str]:
        """Its default command."""
        return list(self.config["OCIv1"]["config"]["Cmd"])


class Container:
    """A container: a root file system created from an image."""

    def __init__(self, images: Images, image: Image) -> None:
        self._images, self._image = images, image
        self.name = images.buildah("from", "--pull-never", image.tag).stdout.strip()
        self.root = Path(images.buildah("mount", self.name).stdout.strip())

    def run(self, *command: str, mounts: Mapping[Path, str] | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a command, by default that of the image."""
        volumes = [part for source, target in (mounts or {}).items() for part in ("--volume", f"{source}:{target}")]
        variables = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        options = ["run", "--isolation", "chroot", *volumes, *variables, self.name, "--"]
        return self._images.buildah(*options, *(command or self._image.command), check=False)


class Images:
    """Builds images in a storage folder of this checkout."""

    def __init__(self, scratch: Path) -> None:
        _STORAGE.mkdir(exist_ok=True)
        self.storage = ["--root", str(_STORAGE / "root"), "--runroot", str(_STORAGE / "run")]
        self._pip = pip_options(scratch)
        make_base_image(self.storage)

    def buildah(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a buildah command on this storage."""
        done = subprocess.run(["buildah", *self.storage, *arguments], capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def try_build(self, handler: str, context: Path, tag: str, *options: str, **arguments: str) -> subprocess.CompletedProcess[str]:
        """Builds an image like `make image`, with this machine's pip settings."""
        build_arguments = {"BASE_IMAGE": BASE_IMAGE, "HANDLER": handler, "VERSION": version(), "TORCH": "cpu"} | arguments
        command = build_command(
            "buildah", context, tag, build_arguments, ["--pull-never", *self._pip, *options], global_options=self.storage
        )
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def build(self, handler: str, context: Path = ROOT, tag: str = "", *options: str, **arguments: str) -> Image:
        """Builds an image and fails if the build fails."""
        name = tag or f"localhost/{image_tag(handler)}"
        done = self.try_build(handler, context, name, *options, **arguments)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return Image(self, name)

    def layer_sizes(self) -> dict[str, int]:
        """Returns the size in bytes of every layer by digest."""
        (index,) = (_STORAGE / "root").glob("*-layers/layers.json")
        return {layer["diff-digest"]: layer["diff-size"] for layer in json.loads(index.read_text()) if "diff-digest" in layer}

    def container(self, image: Image) -> Container:
        """Creates a container, which is removed at the end of the session."""
        return Container(self, image)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    if not (shutil.which("buildah") and shutil.which("debootstrap")):
        pytest.skip("needs buildah and debootstrap; run `make image-test` for instructions")
    images = Images(tmp_path_factory.mktemp("images"))
    yield images
    images.buildah("rm", "--all", check=False)


@pytest.fixture(scope="session", params=HANDLERS)
def image(request: pytest.FixtureRequest, images: Images) -> Image:
    """The image of each handler."""
    return images.build(request.param)


@pytest.fixture(scope="session")
def chat(images: Images) -> Image:
    return images.build("chat")
