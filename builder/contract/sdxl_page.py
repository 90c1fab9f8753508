"""Generates `docs/handlers/sdxl.md`: prose, the parameter table, and the memory tables."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from builder.contract.pages import GENERATED, table
from handlers.sdxl.memory import HEADROOM, MemoryEstimate
from handlers.sdxl.nested import MAX_CONTROLS
from handlers.sdxl.request import SdxlRequest
from shared.contract.field_location import field_locations
from shared.weights.addons import ADDON_KINDS, CACHE_LIMIT

_TEXT = Path(__file__).with_name("sdxl_page.md")
PARAMETERS = Path(__file__).with_name("sdxl_parameters.toml")

CARD = 48.0
"""GB of memory of the GPU that the tables are for."""

# GB in half precision: twice the parameters of the published networks, the VAE's encoder in float32; published file sizes where known.
_SDXL = 5.135 + 0.246 + 1.389 + 0.236
_LORAS = 5.135 + 0.246 + 1.389  # a second copy of the layers that LoRAs change: at most the UNet and both text encoders
_REFINER, _CONTROLNET = 4.519, 2.502
_ADAPTERS = 1.264 + 2 * 0.848  # the image encoder and two adapters
_CACHE = CACHE_LIMIT / 1e9  # add-ons of earlier jobs
_OTHERS = ((False, True), (False, True))  # adapters, LoRAs
_UPSCALER = 0.033 + 2.05 * HEADROOM


@dataclass(frozen=True, slots=True)
class Parameter:
    """A row of the parameter table.

    Attributes:
        does: Its effect on an image.
        acts: The test that it has this effect: `handlers/sdxl/test_recipe.py::test_…`, in `tests/`.
        without: The test that nothing changes without it, or of its default.
    """

    does: str
    acts: str
    without: str


def parameters() -> Mapping[str, Parameter]:
    """Reads `sdxl_parameters.toml`, by the attribute of `SdxlRequest`."""
    return {name: Parameter(**row) for name, row in tomllib.loads(PARAMETERS.read_text("utf-8")).items()}


@dataclass(frozen=True, slots=True)
class Extras:
    """The networks that a job uses in addition to SDXL, at their largest: LoRAs on every layer, two adapters, distinct ControlNets."""

    refiner: bool = False
    controls: int = 0
    adapters: bool = False
    loras: bool = False

    @property
    def name(self) -> str:
        """The row's name in a table."""
        controls = {0: "", 1: "one ControlNet", 2: "two ControlNets"}.get(self.controls, f"{self.controls} ControlNets")
        names = ("refiner" * self.refiner, controls, "two adapters" * self.adapters, "LoRAs" * self.loras)
        return ", ".join(filter(None, names)) or "nothing"

    def needs(self, side: int) -> float:
        """Returns the GB for six images of `side` × `side` pixels with guidance, weights included."""
        estimate = MemoryEstimate(side, side, refined=self.refiner, controlled=self.controls > 0)
        return _SDXL + self._addons + _LORAS * self.loras + max(6 * estimate.denoising, estimate.decoding) / 1e9

    def fits(self, side: int) -> bool:
        """Whether this fits the card together with a full cache, which includes the add-ons in use."""
        return self.needs(side) + max(0, _CACHE - self._addons) <= CARD

    @property
    def _addons(self) -> float:
        return _REFINER * self.refiner + _CONTROLNET * self.controls + _ADAPTERS * self.adapters


def sdxl_page() -> str:
    """Returns the page: `sdxl_page.md` with its tables and figures."""
    filled = _TEXT.read_text("utf-8").format(
        parameters=parameter_table(),
        addons=_addon_table(),
        memory=memory_table(),
        controls=controls_table(),
        headroom=HEADROOM,
        upscaler=_UPSCALER,
        cache=_CACHE,
        controlnet=_CONTROLNET,
        card=CARD,
        cached_controlnets=int(_CACHE / _CONTROLNET),
    )
    return f"{GENERATED}\n{filled}"


def parameter_table() -> str:
    """Returns the table of each parameter's effect and its tests."""
    paths = field_locations(SdxlRequest)
    rows = [(f"`{paths[name].path}`", row.does, _test_name(row.acts), _test_name(row.without)) for name, row in parameters().items()]
    return table(("field", "effect", "test of the effect", "test without it"), rows)


def _test_name(test: str) -> str:
    file, _, name = test.partition("::")
    return f"`{file.rpartition('/')[2]}::{name}`"


def memory_table() -> str:
    """Returns the table of the GB that each combination needs, weights included."""
    guides = (Extras(), Extras(refiner=True), Extras(controls=1), Extras(controls=2))
    combinations = [replace(guide, adapters=adapters, loras=loras) for guide, adapters, loras in product(guides, *_OTHERS)]
    head = ("in addition to SDXL", "1024 × 1024", "2048 × 2048", f"fits {CARD:.0f} GB")
    rows = [(each.name, f"{each.needs(1024):.1f}", f"{each.needs(2048):.1f}", "yes" if each.fits(2048) else "no") for each in combinations]
    return table(head, rows)


def controls_table() -> str:
    """Returns the table of how many distinct ControlNets fit the card."""
    others = [Extras(adapters=adapters, loras=loras) for adapters, loras in product(*_OTHERS)]
    head = ("in addition to SDXL and ControlNets", "1024 × 1024", "2048 × 2048")
    return table(head, [(each.name, str(most_controls(each, 1024)), str(most_controls(each, 2048))) for each in others])


def most_controls(extras: Extras, side: int) -> int:
    """Returns the most ControlNets that fit the card, up to the contract's limit."""
    return max(count for count in range(MAX_CONTROLS + 1) if replace(extras, controls=count).fits(side))


def _addon_table() -> str:
    kinds = ADDON_KINDS.values()
    several = [(f"`{kind.folder}/`", f"`{kind.field}`", f"{kind.noun}s") for kind in kinds if kind.only is None]
    single = [(f"`{kind.only}/`", f"`{kind.field}`", f"the {kind.noun}") for kind in kinds if kind.only and kind.folder == "."]
    return table(("folder", "selected by", "contents"), several + single)
