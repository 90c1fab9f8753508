"""The process that renders chat templates: `python -m handlers.chat.template_process FD`.

A template is a program that comes with the weights, and has no limit of its own: nested loops, `9**9**9`, or a text that is repeated. So it
is rendered where the kernel limits processor time, memory and duration: it kills the process, whose connection then closes. A request and a
response are one line of JSON each.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from handlers.chat.structured.sandbox_process import limit_memory

_render: Final[Callable[..., Any]] = render_jinja_template  # annotated as a text, but returns a list of texts and a list of positions

PROCESSOR_SECONDS = 1
MEMORY = 256 * 2**20
# Seconds. More than the processor time, because other processes may compete for it.
DURATION = 20
# Of a rendered text. Templates add instructions, and may repeat messages.
_ADDED_CHARACTERS, _REPEATED = 2**18, 4


def main() -> None:
    """Renders one request after the other, until the parent closes the connection."""
    limit_memory(MEMORY)
    with socket.socket(fileno=int(sys.argv[1])) as parent, parent.makefile("rwb") as file:
        for line in file:
            _limit_time()
            answer = json.dumps(answer_to(json.loads(line))).encode()
            signal.alarm(0)
            file.write(answer + b"\n")
            file.flush()


def answer_to(request: dict[str, Any]) -> dict[str, str]:
    """Renders a conversation.

    Returns:
        `rendered`; or `rejected`, the template's own sentence; or `failed`, the type of another error; or `limit`.
    """
    try:
        texts, _ = _render(
            [request["messages"]],
            tools=request["tools"] or None,
            chat_template=request["template"],
            add_generation_prompt=not request["continues"],
            continue_final_message=request["continues"],
            **request["variables"],
        )
    except TemplateError as error:
        return {"rejected": error.message or ""}
    except (TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
        return {"failed": type(error).__name__}
    except MemoryError:
        return {"limit": "memory"}
    rendered = str(texts[0])
    length = len(json.dumps([request["messages"], request["tools"]], ensure_ascii=False))
    return {"limit": "length"} if len(rendered) > _REPEATED * length + _ADDED_CHARACTERS else {"rendered": rendered}


def _limit_time() -> None:
    """Limits what this process uses from now on."""
    signal.alarm(DURATION)
    used = math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + PROCESSOR_SECONDS, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
