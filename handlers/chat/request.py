"""The chat request. To add a field, declare it here; parsing, error messages, schemas and documentation are derived from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from handlers.chat.decoding_fields import GuidedChoice, GuidedJson, GuidedRegex, LogitBias, MinP, MinTokens, StopTokenIds, TopK
from handlers.chat.messages import Message, Role
from handlers.chat.openai.request import collect_openai_fields, is_openai
from handlers.chat.response_format import Constraint, ResponseFormat, StructuredOutputs
from shared.contract.collect_fields import CollectedFields
from shared.contract.context import Context, Operator, RequestWarnings
from shared.contract.field_location import UNSET, ComputedDefault, FieldLocation
from shared.contract.fields import Seed, Text, ensure_valid_text, seed_of_job
from shared.contract.names import Vocabulary
from shared.contract.rejections import conflict, refuse, requires
from shared.contract.request import Request, type_location

_CHATS = ("chat", "chat_conversation", "generate")
_ENHANCEMENTS = ("enhance", "chat_enhance", "enhance_base", "enhance_instruct")

_MODELS = ("qwen_instruct", "qwen_base")


@dataclass(frozen=True)
class ChatOperator(Operator):
    """The operator settings that chat requests are validated against.

    Attributes:
        streams: Whether the worker streams text.
        models: The names of the instruct model and the base model.
    """

    streams: bool = False
    models: tuple[str, str] = _MODELS


EnhancementType = Literal["base", "instruct"]
_ENHANCEMENT_NAMES: Mapping[object, EnhancementType] = {
    "base": "base",
    "instruct": "instruct",
    "creative": "base",
    "adult": "base",
    "conversational": "instruct",
}
_EnhancementName = Literal["base", "instruct", "creative", "adult", "conversational"]


def _messages_from_short_form(data: Mapping[str, Any], _: Context) -> list[Message]:
    if "prompt" in data and data["prompt"] is None:
        raise refuse("a list of objects with `role` and `content`, unless `prompt` is given")
    turns: list[tuple[Role, str | None]] = [("system", data.get("system_prompt")), ("user", data.get("prompt", ""))]
    return [Message(role=role, content=content) for role, content in turns if content is not None]


def _enhancement_from_type(data: Mapping[str, Any], _: Context) -> EnhancementType | None:
    if data.get("type") not in _ENHANCEMENTS:
        return None
    return "base" if data["type"] == "enhance_base" else "instruct"


def _canonical_enhancement(word: object) -> object:
    return _ENHANCEMENT_NAMES.get(word, word) if isinstance(word, str) else word


def _model_for_enhancement(data: Mapping[str, Any], context: Context) -> str:
    instruct, base = ChatOperator.of(context.operator).models
    return base if data.get("enhancement_type") == "base" else instruct


def _canonical_model(name: str, info: ValidationInfo) -> str:
    own = ChatOperator.of(Context.of(info).operator).models
    known = dict(zip((*_MODELS, *own), (*own, *own), strict=True))
    if name not in known:
        allowed = tuple(dict.fromkeys(own))
        raise refuse(f"one of {', '.join(allowed)}", nearest=Vocabulary(zip(allowed, allowed, strict=True)).nearest(name))
    return known[name]


_MAX_STOP_LENGTH = 1000
_Stop = Annotated[Text, Field(min_length=1, max_length=_MAX_STOP_LENGTH)]


def _as_list(stop: object) -> object:
    if not isinstance(stop, str):
        return stop
    # Validated here, so that the error names `stop` and not `stop[0]`, which the caller has not written.
    if not 1 <= len(stop) <= _MAX_STOP_LENGTH:
        raise PydanticKnownError("string_too_long", {"max_length": _MAX_STOP_LENGTH})
    return [ensure_valid_text(stop)]


def _constraints(values: Mapping[str, Any], outputs: StructuredOutputs | None) -> Iterator[Constraint]:
    """Yields all constraints of a request's fields."""
    form = values.get("response_format")
    if isinstance(form, ResponseFormat) and form.constraint is not None:
        yield form.constraint
    kinds: tuple[Literal["json", "choice", "regex"], ...] = ("json", "choice", "regex")
    for kind in kinds:
        if (value := values.get(f"guided_{kind}")) is not None:
            yield Constraint(kind, value, f"guided_{kind}")
    yield from outputs.constraints if outputs is not None else ()


