"""Twenty chat templates in the structure of published ones, which trim, merge, drop, move and reject messages, and have tools or none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """A chat template with the control tokens that its tokenizer has.

    Attributes:
        text: The template.
        special: Control tokens that are flagged special.
        added: Added tokens that are not.
        ends: The control token that ends a completion, besides the tokenizer's own.
    """

    text: str
    special: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    ends: str | None = None


_ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% endfor %}"
)
_TAKES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] %}{% set messages = messages[1:] %}"
    "{% else %}{% set first = '' %}{% endif %}"
)
_QWEN_CALLS = (
    "{% for call in m.tool_calls or [] %}{% set f = call.function %}\n<tool_call>\n"
    '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\n</tool_call>{% endfor %}'
)
_QWEN_TOOLS = (
    "{% if tools %}\n\n# Tools\n\n<tools>{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools>\n\n"
    'Return <tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>{% endif %}'
)
_CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
_CHATML_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_CHATML_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")

TEMPLATES = {
    "Qwen2.5": Template(
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen." + _QWEN_TOOLS + "<|im_end|>\n{% endif %}"
        "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response><|im_end|>\n"
        "{% elif m.role in ('system', 'user', 'assistant') %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% if m.role == 'system' and loop.first %}" + _QWEN_TOOLS + "{% endif %}" + _QWEN_CALLS + "<|im_end|>\n{% endif %}{% endfor %}"
        + _CHATML_PROMPT,
        _CHATML_TOKENS, ("<tool_call>", "</tool_call>"), "<|im_end|>",
    ),
    "Qwen3": Template(
        "{% if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}" + _QWEN_TOOLS
        + "<|im_end|>\n{% elif messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}"
        "{% set ns = namespace(last=messages|length - 1) %}"
        "{% for m in messages[::-1] %}{% set at = messages|length - 1 - loop.index0 %}"
        "{% if m.role == 'user' and ns.last == messages|length - 1 %}"
        "{% set ns.last = at %}{% endif %}{% endfor %}"
        "{% for m in messages %}{% set content = m.content if m.content is string else '' %}"
        "{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}<|im_start|>{{ m.role }}\n{{ content }}<|im_end|>\n"
        "{% elif m.role == 'assistant' %}{% if '</think>' in content and loop.index0 < ns.last %}"
        "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}<|im_start|>assistant\n{{ content }}" + _QWEN_CALLS
        + "<|im_end|>\n{% elif m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ content }}\n</tool_response><|im_end|>\n"
        "{% endif %}{% endfor %}" + _CHATML_PROMPT,
        _CHATML_TOKENS, ("<tool_call>", "</tool_call>", "<think>", "</think>", "<tool_response>", "</tool_response>"), "<|im_end|>",
    ),
    "ChatML": Template(_CHATML + _CHATML_PROMPT, _CHATML_TOKENS, (), "<|im_end|>"),
    "SmolLM2": Template(
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful AI assistant named SmolLM.<|im_end|>\n{% endif %}"
        + _CHATML + _CHATML_PROMPT,
        _CHATML_TOKENS, (), "<|im_end|>",
    ),
    "Llama 2": Template(
        _TAKES_SYSTEM + _ALTERNATES
        + "{% for m in messages %}{% if loop.index0 == 0 and first %}{% set content = '<<SYS>>\n' + first + '\n<</SYS>>\n\n' + m.content %}"
        "{% else %}{% set content = m.content %}{% endif %}{% if m.role == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "Llama 3": Template(
        "{% set loop_messages = messages %}{% for m in loop_messages %}"
        "{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), (), "<|eot_id|>",
    ),
    "Llama 3.1": Template(
        "{{ bos_token }}" + _TAKES_SYSTEM + "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "{{ first | trim }}<|eot_id|>{% for m in messages %}{% if m.role == 'tool' or m.role == 'ipython' %}"
        "<|start_header_id|>ipython<|end_header_id|>\n\n{{ m.content | tojson }}<|eot_id|>"
        "{% elif 'tool_calls' in m %}{% if not m.tool_calls|length == 1 %}"
        "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{{ m.tool_calls[0].function | tojson }}<|eom_id|>"
        "{% else %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"), (), "<|eot_id|>",
    ),
    "Mistral": Template(
        "{{ bos_token }}" + _ALTERNATES
        + "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
    ),
    "Mistral Nemo": Template(
        _TAKES_SYSTEM + _ALTERNATES
        + "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]{% if loop.last and first %}{{ first }}\n\n{% endif %}"
        "{{ m.content }}[/INST]{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        ("[INST]", "[/INST]"),
    ),
    "Gemma": Template(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + _ALTERNATES
        + "{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
        "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<start_of_turn>", "<end_of_turn>"), (), "<end_of_turn>",
    ),
    "Gemma 3": Template(
        "{{ bos_token }}" + _TAKES_SYSTEM + _ALTERNATES
        + "{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}<start_of_turn>{{ role }}\n"
        "{% if loop.first and first %}{{ first }}\n\n{% endif %}{% if m.content is string %}{{ m.content | trim }}"
        "{% else %}{{ raise_exception('Invalid content type') }}{% endif %}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<start_of_turn>", "<end_of_turn>", "<start_of_image>"), (), "<end_of_turn>",
    ),
    "Phi-3": Template(
        "{% for m in messages %}{% if m['role'] == 'system' and m['content'] %}{{ '<|system|>\n' + m['content'] + '<|end|>\n' }}"
        "{% elif m['role'] == 'user' %}{{ '<|user|>\n' + m['content'] + '<|end|>\n' }}"
        "{% elif m['role'] == 'assistant' %}{{ '<|assistant|>\n' + m['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), (), "<|end|>",
    ),
    "Phi-4": Template(
        "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}",
        ("<|im_start|>", "<|im_sep|>", "<|im_end|>"), (), "<|im_end|>",
    ),
    "Zephyr": Template(
        "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + eos_token }}\n"
        "{% elif m['role'] == 'system' %}\n{{ '<|system|>\n' + m['content'] + eos_token }}\n"
        "{% elif m['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + m['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
    ),
    "Vicuna": Template(
        _TAKES_SYSTEM + "{{ first or 'A chat between a curious user and an artificial intelligence assistant.' }} "
        "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} {% elif m.role == 'assistant' %}ASSISTANT: {{ m.content }}"
        "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
    "Alpaca": Template(
        "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content | trim }}\n\n"
        "{% elif m.role == 'assistant' %}### Response:\n{{ m.content | trim }}\n\n{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}### Response:\n{% endif %}"
    ),
    "DeepSeek": Template(
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.system = ns.system + m.content %}"
        "{% endif %}{% endfor %}{{ bos_token }}{{ ns.system }}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
        "{% elif m.role == 'assistant' %}{% set content = m.content.split('</think>')[-1] if '</think>' in m.content else m.content %}"
        "<｜Assistant｜>{{ content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}",
        ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"), ("<think>", "</think>"), "<｜end▁of▁sentence｜>",
    ),
    "Command R": Template(
        "{{ bos_token }}" + _TAKES_SYSTEM + _ALTERNATES
        + "{% if first %}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{ first }}<|END_OF_TURN_TOKEN|>{% endif %}{% for m in messages %}"
        "<|START_OF_TURN_TOKEN|>{{ '<|USER_TOKEN|>' if m.role == 'user' else '<|CHATBOT_TOKEN|>' }}{{ m.content.strip() }}"
        "<|END_OF_TURN_TOKEN|>{% endfor %}{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
        ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"), (),
        "<|END_OF_TURN_TOKEN|>",
    ),
    "Granite": Template(
        "{% if tools %}{{ '<|start_of_role|>available_tools<|end_of_role|>' + tools | tojson(indent=4) + eos_token + '\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + eos_token + '\n' }}"
        "{% if loop.last and add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}{% endfor %}",
        ("<|start_of_role|>", "<|end_of_role|>"),
    ),
    "OLMo 2": Template(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ '<|system|>\n' + m['content'] + '\n' }}"
        "{% elif m['role'] == 'user' %}{{ '<|user|>\n' + m['content'] + '\n' }}{% elif m['role'] == 'assistant' %}"
        "{% if not loop.last %}{{ '<|assistant|>\n'  + m['content'] + eos_token + '\n' }}"
        "{% else %}{{ '<|assistant|>\n'  + m['content'] + eos_token }}{% endif %}{% endif %}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
    ),
}  # fmt: skip
