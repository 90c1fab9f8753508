"""Add-ons that requests name are loaded from the operator's folders only, and never unpickled."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from handlers.sdxl.request import SdxlRequest
from shared.errors import ModelUnavailable, ValidationError
from shared.weights.addons import ADDON_KINDS, AddonKindName, AddonLibrary
from tests.untrusted.conftest import AuditedLoader, LoadResult
from tests.untrusted.malicious_files import EXTENSIONS, FORMATS

IMAGE = "https://example.com/a.png"
# The request fields that select an add-on of each kind that may be a file.
FILES: dict[AddonKindName, dict[str, Any]] = {
    "loras": {"config": {"loras": [{"name": "evil"}]}},
    "textual_inversions": {"config": {"textual_inversions": ["evil"]}},
    "vaes": {"config": {"vae": "evil"}},
    "upscalers": {"config": {"upscale": {"factor": 2, "model": "evil"}}},
}
FOLDERS: dict[AddonKindName, dict[str, Any]] = {
    "vaes": {"config": {"vae": "evil"}},
    "controlnets": {"config": {"controls": [{"kind": "evil", "image": IMAGE, "prepared": True}]}},
    "refiner": {"config": {"refiner": {"switch_at": 0.5}}},
    "safety_checker": {},
}
CONFIGURATIONS = {"vaes": "vae", "controlnets": "unet", "refiner": "unet", "safety_checker": "text_encoder"}


def request_with(fields: dict[str, Any]) -> dict[str, Any]:
    config = {"resolution": "64x64", "steps": 10, "seed": 7} | fields.get("config", {})
    return {"id": "j", "user_id": "u", "type": "sdxl_image_fast", "prompt": "a heron", **fields, "config": config}


def run_job(loader: AuditedLoader, addons: Path, request: dict[str, Any], handler: str = "job") -> LoadResult:
    (addons / "job.json").write_text(json.dumps(request))
    return loader.load(handler, addons)


def assert_rejected(result: LoadResult) -> None:
    assert result.events == []
    assert result.outcome.startswith("ModelUnavailable: "), result.outcome


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", FILES)
def test_a_pickle_with_the_extension_safetensors_is_rejected(
    loader: AuditedLoader, hostile: Path, canary: Path, kind: AddonKindName, format: str
) -> None:
    (hostile / ADDON_KINDS[kind].folder).mkdir()
    (hostile / ADDON_KINDS[kind].folder / "evil.safetensors").write_bytes(FORMATS[format](canary))
    assert_rejected(run_job(loader, hostile, request_with(FILES[kind])))


@pytest.mark.parametrize("kind", FILES)
def test_files_with_other_extensions_are_not_listed(loader: AuditedLoader, hostile: Path, canary: Path, kind: AddonKindName) -> None:
    folder = hostile / ADDON_KINDS[kind].folder
    folder.mkdir()
    for extension in EXTENSIONS[:-1]:
        (folder / f"evil.{extension}").write_bytes(FORMATS["pickle"](canary))
        (folder / f"evil.safetensors.{extension}").write_bytes(FORMATS["torch archive"](canary))
        (folder / f"EVIL.SAFETENSORS.{extension}").write_bytes(FORMATS["torch archive"](canary))
    assert AddonLibrary(hostile).names(kind) == []
    assert_rejected(run_job(loader, hostile, request_with(FILES[kind])))


@pytest.mark.parametrize("format", FORMATS)
def test_a_pickled_ip_adapter_is_rejected(loader: AuditedLoader, small_models: Path, hostile: Path, canary: Path, format: str) -> None:
    shutil.copytree(small_models / "ip_adapters" / "image_encoder", hostile / "ip_adapters" / "image_encoder")
    (hostile / "ip_adapters" / "style.safetensors").write_bytes(FORMATS[format](canary))
    (hostile / "ip_adapters" / "style.bin").write_bytes(FORMATS[format](canary))
    fields = {"metadata": {"reference_image_url": IMAGE, "reference_type": "style"}}
    assert_rejected(run_job(loader, hostile, request_with(fields)))


@pytest.mark.parametrize("format", FORMATS)
def test_a_pickled_image_encoder_is_rejected(loader: AuditedLoader, small_models: Path, hostile: Path, canary: Path, format: str) -> None:
    shutil.copytree(small_models / "ip_adapters", hostile / "ip_adapters")
    encoder = hostile / "ip_adapters" / "image_encoder"
    shutil.move(hostile / "ip_adapters" / "small.safetensors", hostile / "ip_adapters" / "style.safetensors")
    (encoder / "model.safetensors").unlink()
    (encoder / "pytorch_model.bin").write_bytes(FORMATS[format](canary))
    (encoder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"weight": "pytorch_model.bin"}}))
    fields = {"metadata": {"reference_image_url": IMAGE, "reference_type": "style"}}
    assert_rejected(run_job(loader, hostile, request_with(fields)))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_with_pickled_weights_is_rejected(
    loader: AuditedLoader, tiny_models: Path, hostile: Path, canary: Path, kind: AddonKindName, format: str
) -> None:
    folder = hostile / ADDON_KINDS[kind].folder / (ADDON_KINDS[kind].only or "evil")
    config = tiny_models / "sdxl" / CONFIGURATIONS[kind] / "config.json"
    for holder in (folder, folder / "unet"):
        holder.mkdir(parents=True)
        shutil.copy(config, holder / "config.json")
        (holder / "hostile.py").write_text("raise SystemExit('code has run')")
        for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin", "shard.bin", "model.ckpt"):
            (holder / name).write_bytes(FORMATS[format](canary))
        for stem in ("diffusion_pytorch_model", "model"):
            index = {"metadata": {}, "weight_map": {"weight": "shard.bin"}}
            (holder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    assert_rejected(run_job(loader, hostile, request_with(FOLDERS[kind])))


@pytest.mark.parametrize("format", FORMATS)
def test_a_pickled_wan_lora_is_rejected(loader: AuditedLoader, hostile: Path, canary: Path, format: str) -> None:
    (hostile / "loras").mkdir()
    (hostile / "loras" / "evil.safetensors").write_bytes(FORMATS[format](canary))
    config = {"width": 64, "height": 64, "frames": 5, "steps": 1, "fps": 8, "loras": [{"name": "evil"}]}
    request = {"id": "j", "user_id": "u", "type": "video_fast", "prompt": "a heron", "config": config}
    assert_rejected(run_job(loader, hostile, request, "wan job"))


OUTSIDE = (
    "../outside", "../../outside", "..", ".", "loras/../../outside", "/etc/passwd", "//etc/passwd", "~/outside", "file:///etc/passwd",
    "https://example.com/a.safetensors", "https://example.com/a.ckpt?token=canary", "%2e%2e%2foutside", "..%2foutside", "%2Fetc%2Fpasswd",
    "a\0b", "outside\0.safetensors", "..\\outside", "C:\\outside", "\\\\host\\share", "owner/name", "owner/name@main", "owner/name:fp16",
    "hf://owner/name", "name@refs/pr/1", "a\nb", "．．/outside", "․․/outside", "a/./b", "", " ", "-", "x" * 200, "..safetensors",
    "\u202eé", "a．．b",
)  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE, ids=[f"{number:02}" for number in range(len(OUTSIDE))])
def test_a_name_cannot_refer_to_a_path_outside_the_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / "models"
    for kind, spec in ADDON_KINDS.items():
        (root / spec.folder).mkdir(parents=True, exist_ok=True)
        for outside in (tmp_path / "outside.safetensors", root / "outside.safetensors"):
            outside.write_bytes(b"")
        for folder in (tmp_path / "outside", root / "outside"):
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text("{}")
        with pytest.raises(ModelUnavailable):
            AddonLibrary(root).find(kind, name)
    for fields in _fields_that_name(name):
        with pytest.raises(ValidationError) as refused:
            SdxlRequest.parse(request_with(fields), job_id="j")
        assert "canary" not in refused.value.message
        assert "/etc/passwd" not in refused.value.message


def _fields_that_name(name: str) -> list[dict[str, Any]]:
    return [
        {"config": {"loras": [{"name": name}]}},
        {"config": {"textual_inversions": [name]}},
        {"config": {"vae": name}},
        {"config": {"upscale": {"factor": 2, "model": name}}},
        {"config": {"controls": [{"kind": name, "image": IMAGE}]}},
    ]


@pytest.mark.parametrize("kind", [kind for kind, spec in ADDON_KINDS.items() if spec.files])
def test_a_symlink_to_a_file_outside_its_folder_is_not_listed(tmp_path: Path, kind: AddonKindName) -> None:
    (tmp_path / "outside.safetensors").write_bytes(b"")
    home = tmp_path / "models" / ADDON_KINDS[kind].folder
    home.mkdir(parents=True)
    (home / "linked.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (home / "inside.safetensors").write_bytes(b"")
    (home / "again.safetensors").symlink_to(home / "inside.safetensors")
    assert AddonLibrary(tmp_path / "models").names(kind) == ["again", "inside"]


@pytest.mark.parametrize("inner", ["config.json", "weights.safetensors", "unet/weights.safetensors", "unet"])
@pytest.mark.parametrize("kind", [kind for kind, spec in ADDON_KINDS.items() if spec.folders])
def test_a_folder_that_contains_a_symlink_to_the_outside_is_not_listed(tmp_path: Path, kind: AddonKindName, inner: str) -> None:
    spec = ADDON_KINDS[kind]
    folder, outside = tmp_path / "models" / spec.folder / (spec.only or "linked"), tmp_path / "outside"
    (folder / inner).parent.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert AddonLibrary(tmp_path / "models").names(kind) == [folder.name]
    outside.write_text("{}")
    (folder / inner).unlink(missing_ok=True)
    (folder / inner).symlink_to(outside)
    (folder / "model_index.json").write_text("{}")
    assert AddonLibrary(tmp_path / "models").names(kind) == []
