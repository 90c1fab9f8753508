"""The pieces of its choices that a job streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from handlers.chat.logprobs import TokenLogprob


@dataclass(frozen=True)
class ToolCall:
    """A call in a completion.

    Attributes:
        position: Its position among the calls of the completion.
        id: Refers to it in later messages.
        name: The name of the function.
        arguments: A JSON object, as text.
    """

    position: int
    id: str
    name: str
    arguments: str = field(repr=False)


@dataclass(frozen=True)
class ChoiceDelta:
    """What has been generated of a choice since its previous delta.

    Attributes:
        index: The position of the choice.
        text: Content.
        tool_calls: Complete calls.
        logprobs: Those of the tokens.
    """

    index: int
    text: str = field(default="", repr=False)
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.tool_calls or self.logprobs)


def join_by_choice(deltas: Sequence[ChoiceDelta]) -> Iterator[ChoiceDelta]:
    """Yields one delta for each choice, with everything that its deltas add."""
    for index in dict.fromkeys(delta.index for delta in deltas):
        own = [delta for delta in deltas if delta.index == index]
        yield ChoiceDelta(
            index,
            "".join(delta.text for delta in own),
            tuple(chain.from_iterable(delta.tool_calls for delta in own)),
            tuple(chain.from_iterable(delta.logprobs for delta in own)),
        )
