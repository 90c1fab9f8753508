"""The types of the chat request's decoding parameters, named as vLLM names them."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import BeforeValidator, Field

from handlers.chat.response_format import Choices, JsonSchema, Pattern
from shared.contract.field_location import FieldLocation
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
