"""The request of the chat handler. To add a field, declare it here; everything else is derived."""

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
from shared.contract.field_location import UNSET, ComputedDefault, FieldLocation, refuse
from shared.contract.fields import Seed, Text, ensure_valid_text, random_seed
from shared.contract.names import Vocabulary
from shared.contract.nested import NestedModel
from shared.contract.request import Request, type_location

_CHATS = ("chat", "chat_conversation", "generate")
_ENHANCEMENTS = ("enhance", "chat_enhance", "enhance_base", "enhance_instruct")

_MODELS = ("qwen_instruct", "qwen_base")


@dataclass(frozen=True)
class ChatOperator(Operator):
    """The operator's decisions about chat.

    Attributes:
        streams: Whether text is sent while it is generated.
        models: The operator's names of the instruct model and of the base model.
    """

    streams: bool = False
    models: tuple[str, str] = _MODELS


Role = Literal["system", "user", "assistant"]
EnhancementType = Literal["base", "instruct"]
_ENHANCEMENT_WORDS: Mapping[object, EnhancementType] = {
    "base": "base",
    "instruct": "instruct",
    "creative": "base",
    "adult": "base",
    "conversational": "instruct",
}
_EnhancementWord = Literal["base", "instruct", "creative", "adult", "conversational"]


class TextPart(TypedDict):
    """A piece of a message's text."""

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


def _known_role(role: object) -> object:
    return "system" if isinstance(role, str) and role == "developer" else role


class Message(NestedModel):
    """One turn of the conversation."""

    location: ClassVar[str] = "messages[]"

    role: Annotated[
        Role,
        BeforeValidator(_known_role, json_schema_input_type=Literal["system", "user", "assistant", "developer"]),
        Field(description="Who speaks; `developer` means `system`."),
    ]
    content: Annotated[
        Text,
        BeforeValidator(_join_parts, json_schema_input_type=str | Annotated[list[TextPart], Field(min_length=1)]),
        Field(repr=False, description="What is said, as one string or as text parts, which are joined."),
    ]


def _messages_of_the_short_form(data: Mapping[str, Any], _: Context) -> list[Message]:
    if "prompt" in data and data["prompt"] is None:
        raise refuse("given, or else a prompt: a list of objects with role and content")
    turns: list[tuple[Role, str | None]] = [("system", data.get("system_prompt")), ("user", data.get("prompt", ""))]
    return [Message(role=role, content=content) for role, content in turns if content is not None]


def _enhancement_of_the_type(data: Mapping[str, Any], _: Context) -> EnhancementType | None:
    if data.get("type") not in _ENHANCEMENTS:
        return None
    return "base" if data["type"] == "enhance_base" else "instruct"


def _plain_enhancement(word: object) -> object:
    return _ENHANCEMENT_WORDS.get(word, word) if isinstance(word, str) else word


def _model_of_the_enhancement(data: Mapping[str, Any], context: Context) -> str:
    instruct, base = ChatOperator.of(context.operator).models
    return base if data.get("enhancement_type") == "base" else instruct


def _known_model(name: str, info: ValidationInfo) -> str:
    own = ChatOperator.of(Context.of(info).operator).models
    known = dict(zip((*_MODELS, *own), (*own, *own), strict=True))
    if name not in known:
        # Those that the operator has not named otherwise, by these names.
        allowed = tuple(dict.fromkeys(own))
        raise refuse(f"one of {', '.join(allowed)}", nearest=Vocabulary(zip(allowed, allowed, strict=True)).nearest(name))
    return known[name]


_LONGEST_STOP = 1000
_Stop = Annotated[Text, Field(min_length=1, max_length=_LONGEST_STOP)]


def _as_list(stop: object) -> object:
    if not isinstance(stop, str):
        return stop
    # Judged before it is in a list, where its place would be one that the caller does not know.
    if not 1 <= len(stop) <= _LONGEST_STOP:
        raise PydanticKnownError("string_too_long", {"max_length": _LONGEST_STOP})
    return [ensure_valid_text(stop)]


