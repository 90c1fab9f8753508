"""What an endpoint says of itself: its requests, its models, and what it needs to start."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from shared.contract.request import Request
from shared.jobs.recipe import Recipe
from shared.settings import Settings
from shared.weights.catalogue import Weights

RequestT = TypeVar("RequestT", bound=Request)


@dataclass(frozen=True)
class Handler(Generic[RequestT]):
    """One endpoint.

    Attributes:
        name: `sdxl`, `wan` or `chat`.
        request: What its inputs are parsed with.
        load: Finds and loads the models, once, on the thread that owns the GPU. Raises `SettingsError` when it cannot.
        checks: What else must be true, and is looked at before that, by name: each raises `SettingsError` when it is not.
        libraries: The modules that `load` imports, for the self-check of an image.
        weights: What it cannot do without, for the self-check of a machine.
        beside: Whether, as the operator has it, a server beside the worker has the weights; then they are not looked for here.
        calls_back: Whether callbacks go out for requests that did not ask for one.
        streams: Whether it can write its text piece by piece.
        together: How many jobs a recipe does at once, where it has a thread of its own for the GPU. None: it uses the one it is called on,
            so it does one.
    """

    name: str
    request: type[RequestT]
    load: Callable[[Settings], Recipe[RequestT]]
    checks: Mapping[str, Callable[[Settings], None]] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()
    weights: tuple[Weights, ...] = ()
    calls_back: bool = True
    streams: bool = False
    together: Callable[[Any], int] | None = None
    beside: Callable[[Settings], bool] = lambda _settings: False

    def needs(self, settings: Settings) -> tuple[Weights, ...]:
        """The weights that must be on this machine."""
        return () if self.beside(settings) else self.weights

    def concurrency(self, recipe: Recipe[RequestT], settings: Settings) -> int:
        """Jobs in hand at once. The same for as long as the process lives: the SDK changes it only while no job runs."""
        if self.together is None:
            return settings.job_concurrency or 1
        return min(self.together(recipe), settings.job_concurrency or sys.maxsize)
