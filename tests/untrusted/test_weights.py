"""Weights are tensors and nothing else: no folder gets the libraries to open a pickle, to import a module or to look elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.untrusted.conftest import Guest
from tests.untrusted.malicious_files import ENDINGS, FORMS, edited, linked, module

NETWORKS = {"unet": ("sdxl/unet", "diffusion_pytorch_model"), "clip": ("sdxl/text_encoder", "model"), "chat": ("qwen_instruct", "model")}
every_network = pytest.mark.parametrize("loader", NETWORKS)
every_form = pytest.mark.parametrize("form", FORMS)


def copied(loader: str, tiny_models: Path, hostile: Path) -> Path:
    return Path(shutil.copytree(tiny_models / NETWORKS[loader][0], hostile / "network"))


def without_weights(folder: Path) -> Path:
    for path in (*folder.glob("*.safetensors"), *folder.glob("*.index.json")):
        path.unlink()
    return folder


def refuses(guest: Guest, loader: str, folder: Path) -> str:
    """The refusal, which came before anything was opened or run."""
    visit = guest.load(loader, folder)
    assert visit.seen == []
    assert visit.outcome.startswith(("SettingsError: ", "ModelUnavailable: ")), visit.outcome
    return visit.outcome


@every_form
@every_network
def test_a_network_that_is_only_there_as_a_pickle_is_refused(
    guest: Guest, tiny_models: Path, hostile: Path, canary: Path, loader: str, form: str
) -> None:
    folder, stem = without_weights(copied(loader, tiny_models, hostile)), NETWORKS[loader][1]
    for name in (f"{stem}.bin", "pytorch_model.bin", f"{stem}.fp16.bin", f"{stem}.pt", f"{stem}.ckpt", "flax_model.msgpack"):
        (folder / name).write_bytes(FORMS[form](canary))
    refuses(guest, loader, folder)


@every_form
@every_network
def test_a_pickle_that_is_called_safetensors_is_refused(
    guest: Guest, tiny_models: Path, hostile: Path, canary: Path, loader: str, form: str
) -> None:
    folder = without_weights(copied(loader, tiny_models, hostile))
    (folder / f"{NETWORKS[loader][1]}.safetensors").write_bytes(FORMS[form](canary))
    refuses(guest, loader, folder)


@every_network
def test_pickles_beside_the_weights_are_left_alone(guest: Guest, tiny_models: Path, hostile: Path, canary: Path, loader: str) -> None:
    folder = copied(loader, tiny_models, hostile)
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "adapter_model.bin", "model.pkl"):
        (folder / name).write_bytes(FORMS["a pickle"](canary))
    visit = guest.load(loader, folder)
    assert (visit.outcome, visit.seen) == ("loaded", [])


@pytest.mark.parametrize("ending", ENDINGS)
@every_network
def test_an_index_may_name_no_shard_that_is_a_pickle(
    guest: Guest, tiny_models: Path, hostile: Path, canary: Path, loader: str, ending: str
) -> None:
    folder, stem = without_weights(copied(loader, tiny_models, hostile)), NETWORKS[loader][1]
    for number, form in enumerate(FORMS.values()):
        (folder / f"shard-{number}.{ending}").write_bytes(form(canary))
    weights = {f"weight.{number}": f"shard-{number}.{ending}" for number in range(len(FORMS))}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    refuses(guest, loader, folder)


@pytest.mark.parametrize(
    "place", ["../outside.safetensors", "sub/../../outside.safetensors", "{}/outside.safetensors", "..\\outside.safetensors"]
)
@every_network
def test_an_index_may_name_no_shard_elsewhere(guest: Guest, tiny_models: Path, hostile: Path, loader: str, place: str) -> None:
    folder, stem = copied(loader, tiny_models, hostile), NETWORKS[loader][1]
    (folder / "sub").mkdir()
    indexes = list(folder.glob("*.index.json"))
    first = sorted(folder.glob("*.safetensors"))[0]
    shutil.move(first, hostile / "outside.safetensors")
    written = json.loads(indexes[0].read_text())["weight_map"] if indexes else {"weight": first.name}
    moved = {name: place.format(hostile) if shard == first.name else shard for name, shard in written.items()}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": moved}))
    assert "names files that are not .safetensors beside it" in refuses(guest, loader, folder)


@pytest.mark.parametrize("name", ["adapter_model.bin", "../model.safetensors", "model.bin", "sub/other.safetensors.index.json"])
def test_a_configuration_may_not_say_which_file_has_the_weights(
    guest: Guest, tiny_models: Path, hostile: Path, canary: Path, name: str
) -> None:
    for loader in ("clip", "chat"):
        folder = Path(shutil.copytree(tiny_models / NETWORKS[loader][0], hostile / loader))
        edited(folder / "config.json", transformers_weights=name)
        (folder / "adapter_model.bin").write_bytes(FORMS["torch's archive"](canary))
        refuses(guest, loader, folder)


@every_network
def test_an_adapter_in_a_folder_is_refused(guest: Guest, tiny_models: Path, hostile: Path, canary: Path, loader: str) -> None:
    """Where `peft` is installed, the library would load it by itself, and from a pickle, too."""
    folder = copied(loader, tiny_models, hostile)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]}))
    (folder / "adapter_model.bin").write_bytes(FORMS["torch's archive"](canary))
    assert "adapter_config.json" in refuses(guest, loader, folder)


def with_code(folder: Path, canary: Path) -> Path:
    for name in ("hostile.py", "modeling_hostile.py", "pipeline.py", "custom_pipeline.py"):
        (folder / name).write_text(module(canary))
    return folder


AUTO_MAP = {
    "AutoConfig": "hostile.HostileConfig",
    "AutoModel": "hostile.HostileModel",
    "AutoModelForCausalLM": "hostile.HostileModel",
    "AutoTokenizer": ["hostile.HostileTokenizer", "hostile.HostileTokenizer"],
    "AutoImageProcessor": "hostile.HostileModel",
}


@pytest.mark.parametrize(
    "fields",
    [
        {"auto_map": AUTO_MAP},
        {"auto_map": AUTO_MAP, "model_type": "hostile"},
        {"auto_map": AUTO_MAP, "architectures": ["HostileModel"]},
        {"auto_map": {"AutoModelForCausalLM": "other/repository--hostile.HostileModel"}, "model_type": "hostile"},
        {"custom_pipeline": "hostile", "custom_generate": "hostile"},
        {"quantization_config": {"quant_method": "hostile", "auto_map": AUTO_MAP}},
        {"attn_implementation": "hostile/kernels"},
        {"_attn_implementation": "hostile/kernels", "use_kernels": True},
        {"trust_remote_code": True, "auto_map": AUTO_MAP},
    ],
    ids=str,
)
def test_no_configuration_of_a_language_model_imports_code(
    guest: Guest, tiny_models: Path, hostile: Path, canary: Path, fields: dict[str, object]
) -> None:
    folder = with_code(copied("chat", tiny_models, hostile), canary)
    edited(folder / "config.json", **fields)
    assert guest.load("chat", folder).seen == []


@pytest.mark.parametrize(
    "fields",
    [
        {"auto_map": AUTO_MAP},
        {"auto_map": AUTO_MAP, "tokenizer_class": "HostileTokenizer"},
        {"tokenizer_class": "hostile.HostileTokenizer"},
        {"tokenizer_class": "os"},
        {"auto_map": AUTO_MAP, "trust_remote_code": True},
        {"tokenizer_file": "/etc/passwd", "vocab_file": "/etc/passwd"},
    ],
    ids=str,
)
def test_no_configuration_of_a_tokenizer_imports_code(
    guest: Guest, tiny_models: Path, hostile: Path, canary: Path, fields: dict[str, object]
) -> None:
    folder = with_code(copied("chat", tiny_models, hostile), canary)
    edited(folder / "tokenizer_config.json", **fields)
    assert guest.load("chat", folder).seen == []
    wan = with_code(linked(tiny_models / "wan", hostile / "wan", own=("tokenizer",)), canary)
    with_code(wan / "tokenizer", canary)
    edited(wan / "tokenizer" / "tokenizer_config.json", **fields)
    assert guest.load("wan", wan).seen == []


@pytest.mark.parametrize(
    "name", ["hostile", "HostileScheduler", "hostile.HostileScheduler", "os", "DiffusionPipeline", "utils", "__doc__", ""]
)
def test_a_scheduler_is_one_of_the_librarys_or_refused(guest: Guest, tiny_models: Path, hostile: Path, canary: Path, name: str) -> None:
    for loader in ("sdxl", "wan"):
        folder = with_code(linked(tiny_models / loader, hostile / loader, own=("scheduler",)), canary)
        edited(with_code(folder / "scheduler", canary) / "scheduler_config.json", _class_name=name)
        assert "is not known" in refuses(guest, loader, folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"unet": ["os", "system"], "transformer": ["os", "system"], "vae": ["posix", "mkdir"]},
        {"unet": ["hostile", "HostileModel"], "transformer": ["hostile", "HostileModel"], "tokenizer": ["hostile", "HostileTokenizer"]},
        {"_class_name": ["hostile", "HostilePipeline"]},
        {"_class_name": "HostilePipeline", "custom_pipeline": "hostile"},
        {"_class_name": ["pipeline", "HostilePipeline"], "auto_map": AUTO_MAP},
    ],
    ids=str,
)
def test_an_index_of_a_pipeline_imports_nothing(
    guest: Guest, tiny_models: Path, hostile: Path, canary: Path, fields: dict[str, object]
) -> None:
    for loader in ("sdxl", "wan"):
        folder = with_code(linked(tiny_models / loader, hostile / loader), canary)
        edited(folder / "model_index.json", **fields)
        assert guest.load(loader, folder).seen == []


@pytest.mark.parametrize("loader", ["unet", "clip"])
def test_a_networks_class_is_the_workers_choice(guest: Guest, tiny_models: Path, hostile: Path, canary: Path, loader: str) -> None:
    folder = with_code(copied(loader, tiny_models, hostile), canary)
    edited(folder / "config.json", _class_name="HostileModel", auto_map=AUTO_MAP, custom_pipeline="hostile")
    visit = guest.load(loader, folder)
    assert visit.seen == []


@every_form
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_checkpoint_in_one_file_that_is_a_pickle_is_refused(guest: Guest, hostile: Path, canary: Path, ending: str, form: str) -> None:
    file = hostile / f"sdxl.{ending}"
    file.write_bytes(FORMS[form](canary))
    visit = guest.load("sdxl", file)
    assert visit.outcome.startswith("SettingsError: ")
    assert [seen for seen in visit.seen if not seen.startswith("open")] == []
