"""What an endpoint says of itself: its requests, its models, and what it needs to start."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from shared.contract.request import Operator, Request
from shared.jobs.presentation import HandlerResponse, PayloadPresentation, Presentation
from shared.jobs.recipe import Recipe
from shared.settings import Settings
from shared.weights.catalogue import Weights

RequestT = TypeVar("RequestT", bound=Request)


def operator_settings(settings: Settings) -> Operator:
    """Reads the decisions that every handler's requests are validated against."""
    return Operator(callback_hosts=frozenset(settings.callback_allowed_hosts))


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
        uses_external_engine: Whether, as the operator has it, an inference server next to the worker has the weights; then they are not looked for here.
        operator: Reads the operator's decisions that its requests are validated against from the settings.
        always_callback: Whether callbacks go out for requests that did not ask for one.
        streams: Whether text is sent while it is generated, as the operator has configured it.
        present: Chooses the form of a job's outputs from its id and its input.
        answer_without_job: Answers inputs that need no job, such as a request for the list of models, from the input, the recipe and the
            time at which the worker started; None for any other input.
        max_concurrency: How many jobs a recipe does at once, where it has a thread of its own for the GPU. None: it uses the one it is called on,
            so it does one.
    """

    name: str
    request: type[RequestT]
    load: Callable[[Settings], Recipe[RequestT]]
    checks: Mapping[str, Callable[[Settings], None]] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()
    weights: tuple[Weights, ...] = ()
    operator: Callable[[Settings], Operator] = operator_settings
    always_callback: bool = True
    streams: Callable[[Settings], bool] = lambda _settings: False
    present: Callable[[str, object], Presentation] = lambda _job_id, _raw: PayloadPresentation()
    answer_without_job: Callable[[object, Any, int], HandlerResponse | None] = lambda _raw, _recipe, _since: None
    max_concurrency: Callable[[Any], int] | None = None
    uses_external_engine: Callable[[Settings], bool] = lambda _settings: False

    def required_weights(self, settings: Settings) -> tuple[Weights, ...]:
        """The weights that must be on this machine."""
        return () if self.uses_external_engine(settings) else self.weights

    def concurrency(self, recipe: Recipe[RequestT], settings: Settings) -> int:
        """Jobs in hand at once. The same for as long as the process lives: the SDK changes it only while no job runs."""
        if self.max_concurrency is None:
            return settings.job_concurrency or 1
        return min(self.max_concurrency(recipe), settings.job_concurrency or sys.maxsize)
