"""The generated TypeScript types are current, and reject a caller's mistakes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from builder.contract.types import has_converter, typescript
from tests.doubles.typescript import compile_all

ROOT = Path(__file__).parents[3]

GOOD = """
import { ChatRequest, OpenAIChunk, SdxlPayload, SdxlRequest, WanPayload, WanRequest } from "./contract";

const picture: SdxlRequest = {
  id: "j", user_id: "u", type: "sdxl_image_fast", prompt: "p",
  config: { num_images: 3, resolution: "1024x1024", seed: null, loras: [{ name: "ink" }] },
  metadata: { reference_strength: 0.5, anything: { at: "all" } },
};
const clip: WanRequest = { id: "j", user_id: "u", type: "video_fast", prompt: "p", config: { frames: 49 } };
const roles: Array<"user" | "assistant"> = ["user", "assistant"];
const chat: ChatRequest = { messages: roles.map((role) => ({ role, content: "x" })), stop: ["a"] };

function tell(payload: SdxlPayload): string {
  switch (payload.status) {
    case "completed": return payload.assets.map((asset) => asset.url).join() + payload.metadata.processing_time.toFixed(1);
    case "failed": return payload.metadata.error_code + (payload.metadata.problems ?? []).map((problem) => problem.field).join();
    case "processing": return payload.worker_id;
  }
}

function seconds(payload: WanPayload): number {
  if (payload.status !== "completed") return 0;
  return payload.assets.reduce((sum, asset) => sum + (asset.type === "video" ? asset.duration_seconds : 0), 0);
}

const piece = (chunk: OpenAIChunk): string => chunk.choices.map((choice) => choice.delta.content ?? "").join("");

export default [picture, clip, chat, tell, seconds, piece];
"""

JOB = 'id: "j", user_id: "u", type: "sdxl_image_fast"'

# Invalid programs and the compiler error of each.
BAD = {
    "a_misspelt_field": ("TS2561", f'const x: SdxlRequest = {{ {JOB}, prompt: "p", config: {{ guidence_scale: 7 }} }};'),
    "a_misspelt_name_in_a_list": ("TS2561", f'const x: SdxlRequest = {{ {JOB}, prompt: "p", config: {{ loras: [{{ nam: "a" }}] }} }};'),
    "a_value_outside_its_set": ("TS2322", f'const x: SdxlRequest = {{ {JOB}, prompt: "p", config: {{ num_images: 2 }} }};'),
    "a_missing_prompt": ("TS2741", f"const x: SdxlRequest = {{ {JOB} }};"),
    "a_url_of_a_failed_job": ("TS2493", 'const x = (p: SdxlPayload) => p.status === "failed" && p.assets[0].url;'),
    "an_unhandled_status": (
        "TS2366",
        """function x(payload: SdxlPayload): string {
  switch (payload.status) { case "completed": return "a"; case "failed": return "b"; }
}""",
    ),
}


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """The compiler's errors in all programs: the name of each file, and the error."""
    folder = tmp_path_factory.mktemp("programs")
    shutil.copy(ROOT / "schemas/contract.ts", folder)
    (folder / "good.ts").write_text(GOOD)
    for name, (_, program) in BAD.items():
        (folder / f"{name}.ts").write_text(f'import {{ SdxlPayload, SdxlRequest }} from "./contract";\n{program}\nexport default x;\n')
    return set(re.findall(r"^(?:(\w+)\.ts\(.*?)?error (TS\d+)", compile_all(folder), flags=re.MULTILINE))


def test_types_are_current() -> None:
    assert has_converter(), "run `make setup`"
    assert (ROOT / "schemas/contract.ts").read_text("utf-8") == typescript(), "run `make schemas`"


def test_valid_program_compiles(errors: set[tuple[str, str]]) -> None:
    assert {(name, code) for name, code in errors if name not in BAD} == set()


def test_wrong_programs_do_not_compile(errors: set[tuple[str, str]]) -> None:
    assert errors >= {(name, code) for name, (code, _) in BAD.items()}
