"""`docs/handlers/sdxl.md`: prose, the table of parameters, and what fits a card."""

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
"""GB of the card that is reckoned for."""

# GB in half precision: parameters of the published networks times two, the VAE in float32. The files' own sizes where those are published.
_SDXL = 5.135 + 0.246 + 1.389 + 0.335
_LORAS = 5.135 + 0.246 + 1.389  # the layers that LoRAs change, a second time: at most the UNet and both text encoders
_REFINER, _CONTROLNET = 4.519, 2.502
_ADAPTERS = 1.264 + 2 * 0.848  # the image encoder and two adapters
_KEPT = CACHE_LIMIT / 1e9  # what the shelf keeps of earlier jobs
_OTHERS = ((False, True), (False, True))  # adapters, LoRAs
_UPSCALER = 0.033 + 3.05 * HEADROOM


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of the request's fields.

    Attributes:
        does: What it does to a picture.
        acts: The test that it acts: `handlers/test_sdxl.py::test_…`, in `tests/`.
        without: The test that without it nothing changes, or which default holds.
    """

    does: str
    acts: str
    without: str


def parameters() -> Mapping[str, Parameter]:
    """What `sdxl_parameters.toml` says, by the attribute of `SdxlRequest`."""
    return {name: Parameter(**row) for name, row in tomllib.loads(PARAMETERS.read_text("utf-8")).items()}


@dataclass(frozen=True, slots=True)
class ExtraModels:
    """What a job uses beside SDXL, as large as it can be: LoRAs that change every layer, two adapters, ControlNets of different kinds."""

    refiner: bool = False
    controls: int = 0
    adapters: bool = False
    loras: bool = False

    @property
    def name(self) -> str:
        """What a table calls it."""
        controls = {0: "", 1: "one ControlNet", 2: "two ControlNets"}.get(self.controls, f"{self.controls} ControlNets")
        named = ("refiner" * self.refiner, controls, "two adapters" * self.adapters, "LoRAs" * self.loras)
        return ", ".join(filter(None, named)) or "nothing"

    def needs(self, side: int) -> float:
        """GB of a card for six pictures of `side` × `side` pixels with guidance, weights included."""
        need = MemoryEstimate(side, side, refined=self.refiner, controlled=self.controls > 0)
        return _SDXL + self._from_the_shelf + _LORAS * self.loras + max(6 * need.denoising, need.decoding) / 1e9

    def fits(self, side: int) -> bool:
        """Whether the card has that beside what the shelf keeps of earlier jobs, to which what is in use counts."""
        return self.needs(side) + max(0, _KEPT - self._from_the_shelf) <= CARD

    @property
    def _from_the_shelf(self) -> float:
        return _REFINER * self.refiner + _CONTROLNET * self.controls + _ADAPTERS * self.adapters


def sdxl_page() -> str:
    """The page: `sdxl_page.md` with its tables and figures."""
    filled = _TEXT.read_text("utf-8").format(
        parameters=parameter_table(),
        shelf=_shelf_table(),
        memory=memory_table(),
        controls=controls_table(),
        spare=HEADROOM,
        upscaler=_UPSCALER,
        kept=_KEPT,
        controlnet=_CONTROLNET,
        card=CARD,
        stay=int(_KEPT / _CONTROLNET),
    )
    return f"{GENERATED}\n{filled}"


def parameter_table() -> str:
    """What each parameter does, and its tests."""
    paths = field_locations(SdxlRequest)
    rows = [(f"`{paths[name].path}`", row.does, _name(row.acts), _name(row.without)) for name, row in parameters().items()]
    return table(("field", "what it does", "it acts", "without it"), rows)


def _name(test: str) -> str:
    file, _, name = test.partition("::")
    return f"`{file.rpartition('/')[2]}::{name}`"


def memory_table() -> str:
    """GB of a card that each combination needs, weights included."""
    guides = (ExtraModels(), ExtraModels(refiner=True), ExtraModels(controls=1), ExtraModels(controls=2))
    combinations = [replace(guide, adapters=adapters, loras=loras) for guide, adapters, loras in product(guides, *_OTHERS)]
    head = ("beside SDXL", "1024 × 1024", "2048 × 2048", f"fits {CARD:.0f} GB")
    rows = [(each.name, f"{each.needs(1024):.1f}", f"{each.needs(2048):.1f}", "yes" if each.fits(2048) else "no") for each in combinations]
    return table(head, rows)


def controls_table() -> str:
    """How many ControlNets of different kinds fit the card beside the rest."""
    others = [ExtraModels(adapters=adapters, loras=loras) for adapters, loras in product(*_OTHERS)]
    head = ("beside SDXL and ControlNets", "1024 × 1024", "2048 × 2048")
    return table(head, [(each.name, str(max_controlnets(each, 1024)), str(max_controlnets(each, 2048))) for each in others])


def max_controlnets(beside: ExtraModels, side: int) -> int:
    """The most ControlNets that fit the card, of as many as the contract allows."""
    return max(count for count in range(MAX_CONTROLS + 1) if replace(beside, controls=count).fits(side))


def _shelf_table() -> str:
    boards = ADDON_KINDS.values()
    several = [(f"`{spec.folder}/`", f"`{spec.field}`", f"{spec.noun}s") for spec in boards if spec.only is None]
    alone = [(f"`{spec.only}/`", f"`{spec.field}`", f"the {spec.noun}") for spec in boards if spec.only and spec.folder == "."]
    return table(("folder", "named by", "holds"), several + alone)
