"""The types of the chat request's decoding parameters, named as vLLM names them."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticKnownError

from handlers.chat.response_format import Choices, JsonSchema, Pattern
from shared.contract.field_location import FieldLocation
from shared.contract.fields import Text, ensure_valid_text
from shared.contract.rejections import refuse

_MAX_TOKEN_ID = 9_999_999
_TokenId = Annotated[int, Field(ge=0, le=_MAX_TOKEN_ID)]
_Bias = Annotated[float, Field(ge=-100.0, le=100.0)]
_BIASES = "an object of at most 1024 token ids, each with a number from -100.0 to 100.0"


def _parse_schema(schema: object) -> object:
    if not isinstance(schema, str):
        return schema
    try:
        return json.loads(schema)
    except (ValueError, RecursionError):
        raise refuse("a JSON Schema, as an object or as JSON text") from None


_MAX_STOP_LENGTH = 1000
_Stop = Annotated[Text, Field(min_length=1, max_length=_MAX_STOP_LENGTH)]


def _as_list(stop: object) -> object:
    if not isinstance(stop, str):
        return stop
    # Validated here, so that the error names `stop` and not `stop[0]`, which the caller has not written.
    if not 1 <= len(stop) <= _MAX_STOP_LENGTH:
        raise PydanticKnownError("string_too_long", {"max_length": _MAX_STOP_LENGTH})
    return [ensure_valid_text(stop)]


Stop = Annotated[
    tuple[_Stop, ...],
    Field(strict=False, max_length=8, description="Stop strings: the completion ends before the one that is completed first."),
    BeforeValidator(_as_list, json_schema_input_type=_Stop | Annotated[list[_Stop], Field(max_length=8)]),
    FieldLocation("stop"),
]
TopK = Annotated[
    int, FieldLocation("top_k"), Field(ge=-1, le=_MAX_TOKEN_ID, description="Keeps the most likely tokens, so many; 0 and -1 keep all.")
]
MinP = Annotated[
    float,
    FieldLocation("min_p"),
    Field(ge=0.0, le=1.0, description="Keeps the tokens with at least this share of the most likely token's probability; 0 keeps all."),
]
MinTokens = Annotated[
    int,
    FieldLocation("min_tokens"),
    Field(ge=0, le=4096, description="The minimum length of the completion in tokens. Until then no stop string or token ends it."),
]
StopTokenIds = Annotated[
    tuple[_TokenId, ...],
    FieldLocation("stop_token_ids"),
    Field(strict=False, max_length=64, description="Token ids that end the completion, as its end-of-sequence tokens do."),
]
LogitBias = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,7}$")], _Bias],
    FieldLocation("logit_bias"),
    Field(
        default_factory=dict,
        max_length=1024,
        json_schema_extra={"allowed": _BIASES, "additionalProperties": False},
        description="Added to the logits of these tokens.",
    ),
]
GuidedJson = Annotated[
    JsonSchema | None,
    BeforeValidator(_parse_schema),
    FieldLocation("guided_json"),
    Field(description="vLLM's name for a `response_format` of type `json_schema`."),
]
GuidedChoice = Annotated[Choices | None, FieldLocation("guided_choice"), Field(description="The texts that the completion may be.")]
GuidedRegex = Annotated[
    Pattern | None, FieldLocation("guided_regex"), Field(description="A regular expression that the whole completion matches.")
]

MAX_CHOICES = 8
N = Annotated[
    int,
    FieldLocation("n"),
    Field(ge=1, le=MAX_CHOICES, description="The number of completions. The seeds of further ones follow the first one's."),
]
Logprobs = Annotated[
    bool,
    FieldLocation("logprobs"),
    Field(description="Returns the log probability of each token, by the model's own logits."),
]
TopLogprobs = Annotated[
    int, FieldLocation("top_logprobs"), Field(ge=0, le=20, description="How many of the most likely tokens are returned for each position.")
]
CompletionPrompt = Annotated[
    Text | None,
    FieldLocation("completion_prompt", sections=("top",)),
    Field(min_length=1, repr=False, description="A text that the model continues, without a chat template. Instead of `messages`."),
]
