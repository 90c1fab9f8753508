"""An API key sent in place of a name is not repeated in error messages; ordinary names are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handlers.chat.refusals import unknown_model
from handlers.chat.request import ChatRequest
from handlers.sdxl.request import SdxlRequest
from shared.contract.names import looks_like_a_key
from shared.errors import ModelUnavailable, ValidationError
from shared.weights.addons import ADDON_KINDS, AddonKindName, AddonLibrary

KEYS = (
    "sk-canary0123456789abcdef", "sk-proj-canary0123456789abcdef", "hf_canary0123456789abcdefghij", "sb_secret_canary0123456789abcdef",
    "rpa_CANARY0123456789ABCDEFGHIJ", "whsec_canary0123456789abcdef", "ghp_canary0123456789abcdefghij", "github_pat_canary0123456789abc",
    "eyJhbGciOiJIUzI1NiJ9.eyJjYW5hcnkiOiJjYW5hcnkifQ.canary", "AKIACANARY0123456789", "r8_canary0123456789abcdefghij",
)  # fmt: skip
NAMES = (
    "skin_texture_detailer_xl_v2_final",
    "hf-detail",
    "pk_style",
    "sd_xl_offset_example-lora_1.0",
    "keyboard-of-an-old-typewriter",
    "sk-1",
)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_name_is_repeated(name: str, tmp_path: Path) -> None:
    assert not looks_like_a_key(name)
    with pytest.raises(ModelUnavailable, match=f"LoRA '{name}' is not installed"):
        AddonLibrary(tmp_path).find("loras", name)


@pytest.mark.parametrize("kind", ADDON_KINDS)
@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_place_of_an_add_on_name_is_not_repeated(key: str, kind: AddonKindName, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable) as refused:
        AddonLibrary(tmp_path).find(kind, key)
    assert (f"(a name of {len(key)} characters)" in refused.value.message) == (ADDON_KINDS[kind].only is None)
    assert "canary" not in refused.value.message.lower()


@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_place_of_any_other_value_is_not_repeated(key: str) -> None:
    raw: dict[str, Any] = {"id": "j", "user_id": "u", "type": key, "prompt": "p", key: 1, "metadata": {"reference_type": key}}
    raw["config"] = {"scheduler": key, "steps": key, "output_format": key, key: key, "loras": [{"name": "a", key: key}]}
    with pytest.raises(ValidationError) as refused:
        SdxlRequest.parse(raw, job_id="j")
    assert key not in refused.value.message
    assert not any(key in warning for warning in refused.value.warnings)
    assert len(refused.value.problems) >= 5
    chat = ChatRequest.parse({"messages": [{"role": "user", "content": "Hello"}]}, job_id="j").model_copy(update={"model": key})
    assert key not in unknown_model(chat, ["qwen_instruct"]).message