class ChatRequest(Request):
    """One answer to a conversation, or one enhanced prompt.

    Attributes:
        messages: The conversation, unchanged and in order; made from the short form where that was sent.
        enhancement_type: Which kind of enhancement; `None` for a chat.
    """

    descriptive: ClassVar[frozenset[str]] = Request.descriptive | {
        "project_context", "content_tier", "conversation_id", "project_id", "message_id", "character_id", "context_type",
        "user_preferences",
    }  # fmt: skip

    type: Annotated[
        Literal["chat", "chat_conversation", "generate", "enhance", "chat_enhance", "enhance_base", "enhance_instruct"],
        type_location,
        Field(description="What is to be done."),
    ] = "chat"
    prompt: Annotated[
        Text | None,
        FieldLocation("prompt", sections=("top",)),
        Field(min_length=1, description="The short form: what is to be enhanced or answered."),
    ] = None
    system_prompt: Annotated[Text | None, FieldLocation("system_prompt"), Field(description="The short form: instructions, put first.")] = (
        None
    )
    enhancement_type: Annotated[
        EnhancementType | None,
        BeforeValidator(_plain_enhancement, json_schema_input_type=_EnhancementWord | None),
        FieldLocation("enhancement_type", sections=("config", "top")),
        ComputedDefault(_enhancement_of_the_type, "for enhancements what the type says, else `instruct`"),
        Field(description="`creative` and `adult` mean `base`, `conversational` means `instruct`."),
    ] = UNSET
    target_model: Annotated[
        Literal["sdxl", "wan"] | None,
        FieldLocation("target_model", sections=("config", "top")),
        Field(description="The short form: what the prompt is for. Adds nothing."),
    ] = None
    quality: Annotated[
        Text | None, FieldLocation("quality", sections=("config", "top")), Field(description="The short form: descriptive. Adds nothing.")
    ] = None
    messages: Annotated[
        tuple[Message, ...],
        Field(
            strict=False,
            json_schema_extra={"minItems": 1},
            description="The conversation: at least one message, not only system. Wins over the short form.",
        ),
        FieldLocation("messages"),
        ComputedDefault(_messages_of_the_short_form, "made from `prompt` and `system_prompt`"),
    ] = UNSET
    max_tokens: Annotated[
        int,
        Field(ge=1, le=4096, description="The answer's greatest length."),
        FieldLocation("max_tokens"),
        ComputedDefault.by_type({_CHATS: 512, _ENHANCEMENTS: 200}),
    ] = UNSET
    temperature: Annotated[
        float, Field(ge=0.0, le=2.0, description="0 always takes the likeliest token."), FieldLocation("temperature")
    ] = 0.7
    top_p: Annotated[float, Field(ge=0.0, le=1.0, description="0 keeps only the likeliest token."), FieldLocation("top_p")] = 0.9
    model: Annotated[
        str,
        AfterValidator(_known_model),
        FieldLocation("model", sections=("config", "top")),
        ComputedDefault(_model_of_the_enhancement, "`qwen_instruct`; `qwen_base` for enhancements of type `base`"),
        Field(
            json_schema_extra={"allowed": "qwen_instruct or qwen_base, or what the operator calls them", "examples": list(_MODELS)},
            description="Which model answers. An operator may have put other models in their place, under names of their own.",
        ),
    ] = UNSET
    stop: Annotated[
        tuple[_Stop, ...],
        Field(strict=False, max_length=8, description="The answer ends before the first of these."),
        BeforeValidator(_as_list, json_schema_input_type=_Stop | Annotated[list[_Stop], Field(max_length=8)]),
        FieldLocation("stop"),
    ] = ()
    seed: Annotated[
        Seed,
        FieldLocation("seed"),
        random_seed,
        Field(description="The same seed gives the same answer when nothing else is being answered."),
    ] = UNSET
    presence_penalty: Annotated[
        float,
        Field(ge=-2.0, le=2.0, description="Taken from the logit of every token that was written."),
        FieldLocation("presence_penalty"),
    ] = 0.0
    frequency_penalty: Annotated[
        float,
        Field(ge=-2.0, le=2.0, description="Taken from a token's logit for each time it was written."),
        FieldLocation("frequency_penalty"),
    ] = 0.0
    repetition_penalty: Annotated[
        float,
        Field(ge=0.1, le=2.0, description="What the scores of tokens already there are divided by."),
        FieldLocation("repetition_penalty"),
    ] = 1.0
    response_format: Annotated[ResponseFormat, FieldLocation("response_format"), Field(description="The form of the answer.")] = (
        ResponseFormat(type="text")
    )
    sfw_mode: Annotated[bool, FieldLocation("sfw_mode"), Field(description="Masks the operator's words in the answer.")] = False
    stream: Annotated[
        bool, FieldLocation("stream"), Field(description="Sends the answer while it is written, where the operator allows it.")
    ] = False

    @field_validator("enhancement_type")
    @classmethod
    def _agrees_with_the_type(cls, kind: EnhancementType | None, info: ValidationInfo) -> EnhancementType | None:
        said = str(info.data.get("type")).removeprefix("enhance_")
        if said in ("base", "instruct") and kind != said:
            raise refuse(f'"{said}" with type "{info.data["type"]}"', nearest=said)
        return kind

    @field_validator("messages")
    @classmethod
    def _ask_something(cls, messages: tuple[Message, ...], info: ValidationInfo) -> tuple[Message, ...]:
        if all(message.role == "system" for message in messages):
            sent = "messages of role system only" if messages else None
            raise refuse("a list with at least one message that is not of role system", sent=sent)
        given = Context.of(info).sources
        for name in ("prompt", "system_prompt"):
            if "messages" in given and name in given:
                Context.of(info).warnings.add(f"{given[name]}: not used, because messages are given")
        return messages

    @classmethod
    def _collect(cls, raw: object, warnings: RequestWarnings, operator: Operator) -> CollectedFields:
        if isinstance(raw, Mapping) and is_openai(raw):
            return collect_openai_fields(raw, warnings, streams=ChatOperator.of(operator).streams)
        return super()._collect(raw, warnings, operator)

    @property
    def is_enhancement(self) -> bool:
        """Whether a prompt is to be enhanced, not a conversation continued."""
        return self.type in _ENHANCEMENTS
