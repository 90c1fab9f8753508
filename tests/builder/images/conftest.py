"""Images that are built and run here, in a root file system of their own: no daemon, no registry, no namespaces."""

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
    """One layer of an image: the digest of its content and its size in bytes, and what made it."""

    digest: str
    size: int
    made_by: str

    @property
    def step(self) -> str:
        """The step of the Dockerfile in a few words."""
        hidden = r"^\|\d+ |\b[A-Z_]+=\S+ |--mount=\S+ |/bin/sh -c |#\(nop\) |\b(file|dir):\w+ in "
        return " ".join(re.sub(hidden, "", self.made_by).split())[:90] or "base image"


class Image:
    """One image that was built here."""

    def __init__(self, images: Images, tag: str) -> None:
        self._images = images
        self.tag = tag
        self.facts: dict[str, Any] = json.loads(images.buildah("inspect", "--type", "image", tag).stdout)

    @property
    def layers(self) -> list[Layer]:
        """From the base to the code."""
        sizes = self._images.layer_sizes()
        digests = self.facts["OCIv1"]["rootfs"]["diff_ids"]
        made_by = [step.get("created_by", "") for step in self.facts["OCIv1"]["history"] if not step.get("empty_layer")]
        return [Layer(digest, sizes[digest], step) for digest, step in zip(digests, made_by, strict=True)]

    @property
    def command(self) -> list[str]:
        """What it runs unless told otherwise."""
        return list(self.facts["OCIv1"]["config"]["Cmd"])


class Container:
    """A root file system made from an image, and what runs in it."""

    def __init__(self, images: Images, image: Image) -> None:
        self._images, self._image = images, image
        self.name = images.buildah("from", "--pull-never", image.tag).stdout.strip()
        self.root = Path(images.buildah("mount", self.name).stdout.strip())

    def run(self, *command: str, mounts: Mapping[Path, str] | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a command, by default the image's own."""
        volumes = [part for source, target in (mounts or {}).items() for part in ("--volume", f"{source}:{target}")]
        variables = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        options = ["run", "--isolation", "chroot", *volumes, *variables, self.name, "--"]
        return self._images.buildah(*options, *(command or self._image.command), check=False)


class Images:
    """Builds images and keeps them in a folder of this checkout."""

    def __init__(self, scratch: Path) -> None:
        _STORAGE.mkdir(exist_ok=True)
        self.storage = ["--root", str(_STORAGE / "root"), "--runroot", str(_STORAGE / "run")]
        self._pip = pip_options(scratch)
        make_base_image(self.storage)

    def buildah(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One command of buildah on these images."""
        done = subprocess.run(["buildah", *self.storage, *arguments], capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def try_build(self, handler: str, context: Path, tag: str, *options: str, **arguments: str) -> subprocess.CompletedProcess[str]:
        """Builds an image as `make image` does, with this machine's pip settings."""
        given = {"BASE_IMAGE": BASE_IMAGE, "HANDLER": handler, "VERSION": version()} | arguments
        command = build_command("buildah", context, tag, given, ["--pull-never", *self._pip, *options], global_options=self.storage)
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def build(self, handler: str, context: Path = ROOT, tag: str = "", *options: str, **arguments: str) -> Image:
        """Builds an image that must come about."""
        name = tag or f"localhost/{image_tag(handler)}"
        done = self.try_build(handler, context, name, *options, **arguments)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return Image(self, name)

    def layer_sizes(self) -> dict[str, int]:
        """Digest of a layer's content → bytes."""
        (index,) = (_STORAGE / "root").glob("*-layers/layers.json")
        return {layer["diff-digest"]: layer["diff-size"] for layer in json.loads(index.read_text()) if "diff-digest" in layer}

    def container(self, image: Image) -> Container:
        """A container of an image. All of them are removed at the end."""
        return Container(self, image)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    if not (shutil.which("buildah") and shutil.which("debootstrap")):
        pytest.skip("needs buildah and debootstrap; `make image-test` says how to install them")
    made = Images(tmp_path_factory.mktemp("images"))
    yield made
    made.buildah("rm", "--all", check=False)


@pytest.fixture(scope="session", params=HANDLERS)
def image(request: pytest.FixtureRequest, images: Images) -> Image:
    """The image of each handler."""
    return images.build(request.param)


@pytest.fixture(scope="session")
def chat(images: Images) -> Image:
    return images.build("chat")
