"""`docs/handlers/sdxl.md`: prose, the table of parameters, and what fits a card."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.contract_pages import GENERATED, table
from handlers.sdxl.memory import SPARE, Need
from shared.contract.sdxl import SdxlRequest
from shared.contract.wire import wires
from shared.weights.shelf import BOARDS

_TEXT = Path(__file__).with_name("sdxl_page.md")
PARAMETERS = Path(__file__).with_name("sdxl_parameters.toml")

CARD = 48.0
"""GB of the card that is reckoned for."""

# GB in half precision: parameters of the published networks times two, the VAE in float32. The files' own sizes where those are published.
_SDXL = 5.135 + 0.246 + 1.389 + 0.335
_LORAS = 5.135 + 0.246 + 1.389  # the layers that LoRAs change, a second time: at most the UNet and both text encoders
_REFINER, _CONTROLNET = 4.519, 2.502
_ADAPTERS = 1.264 + 2 * 0.848  # the image encoder and two adapters
_KEPT = 8.590  # what the shelf keeps of earlier jobs
_UPSCALER = 0.033 + 3.05 * SPARE


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


def sdxl_page() -> str:
    """The page: `sdxl_page.md` with its tables and figures."""
    working = _working(1024, controlled=True)
    filled = _TEXT.read_text("utf-8").format(
        parameters=parameter_table(),
        shelf=_shelf_table(),
        memory=memory_table(),
        spare=SPARE,
        upscaler=_UPSCALER,
        kept=_KEPT,
        many=_SDXL + 16 * _CONTROLNET + working,
        fit=int((CARD - _SDXL - working) / _CONTROLNET),
    )
    return f"{GENERATED}\n{filled}"


def parameter_table() -> str:
    """What each parameter does, and its tests."""
    paths = wires(SdxlRequest)
    rows = [(f"`{paths[name].path}`", row.does, _name(row.acts), _name(row.without)) for name, row in parameters().items()]
    return table(("field", "what it does", "it acts", "without it"), rows)


def _name(test: str) -> str:
    file, _, name = test.partition("::")
    return f"`{file.rpartition('/')[2]}::{name}`"


def memory_table() -> str:
    """GB of a card that each combination needs, weights included."""
    head = ("beside SDXL", "1024 × 1024", "2048 × 2048", f"fits {CARD:.0f} GB")
    return table(head, (_combination(*each) for each in itertools.product(_GUIDES, (False, True), (False, True))))


_GUIDES = {"": 0.0, "refiner": _REFINER, "one ControlNet": _CONTROLNET, "two ControlNets": 2 * _CONTROLNET}


def _combination(guide: str, adapters: bool, loras: bool) -> tuple[str, ...]:
    names = [name for name, there in ((guide, guide), ("two adapters", adapters), ("LoRAs", loras)) if there]
    beside = _GUIDES[guide] + _ADAPTERS * adapters  # which is among what is kept
    weights = _SDXL + beside + _LORAS * loras
    small, large = (weights + _working(side, refined=guide == "refiner", controlled="Net" in guide) for side in (1024, 2048))
    return (", ".join(names) or "nothing", f"{small:.1f}", f"{large:.1f}", "yes" if large + max(0, _KEPT - beside) <= CARD else "no")


def _working(side: int, *, refined: bool = False, controlled: bool = False) -> float:
    need = Need(side, side, refined=refined, controlled=controlled)
    return max(6 * need.denoising, need.decoding) / 1e9


def _shelf_table() -> str:
    boards = BOARDS.values()
    several = [(f"`{board.folder}/`", f"`{board.field}`", f"{board.noun}s") for board in boards if board.only is None]
    alone = [(f"`{board.only}/`", f"`{board.field}`", f"the {board.noun}") for board in boards if board.only and board.folder == "."]
    return table(("folder", "named by", "holds"), several + alone)
