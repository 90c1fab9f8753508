"""The chat request. To add a field, declare it here; parsing, error messages, schemas and documentation are derived from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NotRequired

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError
from typing_extensions import TypedDict  # pydantic needs this one below Python 3.12

from handlers.chat.openai.request import collect_openai_fields, is_openai
from handlers.chat.response_format import ResponseFormat
from shared.contract.collect_fields import CollectedFields
from shared.contract.context import Context, Operator, RequestWarnings
from shared.contract.field_location import UNSET, ComputedDefault, FieldLocation
from shared.contract.fields import Seed, Text, ensure_valid_text, seed_of_job
from shared.contract.names import Vocabulary
from shared.contract.nested import NestedModel
from shared.contract.rejections import refuse, requires
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


Role = Literal["system", "user", "assistant"]
EnhancementType = Literal["base", "instruct"]
_ENHANCEMENT_NAMES: Mapping[object, EnhancementType] = {
    "base": "base",
    "instruct": "instruct",
    "creative": "base",
    "adult": "base",
    "conversational": "instruct",
}
_EnhancementName = Literal["base", "instruct", "creative", "adult", "conversational"]


class TextPart(TypedDict):
    """A text part of a message."""

    type: NotRequired[Literal["text"]]
    text: str


def _join_parts(content: object) -> object:
    if not isinstance(content, list):
        return content
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type") in (None, "text") else None for part in content]
    joined = [text for text in texts if isinstance(text, str)]
    if not texts or len(joined) < len(texts):
        raise refuse('a string, or a list of text parts such as {"type": "text", "text": "…"}')
    return "".join(joined)


def _canonical_role(role: object) -> object:
    return "system" if isinstance(role, str) and role == "developer" else role


class Message(NestedModel):
    """One message of the conversation."""

    location: ClassVar[str] = "messages[]"

    role: Annotated[
        Role,
        BeforeValidator(_canonical_role, json_schema_input_type=Literal["system", "user", "assistant", "developer"]),
        Field(description="The author of the message; `developer` means `system`."),
    ]
    content: Annotated[
        Text,
        BeforeValidator(_join_parts, json_schema_input_type=str | Annotated[list[TextPart], Field(min_length=1)]),
        Field(repr=False, description="The text, as one string or as text parts, which are concatenated."),
    ]


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
        FieldLocation("max_tokens"),
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
    response_format: Annotated[ResponseFormat, FieldLocation("response_format"), Field(description="The form of the completion.")] = (
        ResponseFormat(type="text")
    )
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
    def is_enhancement(self) -> bool:
        """Whether the job enhances a prompt instead of continuing a conversation."""
        return self.type in _ENHANCEMENTS
