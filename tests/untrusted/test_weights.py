"""Loading a weights folder never unpickles a file, imports a module or follows a path out of the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.untrusted.conftest import AuditedLoader
from tests.untrusted.malicious_files import EXTENSIONS, FORMATS, copy_with_links, module, update_json

NETWORKS = {"unet": ("sdxl/unet", "diffusion_pytorch_model"), "clip": ("sdxl/text_encoder", "model"), "chat": ("qwen_instruct", "model")}
every_network = pytest.mark.parametrize("network", NETWORKS)
every_format = pytest.mark.parametrize("format", FORMATS)


def copy_network(network: str, tiny_models: Path, hostile: Path) -> Path:
    return Path(shutil.copytree(tiny_models / NETWORKS[network][0], hostile / "network"))


def without_weights(folder: Path) -> Path:
    for path in (*folder.glob("*.safetensors"), *folder.glob("*.index.json")):
        path.unlink()
    return folder


def assert_rejected(loader: AuditedLoader, network: str, folder: Path) -> str:
    """Asserts that loading fails without a suspicious event, and returns the error."""
    result = loader.load(network, folder)
    assert result.events == []
    assert result.outcome.startswith(("WeightsError: ", "ModelUnavailable: ")), result.outcome
    return result.outcome


@every_format
@every_network
def test_a_network_with_pickled_weights_only_is_rejected(
    loader: AuditedLoader, tiny_models: Path, hostile: Path, canary: Path, network: str, format: str
) -> None:
    folder, stem = without_weights(copy_network(network, tiny_models, hostile)), NETWORKS[network][1]
    for name in (f"{stem}.bin", "pytorch_model.bin", f"{stem}.fp16.bin", f"{stem}.pt", f"{stem}.ckpt", "flax_model.msgpack"):
        (folder / name).write_bytes(FORMATS[format](canary))
    assert_rejected(loader, network, folder)


@every_format
@every_network
def test_a_pickle_with_the_extension_safetensors_is_rejected(
    loader: AuditedLoader, tiny_models: Path, hostile: Path, canary: Path, network: str, format: str
) -> None:
    folder = without_weights(copy_network(network, tiny_models, hostile))
    (folder / f"{NETWORKS[network][1]}.safetensors").write_bytes(FORMATS[format](canary))
    assert_rejected(loader, network, folder)


@every_network
def test_pickles_next_to_safetensors_are_not_opened(
    loader: AuditedLoader, tiny_models: Path, hostile: Path, canary: Path, network: str
) -> None:
    folder = copy_network(network, tiny_models, hostile)
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "adapter_model.bin", "model.pkl"):
        (folder / name).write_bytes(FORMATS["pickle"](canary))
    result = loader.load(network, folder)
    assert (result.outcome, result.events) == ("loaded", [])


@pytest.mark.parametrize("extension", EXTENSIONS)
@every_network
def test_an_index_that_names_pickled_shards_is_rejected(
    loader: AuditedLoader, tiny_models: Path, hostile: Path, canary: Path, network: str, extension: str
) -> None:
    folder, stem = without_weights(copy_network(network, tiny_models, hostile)), NETWORKS[network][1]
    for number, create in enumerate(FORMATS.values()):
        (folder / f"shard-{number}.{extension}").write_bytes(create(canary))
    weights = {f"weight.{number}": f"shard-{number}.{extension}" for number in range(len(FORMATS))}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    assert_rejected(loader, network, folder)


@pytest.mark.parametrize(
    "place", ["../outside.safetensors", "sub/../../outside.safetensors", "{}/outside.safetensors", "..\\outside.safetensors"]
)
@every_network
def test_an_index_that_names_shards_outside_the_folder_is_rejected(
    loader: AuditedLoader, tiny_models: Path, hostile: Path, network: str, place: str
) -> None:
    folder, stem = copy_network(network, tiny_models, hostile), NETWORKS[network][1]
    (folder / "sub").mkdir()
    indexes = list(folder.glob("*.index.json"))
    first = sorted(folder.glob("*.safetensors"))[0]
    shutil.move(first, hostile / "outside.safetensors")
    written = json.loads(indexes[0].read_text())["weight_map"] if indexes else {"weight": first.name}
    moved = {name: place.format(hostile) if shard == first.name else shard for name, shard in written.items()}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": moved}))
    assert "names files other than .safetensors in its folder" in assert_rejected(loader, network, folder)


@pytest.mark.parametrize("name", ["adapter_model.bin", "../model.safetensors", "model.bin", "sub/other.safetensors.index.json"])
def test_a_configuration_that_selects_the_weights_file_is_rejected(
    loader: AuditedLoader, tiny_models: Path, hostile: Path, canary: Path, name: str
) -> None:
    for network in ("clip", "chat"):
        folder = Path(shutil.copytree(tiny_models / NETWORKS[network][0], hostile / network))
        update_json(folder / "config.json", transformers_weights=name)
        (folder / "adapter_model.bin").write_bytes(FORMATS["torch archive"](canary))
        assert_rejected(loader, network, folder)


@every_network
def test_a_folder_with_a_peft_adapter_is_rejected(
    loader: AuditedLoader, tiny_models: Path, hostile: Path, canary: Path, network: str
) -> None:
    """With `peft` installed, transformers would load it automatically, even from a pickle."""
    folder = copy_network(network, tiny_models, hostile)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]}))
    (folder / "adapter_model.bin").write_bytes(FORMATS["torch archive"](canary))
    assert "adapter_config.json" in assert_rejected(loader, network, folder)


def add_modules(folder: Path, canary: Path) -> Path:
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
def test_a_language_models_configuration_never_imports_code(
    loader: AuditedLoader, tiny_models: Path, hostile: Path, canary: Path, fields: dict[str, object]
) -> None:
    folder = add_modules(copy_network("chat", tiny_models, hostile), canary)
    update_json(folder / "config.json", **fields)
    assert loader.load("chat", folder).events == []


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
def test_a_tokenizers_configuration_never_imports_code(
    loader: AuditedLoader, tiny_models: Path, hostile: Path, canary: Path, fields: dict[str, object]
) -> None:
    folder = add_modules(copy_network("chat", tiny_models, hostile), canary)
    update_json(folder / "tokenizer_config.json", **fields)
    assert loader.load("chat", folder).events == []
    wan = add_modules(copy_with_links(tiny_models / "wan", hostile / "wan", copied=("tokenizer",)), canary)
    add_modules(wan / "tokenizer", canary)
    update_json(wan / "tokenizer" / "tokenizer_config.json", **fields)
    assert loader.load("wan", wan).events == []


@pytest.mark.parametrize(
    "name", ["hostile", "HostileScheduler", "hostile.HostileScheduler", "os", "DiffusionPipeline", "utils", "__doc__", ""]
)
def test_an_unknown_scheduler_class_is_rejected(loader: AuditedLoader, tiny_models: Path, hostile: Path, canary: Path, name: str) -> None:
    for network in ("sdxl", "wan"):
        folder = add_modules(copy_with_links(tiny_models / network, hostile / network, copied=("scheduler",)), canary)
        update_json(add_modules(folder / "scheduler", canary) / "scheduler_config.json", _class_name=name)
        assert "is unknown" in assert_rejected(loader, network, folder)


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
def test_a_pipeline_index_never_imports_code(
    loader: AuditedLoader, tiny_models: Path, hostile: Path, canary: Path, fields: dict[str, object]
) -> None:
    for network in ("sdxl", "wan"):
        folder = add_modules(copy_with_links(tiny_models / network, hostile / network), canary)
        update_json(folder / "model_index.json", **fields)
        assert loader.load(network, folder).events == []


@pytest.mark.parametrize("network", ["unet", "clip"])
def test_the_class_in_a_networks_configuration_is_ignored(
    loader: AuditedLoader, tiny_models: Path, hostile: Path, canary: Path, network: str
) -> None:
    folder = add_modules(copy_network(network, tiny_models, hostile), canary)
    update_json(folder / "config.json", _class_name="HostileModel", auto_map=AUTO_MAP, custom_pipeline="hostile")
    result = loader.load(network, folder)
    assert result.events == []


@every_format
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_pickled_single_file_checkpoint_is_rejected(
    loader: AuditedLoader, hostile: Path, canary: Path, extension: str, format: str
) -> None:
    file = hostile / f"sdxl.{extension}"
    file.write_bytes(FORMATS[format](canary))
    result = loader.load("sdxl", file)
    assert result.outcome.startswith("WeightsError: ")
    assert [event for event in result.events if not event.startswith("open")] == []
