"""Bad input: refused before any work."""

from __future__ import annotations

from tests.faults.registry import fault
from tests.faults.world import World, sdxl


@fault("F02", 'Values of wrong types: `"20"`, 1e308, NaN, -1, 10³⁰, `true`', "the field is named, and nothing is computed")
def _(world: World) -> None:
    for index, value in enumerate(("20", 1e308, float("nan"), -1, 10**30, True)):
        output = world.do(sdxl(f"F02-{index}", steps=value), refused=True)
        assert output["metadata"]["error_code"] == "VALIDATION_ERROR"
        assert [problem["field"] for problem in output["metadata"]["problems"]] == ["config.steps"]
