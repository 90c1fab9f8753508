"""The description of a handler, from which `shared.serverless.serve` builds a worker.

A minimal handler has a request, a recipe and a function that loads the models:

    HANDLER = Handler("echo", EchoRequest, load, libraries=("handlers.echo.recipe",), weights=(ECHO,))

    if __name__ == "__main__":
        serve(HANDLER)

Every other field has a default that suits a handler whose outputs are files: callbacks for all requests, no streaming, one job at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from shared.contract.request import Operator, Request
from shared.jobs.presentation import HandlerResponse, PayloadPresentation, Presentation
from shared.jobs.recipe import Recipe
from shared.media.encoding import IMAGE_TYPES
from shared.settings import Settings
from shared.weights.catalogue import Weights

RequestT = TypeVar("RequestT", bound=Request)


def operator_settings(settings: Settings) -> Operator:
    """Returns the settings that the requests of every handler are validated against."""
    return Operator(callback_hosts=frozenset(settings.callback_allowed_hosts))


@dataclass(frozen=True)
class Handler(Generic[RequestT]):
    """A handler, without its models. Callables that take `Settings` are called once, when the worker starts.

    Attributes:
        name: Identifies the handler in worker ids, and selects its own settings: `{name}_job_timeout`.
        request: Parses and validates the inputs.
        load: Resolves and loads the models, and returns the recipe. Called once, on the GPU thread, after all checks have passed; imports
            torch and the libraries of the models only then. Raises `SettingsError` or `WeightsError` if it cannot.
        checks: Additional checks before anything is loaded, by name. Each raises `SettingsError` to keep the worker from starting.
        libraries: The modules that `load` imports. `--check image` imports them to prove that the image is complete.
        libraries_of: Returns the modules that it also imports under the given settings.
        weights: The weights without which the worker cannot start. `--check weights` and the start verify them.
        uses_external_engine: Whether an inference server holds the weights, in which case this worker needs none.
        operator: Returns the operator's settings that requests are validated against. The request's own subclass of `Operator`, if any.
        stored_types: The MIME types of the files that its jobs always store. The start checks that the bucket allows them.
        types_of: Returns the MIME types of the files that one job stores, which are checked before its work; by default `stored_types`.
        max_bytes_of: Returns an upper bound of the bytes of all files that one job stores; 0 where there is none, as for clips.
        always_callback: Whether requests without a `callback_url` are called back at the configured URL.
        streams: Whether text is sent while it is generated. RunPod then gets a stream of responses instead of one.
        present: Returns the presentation of a job's responses. Its arguments are the job's id and the raw input, which may be invalid.
        answer_without_job: Returns the response to an input that needs no job, such as a request for the list of models; None for all other
            inputs. Its arguments are the raw input, the recipe, and the start of the worker in seconds since 1970.
        default_concurrency: How many jobs a worker has in flight where `JOB_CONCURRENCY` is unset and the recipe runs one at a time. With
            two, a job is validated and its references are fetched while the one before computes, and it computes while that one is stored.
        max_concurrency: Returns how many jobs the recipe runs concurrently, if it has a GPU thread of its own. None for a recipe that works
            on the thread that calls it, and so runs one job at a time.
        watch: Called once with the recipe and a function that the recipe calls, from any thread, when it can complete nothing any more: the
            worker is then replaced, also between two jobs.
        idle_work: Returns pieces of work for the GPU thread while no job needs it. Its argument is the recipe. A job that arrives waits for
            the piece that is running, so that a piece takes seconds at most.
    """

    name: str
    request: type[RequestT]
    load: Callable[[Settings], Recipe[RequestT]]
    checks: Mapping[str, Callable[[Settings], None]] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()
    libraries_of: Callable[[Settings], tuple[str, ...]] = lambda _settings: ()
    weights: tuple[Weights, ...] = ()
    uses_external_engine: Callable[[Settings], bool] = lambda _settings: False
    operator: Callable[[Settings], Operator] = operator_settings
    stored_types: tuple[str, ...] = tuple(image.mime for image in IMAGE_TYPES.values())
    types_of: Callable[[RequestT], Collection[str]] | None = None
    max_bytes_of: Callable[[RequestT], int] = lambda _request: 0
    always_callback: bool = True
    streams: Callable[[Settings], bool] = lambda _settings: False
    present: Callable[[str, object], Presentation] = PayloadPresentation.of
    answer_without_job: Callable[[object, Any, int], HandlerResponse | None] | None = None
    default_concurrency: int = 1
    max_concurrency: Callable[[Any], int] | None = None
    watch: Callable[[Any, Callable[[], None]], None] = lambda _recipe, _on_failure: None
    idle_work: Callable[[Any], Iterable[Callable[[], None]]] = lambda _recipe: ()

    def types_of_job(self, request: RequestT) -> Collection[str]:
        """Returns the MIME types of the files that a job stores."""
        return self.stored_types if self.types_of is None else self.types_of(request)

    def all_libraries(self, settings: Settings) -> tuple[str, ...]:
        """Returns the modules that `load` imports."""
        return self.libraries + self.libraries_of(settings)

    def required_weights(self, settings: Settings) -> tuple[Weights, ...]:
        """Returns the weights that must be present on this machine."""
        return () if self.uses_external_engine(settings) else self.weights

    def concurrency(self, recipe: Recipe[RequestT], settings: Settings) -> int:
        """Returns how many jobs may be in flight. Constant for the life of the process: the SDK adjusts it only while no job runs."""
        if self.max_concurrency is None:
            return settings.job_concurrency or self.default_concurrency
        return min(self.max_concurrency(recipe), settings.job_concurrency or sys.maxsize)
