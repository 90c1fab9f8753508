"""Read in the source: nothing of ours unpickles, evaluates or trusts what came with weights."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVING = sorted(path for folder in ("handlers", "shared") for path in (ROOT / folder).rglob("*.py"))
BUILDING = sorted((ROOT / "builder").rglob("*.py"))

# Modules that run what they read.
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "pandas"}
EVALUATORS = {"eval", "exec", "compile", "__import__"}

# Calls of `from_pretrained` that read a configuration or a vocabulary, and no weights.
WITHOUT_WEIGHTS = {
    ("shared/models/load.py", "load_tokenizer"),
    ("shared/models/diffusers_folder.py", "load_scheduler"),
    ("handlers/wan/weights/image_to_video.py", "load_image_to_video"),
    ("handlers/sdxl/weights/checkpoint.py", "_empty"),
}
# Imports by name: the names are the handlers' own.
BY_NAME = {("shared/self_check.py", "_import_all")}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a file, with the innermost function that it is in."""

    def walk(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            if isinstance(child, ast.Call):
                yield function, child
            yield from walk(child, inner)

    return walk(parsed(path), "")


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def says(call: ast.Call, keyword: str, value: object) -> bool:
    """Whether a call has `keyword=value`, as a literal."""
    return any(each.arg == keyword and isinstance(each.value, ast.Constant) and each.value.value is value for each in call.keywords)


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def trusting(module: ast.AST) -> list[int]:
    """The lines where `trust_remote_code` is anything but the literal False given to a call."""
    refusals = {
        keyword
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "trust_remote_code" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False
    }
    spelt = [node for node in ast.walk(module) if "trust_remote_code" in _names(node) and node not in refusals]
    return [getattr(node, "lineno", 0) for node in spelt]


def _names(node: ast.AST) -> list[str]:
    """Every way that a name can stand in a node: of a keyword, a variable, an attribute, an argument, or in a text."""
    found = [getattr(node, field, None) for field in ("arg", "id", "attr", "name")]
    text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    return [name for name in found if isinstance(name, str)] + (["trust_remote_code"] if "trust_remote_code" in text else [])


def test_nothing_is_trusted_to_bring_code() -> None:
    assert {named(path): trusting(parsed(path)) for path in SERVING if trusting(parsed(path))} == {}


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
def test_every_way_to_trust_would_be_noticed(source: str) -> None:
    assert trusting(ast.parse(source))
    assert not trusting(ast.parse("load(trust_remote_code=False)"))


def test_nothing_that_serves_unpickles_or_evaluates() -> None:
    assert {named(path): imported(path) & UNPICKLERS for path in SERVING if imported(path) & UNPICKLERS} == {}
    evaluated = [
        (named(path), call.lineno)
        for path in SERVING
        for _, call in calls(path)
        if isinstance(call.func, ast.Name) and call.func.id in EVALUATORS
    ]
    assert evaluated == []


def test_torch_reads_no_file_but_a_trainings_own_and_of_that_only_tensors() -> None:
    for path in (*SERVING, *BUILDING):
        for _, call in calls(path):
            if isinstance(call.func, ast.Attribute) and ast.unparse(call.func) in (
                "torch.load",
                "torch.jit.load",
                "torch.hub.load",
                "numpy.load",
            ):
                assert path in BUILDING, f"{named(path)}:{call.lineno}"
                assert says(call, "weights_only", True), f"{named(path)}:{call.lineno}"


def test_modules_are_imported_by_names_that_are_written_here() -> None:
    found = {(named(path), function) for path in SERVING for function, call in calls(path) if called(call) == "import_module"}
    assert found == BY_NAME


def test_every_reader_of_weights_takes_safetensors_only_and_asks_no_hub() -> None:
    readers = [
        (named(path), function, call)
        for path in SERVING
        for function, call in calls(path)
        if called(call) in ("from_pretrained", "from_single_file", "load_lora_weights", "load_textual_inversion", "from_config_file")
    ]
    assert readers
    for file, function, call in readers:
        assert says(call, "local_files_only", True), f"{file}:{call.lineno}"
        if (file, function) not in WITHOUT_WEIGHTS:
            assert says(call, "use_safetensors", True), f"{file}:{call.lineno}"
    assert {(file, function) for file, function, _ in readers} >= WITHOUT_WEIGHTS


def test_every_reader_of_configurations_asks_no_hub() -> None:
    for path in SERVING:
        for _, call in calls(path):
            if called(call) == "load_config":
                assert says(call, "local_files_only", True), f"{named(path)}:{call.lineno}"