class ChatRequest(Request):
    """A request for one chat completion, or for one enhanced prompt.

    Attributes:
        messages: The conversation, unchanged and in order; built from the short form if that was sent.
        enhancement_type: The kind of enhancement; `None` for a chat.
    """

    descriptive: ClassVar[frozenset[str]] = Request.descriptive | {
        "project_context", "content_tier", "conversation_id", "project_id", "message_id", "character_id", "context_type",
        "user_preferences",
    }  # fmt: skip

    type: Annotated[
        Literal["chat", "chat_conversation", "generate", "enhance", "chat_enhance", "enhance_base", "enhance_instruct"],
        type_location,
        Field(description="The kind of job."),
    ] = "chat"
    prompt: Annotated[
        Text | None,
        FieldLocation("prompt", sections=("top",)),
        Field(min_length=1, description="The short form: the prompt to enhance or the message to answer."),
    ] = None
    system_prompt: Annotated[Text | None, FieldLocation("system_prompt"), Field(description="The short form: the system prompt.")] = None
    enhancement_type: Annotated[
        EnhancementType | None,
        BeforeValidator(_canonical_enhancement, json_schema_input_type=_EnhancementName | None),
        FieldLocation("enhancement_type", sections=("config", "top")),
        ComputedDefault(_enhancement_from_type, "for enhancements as the type says, else `instruct`"),
        Field(description="`creative` and `adult` mean `base`, `conversational` means `instruct`."),
    ] = UNSET
    target_model: Annotated[
        Literal["sdxl", "wan"] | None,
        FieldLocation("target_model", sections=("config", "top")),
        Field(description="The short form: the model that the prompt is for. No effect."),
    ] = None
    quality: Annotated[
        Text | None, FieldLocation("quality", sections=("config", "top")), Field(description="The short form: descriptive. No effect.")
    ] = None
    messages: Annotated[
        tuple[Message, ...],
        Field(
            strict=False,
            json_schema_extra={"minItems": 1},
            description="The conversation: at least one message that is not of role system. Takes precedence over the short form.",
        ),
        FieldLocation("messages"),
        ComputedDefault(_messages_from_short_form, "built from `prompt` and `system_prompt`"),
    ] = UNSET
    max_tokens: Annotated[
        int,
        Field(ge=1, le=4096, description="The maximum length of the completion in tokens."),
        FieldLocation("max_tokens", aliases=("max_completion_tokens",)),
        ComputedDefault.by_type({_CHATS: 512, _ENHANCEMENTS: 200}),
    ] = UNSET
    temperature: Annotated[
        float, Field(ge=0.0, le=2.0, description="The sampling temperature; 0 is greedy decoding."), FieldLocation("temperature")
    ] = 0.7
    top_p: Annotated[
        float, Field(ge=0.0, le=1.0, description="Nucleus sampling; 0 keeps only the most likely token."), FieldLocation("top_p")
    ] = 0.9
    model: Annotated[
        str,
        AfterValidator(_canonical_model),
        FieldLocation("model", sections=("config", "top")),
        ComputedDefault(_model_for_enhancement, "`qwen_instruct`; `qwen_base` for enhancements of type `base`"),
        Field(
            json_schema_extra={"allowed": "qwen_instruct or qwen_base, or the operator's names for them", "examples": list(_MODELS)},
            description="The model. An operator may serve other models under names of their own.",
        ),
    ] = UNSET
    stop: Annotated[
        tuple[_Stop, ...],
        Field(strict=False, max_length=8, description="Stop strings: the completion ends before the one that is completed first."),
        BeforeValidator(_as_list, json_schema_input_type=_Stop | Annotated[list[_Stop], Field(max_length=8)]),
        FieldLocation("stop"),
    ] = ()
    seed: Annotated[
        Seed,
        FieldLocation("seed"),
        seed_of_job,
        Field(description="The same seed gives the same completion if no other job runs at the same time."),
    ] = UNSET
    presence_penalty: Annotated[
        float,
        Field(ge=-2.0, le=2.0, description="Subtracted from the logit of every token that has been generated."),
        FieldLocation("presence_penalty"),
    ] = 0.0
    frequency_penalty: Annotated[
        float,
        Field(ge=-2.0, le=2.0, description="Subtracted from a token's logit for each time it has been generated."),
        FieldLocation("frequency_penalty"),
    ] = 0.0
    repetition_penalty: Annotated[
        float,
        Field(
            ge=0.1,
            le=2.0,
            description="Divides the positive logits of tokens in the prompt and the completion, and multiplies the negative ones.",
        ),
        FieldLocation("repetition_penalty"),
    ] = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    min_tokens: MinTokens = 0
    stop_token_ids: StopTokenIds = ()
    logit_bias: LogitBias
    response_format: Annotated[ResponseFormat, FieldLocation("response_format"), Field(description="The form of the completion.")] = (
        ResponseFormat(type="text")
    )
    guided_json: GuidedJson = None
    guided_choice: GuidedChoice = None
    guided_regex: GuidedRegex = None
    structured_outputs: Annotated[
        StructuredOutputs | None, FieldLocation("structured_outputs"), Field(description="vLLM's name for the same: one of the members.")
    ] = None
    continue_final_message: Annotated[
        bool,
        FieldLocation("continue_final_message"),
        Field(description="Continues the last message, which must be of role assistant, instead of answering it."),
    ] = False
    sfw_mode: Annotated[
        bool, FieldLocation("sfw_mode"), Field(description="Masks the words of the operator's word list in the completion.")
    ] = False
    stream: Annotated[bool, FieldLocation("stream"), Field(description="Streams the completion, if the operator has enabled that.")] = False

    @field_validator("enhancement_type")
    @classmethod
    def _matches_type(cls, kind: EnhancementType | None, info: ValidationInfo) -> EnhancementType | None:
        implied = str(info.data.get("type")).removeprefix("enhance_")
        if implied in ("base", "instruct") and kind != implied:
            raise refuse(f'"{implied}" with type "{info.data["type"]}"', nearest=implied)
        return kind

    @field_validator("messages")
    @classmethod
    def _has_a_turn_to_answer(cls, messages: tuple[Message, ...], info: ValidationInfo) -> tuple[Message, ...]:
        if all(message.role == "system" for message in messages):
            sent = "messages of role system only" if messages else None
            raise refuse("a list with at least one message that is not of role system", sent=sent)
        given = Context.of(info).sources
        for name in ("prompt", "system_prompt"):
            if "messages" in given and name in given:
                Context.of(info).warnings.add_ignored(given[name], "`messages` is given")
        return messages

    @field_validator("min_tokens")
    @classmethod
    def _is_not_above_the_maximum(cls, least: int, info: ValidationInfo) -> int:
        most = info.data.get("max_tokens", least)
        if least > most:
            raise refuse(f"at most `max_tokens`, {most}", nearest=most)
        return least

    @field_validator("structured_outputs")
    @classmethod
    def _is_the_only_constraint(cls, outputs: StructuredOutputs | None, info: ValidationInfo) -> StructuredOutputs | None:
        fields = [constraint.field for constraint in _constraints(info.data, outputs)]
        if len(fields) > 1:
            raise conflict(*fields)
        return outputs

    @field_validator("continue_final_message")
    @classmethod
    def _has_a_message_to_continue(cls, continues: bool, info: ValidationInfo) -> bool:
        messages = info.data.get("messages")
        if continues and messages and messages[-1].role != "assistant":
            raise requires("continue_final_message", 'messages[-1].role: "assistant"')
        return continues

    @classmethod
    def _collect(cls, raw: object, warnings: RequestWarnings, operator: Operator) -> CollectedFields:
        if isinstance(raw, Mapping) and is_openai(raw):
            return collect_openai_fields(raw, warnings, streams=ChatOperator.of(operator).streams)
        return super()._collect(raw, warnings, operator)

    @property
    def constraint(self) -> Constraint | None:
        """What the completion must conform to; None for free text."""
        return next(_constraints(vars(self), self.structured_outputs), None)

    @property
    def is_enhancement(self) -> bool:
        """Whether the job enhances a prompt instead of continuing a conversation."""
        return self.type in _ENHANCEMENTS
