"""The chat request. To add a field, declare it here; parsing, error messages, schemas and documentation are derived from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from handlers.chat.decoding_fields import (
    CompletionPrompt,
    GuidedChoice,
    GuidedJson,
    GuidedRegex,
    LogitBias,
    Logprobs,
    MinP,
    MinTokens,
    N,
    Stop,
    StopTokenIds,
    TopK,
    TopLogprobs,
)
from handlers.chat.messages import Message, ensure_consistent
from handlers.chat.openai.request import collect_openai_fields, is_openai
from handlers.chat.response_format import Constraint, ResponseFormat, StructuredOutputs
from handlers.chat.short_form import (
    CHATS,
    ENHANCEMENTS,
    MODELS,
    EnhancementName,
    EnhancementType,
    canonical_enhancement,
    canonical_model,
    enhancement_from_type,
    messages_from_short_form,
    model_for_enhancement,
)
from handlers.chat.tools.constraint import tools_constraint
from handlers.chat.tools.fields import Choice, ParallelToolCalls, Tool, ToolChoice, Tools, ensure_distinct, ensure_listed
from shared.contract.collect_fields import CollectedFields
from shared.contract.context import Context, Operator, RequestWarnings
from shared.contract.field_location import UNSET, ComputedDefault, FieldLocation
from shared.contract.fields import Seed, Text, seed_of_job
from shared.contract.rejections import conflict, refuse, requires
from shared.contract.request import Request, type_location

_MAX_LOGPROBS = 40_000  # a few megabytes of JSON


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
        BeforeValidator(canonical_enhancement, json_schema_input_type=EnhancementName | None),
        FieldLocation("enhancement_type", sections=("config", "top")),
        ComputedDefault(enhancement_from_type, "for enhancements as the type says, else `instruct`"),
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
    completion_prompt: CompletionPrompt = None
    messages: Annotated[
        tuple[Message, ...],
        Field(
            strict=False,
            json_schema_extra={"minItems": 1},
            description="The conversation: at least one message that is not of role system. Takes precedence over the short form.",
        ),
        FieldLocation("messages"),
        ComputedDefault(messages_from_short_form, "built from `prompt` and `system_prompt`"),
    ] = UNSET
    max_tokens: Annotated[
        int,
        Field(ge=1, le=4096, description="The maximum length of the completion in tokens."),
        FieldLocation("max_tokens", aliases=("max_completion_tokens",)),
        ComputedDefault.by_type({CHATS: 512, ENHANCEMENTS: 200}),
    ] = UNSET
    temperature: Annotated[
        float, Field(ge=0.0, le=2.0, description="The sampling temperature; 0 is greedy decoding."), FieldLocation("temperature")
    ] = 0.7
    top_p: Annotated[
        float, Field(ge=0.0, le=1.0, description="Nucleus sampling; 0 keeps only the most likely token."), FieldLocation("top_p")
    ] = 0.9
    model: Annotated[
        str,
        AfterValidator(canonical_model),
        FieldLocation("model", sections=("config", "top")),
        ComputedDefault(model_for_enhancement, "`qwen_instruct`; `qwen_base` for enhancements of type `base`"),
        Field(
            json_schema_extra={"allowed": "qwen_instruct or qwen_base, or the operator's names for them", "examples": list(MODELS)},
            description="The model. An operator may serve other models under names of their own.",
        ),
    ] = UNSET
    stop: Stop = ()
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
    n: N = 1
    logprobs: Logprobs = False
    top_logprobs: TopLogprobs = 0
    tools: Tools = ()
    tool_choice: Choice = ToolChoice(type="auto")
    parallel_tool_calls: ParallelToolCalls = True
    stream: Annotated[bool, FieldLocation("stream"), Field(description="Streams the completion.")] = False

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
        ensure_consistent(messages)
        given = Context.of(info).sources
        if info.data.get("completion_prompt") is not None and (others := [name for name in ("messages", "prompt") if name in given]):
            raise conflict("completion_prompt", *others)
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

    @field_validator("logprobs")
    @classmethod
    def _shows_no_masked_word(cls, logprobs: bool, info: ValidationInfo) -> bool:
        if logprobs and info.data.get("sfw_mode"):
            raise conflict("logprobs", "sfw_mode")
        return logprobs

    @field_validator("top_logprobs")
    @classmethod
    def _are_not_too_many(cls, count: int, info: ValidationInfo) -> int:
        logprobs, tokens = info.data.get("logprobs", True), info.data.get("n", 1) * info.data.get("max_tokens", 1)
        if count and not logprobs:
            raise requires("top_logprobs", "logprobs: true")
        if logprobs and tokens * (count + 1) > _MAX_LOGPROBS:
            raise refuse(f"so few that all completions together have at most {_MAX_LOGPROBS} log probabilities")
        return count

    @field_validator("tools")
    @classmethod
    def _have_different_names(cls, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
        return ensure_distinct(tools)

    @field_validator("tool_choice")
    @classmethod
    def _can_be_followed(cls, choice: ToolChoice, info: ValidationInfo) -> ToolChoice:
        tools = info.data.get("tools")
        if tools is None:
            return choice
        ensure_listed(choice, tools)
        others = [each.field for each in _constraints(info.data, info.data.get("structured_outputs")) if each.kind != "json"]
        others += [name for name in ("completion_prompt", "continue_final_message") if info.data.get(name)]
        if tools and choice.type != "none" and others:
            raise conflict("tools", *others)
        return choice

    @classmethod
    def _collect(cls, raw: object, warnings: RequestWarnings, operator: Operator) -> CollectedFields:
        if isinstance(raw, Mapping) and is_openai(raw):
            return collect_openai_fields(raw, warnings)
        return super()._collect(raw, warnings, operator)

    @property
    def content_constraint(self) -> Constraint | None:
        """What the content of the completion must conform to; None for free text."""
        return next(_constraints(vars(self), self.structured_outputs), None)

    @property
    def constraint(self) -> Constraint | None:
        """What the whole completion must conform to, tool calls included; None for free text."""
        tools, content = self.callable_tools, self.content_constraint
        return tools_constraint(tools, self.tool_choice, content, parallel=self.parallel_tool_calls) if tools else content

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """The tools that the model knows of and may call."""
        return () if self.tool_choice.type == "none" else self.tools

    @property
    def is_enhancement(self) -> bool:
        """Whether the job enhances a prompt instead of continuing a conversation."""
        return self.type in ENHANCEMENTS
