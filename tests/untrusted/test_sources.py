"""Static checks of the source: no code unpickles or evaluates files, trusts remote code, or loads weights from a hub."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVING = sorted(path for folder in ("handlers", "shared") for path in (ROOT / folder).rglob("*.py"))
BUILDING = sorted(path for folder in ("builder", "small_models") for path in (ROOT / folder).rglob("*.py"))

# Modules that execute code from files.
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "pandas"}
EVALUATORS = {"eval", "exec", "compile", "__import__"}

# Functions whose `from_pretrained` calls read a configuration or a vocabulary, not weights.
WITHOUT_WEIGHTS = {
    ("shared/models/tokenizers.py", "load_tokenizer"),
    ("shared/models/diffusers_folder.py", "load_scheduler"),
    ("handlers/wan/weights/image_to_video.py", "load_image_to_video"),
    ("handlers/sdxl/weights/checkpoint.py", "_empty"),
}
# Functions that import modules by names from the handlers' own code.
BY_NAME = {("shared/self_check.py", "_import_all")}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yields every call in a file with the name of its innermost enclosing function."""

    def walk(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            if isinstance(child, ast.Call):
                yield function, child
            yield from walk(child, inner)

    return walk(parsed(path), "")


def callee(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def has_literal(call: ast.Call, keyword: str, value: object) -> bool:
    """Whether a call has the literal argument `keyword=value`."""
    return any(each.arg == keyword and isinstance(each.value, ast.Constant) and each.value.value is value for each in call.keywords)


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def trusts_remote_code(module: ast.AST) -> list[int]:
    """Returns the lines that mention `trust_remote_code` other than as the literal argument `trust_remote_code=False`."""
    allowed = {
        keyword
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "trust_remote_code" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False
    }
    mentions = [node for node in ast.walk(module) if "trust_remote_code" in _names(node) and node not in allowed]
    return [getattr(node, "lineno", 0) for node in mentions]


def _names(node: ast.AST) -> list[str]:
    """Returns the names in a node: keyword, variable, attribute, argument, definition, or a string that contains the name."""
    found = [getattr(node, field, None) for field in ("arg", "id", "attr", "name")]
    text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    return [name for name in found if isinstance(name, str)] + (["trust_remote_code"] if "trust_remote_code" in text else [])


def test_remote_code_is_never_trusted() -> None:
    assert {relative(path): trusts_remote_code(parsed(path)) for path in SERVING if trusts_remote_code(parsed(path))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "load(trust_remote_code=True)",
        "load(trust_remote_code=settings.trust)",
        "load(**{'trust_remote_code': True})",
        "config.trust_remote_code = True",
        "def load(trust_remote_code=False): ...",
        "load(trust_remote_code=None)",
    ],
)
def test_every_way_to_trust_remote_code_is_detected(source: str) -> None:
    assert trusts_remote_code(ast.parse(source))
    assert not trusts_remote_code(ast.parse("load(trust_remote_code=False)"))


def test_no_serving_code_unpickles_or_evaluates() -> None:
    assert {relative(path): imported(path) & UNPICKLERS for path in SERVING if imported(path) & UNPICKLERS} == {}
    evaluated = [
        (relative(path), call.lineno)
        for path in SERVING
        for _, call in calls(path)
        if isinstance(call.func, ast.Name) and call.func.id in EVALUATORS
    ]
    assert evaluated == []


def test_torch_load_is_used_for_training_checkpoints_only_and_with_weights_only() -> None:
    for path in (*SERVING, *BUILDING):
        for _, call in calls(path):
            if isinstance(call.func, ast.Attribute) and ast.unparse(call.func) in (
                "torch.load",
                "torch.jit.load",
                "torch.hub.load",
                "numpy.load",
            ):
                assert path in BUILDING, f"{relative(path)}:{call.lineno}"
                assert has_literal(call, "weights_only", True), f"{relative(path)}:{call.lineno}"


def test_dynamic_imports_use_names_from_the_code() -> None:
    found = {(relative(path), function) for path in SERVING for function, call in calls(path) if callee(call) == "import_module"}
    assert found == BY_NAME


def test_every_weights_loader_is_restricted_to_safetensors_and_local_files() -> None:
    readers = [
        (relative(path), function, call)
        for path in SERVING
        for function, call in calls(path)
        if callee(call) in ("from_pretrained", "from_single_file", "load_lora_weights", "load_textual_inversion", "from_config_file")
    ]
    assert readers
    for file, function, call in readers:
        assert has_literal(call, "local_files_only", True), f"{file}:{call.lineno}"
        if (file, function) not in WITHOUT_WEIGHTS:
            assert has_literal(call, "use_safetensors", True), f"{file}:{call.lineno}"
    assert {(file, function) for file, function, _ in readers} >= WITHOUT_WEIGHTS


def test_every_configuration_loader_is_restricted_to_local_files() -> None:
    for path in SERVING:
        for _, call in calls(path):
            if callee(call) == "load_config":
                assert has_literal(call, "local_files_only", True), f"{relative(path)}:{call.lineno}"
