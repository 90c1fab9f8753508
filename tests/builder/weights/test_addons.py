"""`builder.download_weights --with FEATURES` installs published add-ons where the handler reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from builder.weights.addons import ADDONS, Addon, Feature, select_addons
from handlers.sdxl.features.ip_adapter import ADAPTERS_BY_TYPE
from handlers.sdxl.handler import load
from handlers.sdxl.request import SdxlRequest
from shared.settings import Settings
from shared.weights.addons import ADDON_KINDS, AddonLibrary
from shared.weights.hub import DownloadError
from shared.weights.lock import read_lock
from tests.builder.weights.published_addons import COMPOSITION, LATEST, Downloads, publish_addons, write_published
from tests.doubles.fake_hub import FakeHub
from tests.doubles.processes import ROOT
from tests.handlers.conftest import generate, image_outputs
from tests.handlers.sdxl.adapters import plain_pipeline


@pytest.fixture(scope="module")
def published(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    return write_published(tmp_path_factory.mktemp("published"), plain_pipeline(tiny_models))


@pytest.fixture
def hub(published: dict[str, dict[str, bytes]]) -> Iterator[FakeHub]:
    with FakeHub({}, "owner/model", "0" * 40) as running:
        publish_addons(running, published)
        yield running


@pytest.fixture
def downloads(hub: FakeHub, tmp_path: Path, published: dict[str, dict[str, bytes]]) -> Downloads:
    return Downloads(hub, tmp_path, published)


def full_request(**config: object) -> SdxlRequest:
    settings = {"resolution": "64x64", "steps": 10, "seed": 7} | config
    return SdxlRequest.parse(
        {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "a red circle", "config": settings}, job_id="j"
    )


def test_every_feature_is_installed_and_serves_its_requests(downloads: Downloads, tiny_models: Path) -> None:
    features = "references,controls,upscalers,refiner,safety"
    assert f"python -m builder.download_weights sdxl --with {features} " in (ROOT / "docs/deploy.md").read_text("utf-8")
    status, output = downloads.run("--with", features)
    assert status == 0, output
    recipe = load(Settings(sdxl_model=tiny_models / "sdxl", models_dir=downloads.models, device="cpu"))
    picture = "https://a.example/b.png"
    requests = [
        full_request(references=[{"image": picture, "type": kind} for kind in ADAPTERS_BY_TYPE]),
        full_request(controls=[{"kind": kind, "image": picture, "prepared": True} for kind in ("canny", "depth", "pose")]),
        full_request(refiner={"switch_at": 0.5}, upscale={"factor": 4}, safety_check=True),
    ]
    for request in requests:
        (drawn,) = image_outputs(generate(recipe, request, references=dict.fromkeys(request.references, Image.new("RGB", (64, 64), "red"))))
        assert drawn.pixels.shape == ((256, 256, 3) if request.upscale else (64, 64, 3))


def test_a_second_run_verifies_the_files_and_makes_no_request(downloads: Downloads, hub: FakeHub) -> None:
    assert downloads.run("--with", "references")[0] == 0
    hub.requests.clear()
    status, output = downloads.run("--with", "references")
    assert (status, hub.requests) == (0, [])
    assert output.count("complete and verified against its lock file. Nothing to do.") == 4


def test_an_add_on_without_a_known_revision_is_locked_at_the_latest_one(downloads: Downloads) -> None:
    status, output = downloads.run("--with", "references")
    assert status == 0, output
    assert f"{COMPOSITION.target}: {COMPOSITION.repo} at {LATEST}, licence Apache-2.0" in output
    assert "the catalogue knows no revision of it" in output
    lock = read_lock(downloads.models / COMPOSITION.target)
    assert lock is not None
    assert (lock.source, lock.revision, [file.path for file in lock.files]) == (COMPOSITION.repo, LATEST, [Path(COMPOSITION.target).name])


def test_an_add_on_without_a_known_revision_must_have_the_known_size(downloads: Downloads) -> None:
    status, output = downloads.run("--with", "references", small=False)
    assert status == 1
    assert "has 2 MB instead of 848: it is another file than the one that the catalogue knows." in output
    assert not (downloads.models / COMPOSITION.target).exists()


def test_a_file_that_a_repository_lacks_is_named(downloads: Downloads, hub: FakeHub, published: dict[str, dict[str, bytes]]) -> None:
    upscaler = next(addon for addon in ADDONS if addon.feature == "refiner")
    files = {name: content for name, content in published[upscaler.repo].items() if not name.endswith(".safetensors")}
    hub.publish(upscaler.repo, str(upscaler.revision), files)
    status, output = downloads.run("--with", "refiner")
    assert status == 1
    assert f"{upscaler.repo} at {upscaler.revision} has no unet/diffusion_pytorch_model.fp16.safetensors." in output


def test_an_interrupted_add_on_is_resumed_and_others_are_kept(downloads: Downloads, hub: FakeHub) -> None:
    name = "models/image_encoder/model.safetensors"
    hub.lfs_threshold = 1000
    hub.error_statuses = {name: 403}
    status, output = downloads.run("--with", "references")
    assert status == 1
    assert "model.safetensors could not be downloaded (HTTP status 403). Run again to resume." in output
    hub.error_statuses = {}
    assert downloads.run("--with", "references")[0] == 0


def test_all_selects_every_add_on_of_a_handler() -> None:
    assert select_addons(["all"], ["sdxl"]) == select_addons(get_args(Feature), []) == list(ADDONS)
    assert select_addons([], ["sdxl"]) == []


@pytest.mark.parametrize(
    ("features", "handlers", "message"),
    [
        (["reference"], ["sdxl"], r"reference\. Available: references, controls, upscalers, refiner, safety, all\."),
        (["controls", "faces"], [], r"faces\. Available: "),
        (["references"], ["wan"], r"references\. There are none for wan\."),
        (["all"], ["chat", "wan"], r"all\. There are none for chat, wan\."),
    ],
)
def test_an_unknown_feature_is_refused_with_the_available_ones(features: list[str], handlers: list[str], message: str) -> None:
    with pytest.raises(DownloadError, match=message):
        select_addons(features, handlers)


class TestCatalogue:
    @pytest.mark.parametrize("addon", ADDONS, ids=lambda addon: addon.target)
    def test_an_add_on_is_where_its_kind_is_read(self, addon: Addon, tmp_path: Path) -> None:
        target = tmp_path / addon.target
        is_file = target.suffix == ".safetensors"
        for name in addon.files.values():
            path = target.parent / name if is_file else target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        found = [
            kind for kind in ADDON_KINDS for name in AddonLibrary(tmp_path).names(kind) if name == target.name.removesuffix(".safetensors")
        ]
        assert len(found) == 1, f"one kind reads {addon.target}"

    def test_every_reference_type_has_an_adapter(self) -> None:
        names = {Path(addon.target).stem for addon in ADDONS if addon.feature == "references"}
        assert all(names & set(files) for files in ADAPTERS_BY_TYPE.values())
        assert names <= {"image_encoder", *(name for files in ADAPTERS_BY_TYPE.values() for name in files)}

    def test_revisions_are_commits_and_only_safetensors_and_json_are_downloaded(self) -> None:
        assert all(len(addon.revision) == 40 for addon in ADDONS if addon.revision is not None)
        assert {Path(name).suffix for addon in ADDONS for name in addon.files} == {".safetensors", ".json"}

    def test_targets_are_unique(self) -> None:
        assert len({addon.target for addon in ADDONS}) == len(ADDONS)
