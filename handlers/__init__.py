"""One package per endpoint, listed in `HANDLERS`. Images, lock files, schemas and tests are derived from that list or checked against it.

A handler `name` provides, by convention, with `Name` its name capitalized:

- `handlers/name/handler.py`: `HANDLER`, the `shared.handler.Handler` that `python -m handlers.name.handler` serves
- `handlers/name/request.py`: `NameRequest`, the model of its requests
- `handlers/name/payload.py`: `NamePayload`, the union of its payloads, discriminated by `status`
- `handlers/name/test_input.json`: the job of the image's default command
- `handlers/name/.runpod/`: its listing on RunPod's Hub

No handler is imported here, so that an image contains the package of its own handler only.
"""

import sys
from importlib.util import find_spec

HANDLERS = ("sdxl", "wan", "chat")

_LIBRARIES = ("pydantic", "pydantic_settings", "runpod", "httpx", "stamina", "structlog", "PIL")

# `python -m` imports this package first, with `-m` as the program's name.
if sys.argv[:1] == ["-m"] and (sys.version_info < (3, 11) or any(find_spec(name) is None for name in _LIBRARIES)):
    raise SystemExit(f"{sys.executable} lacks the libraries of this project. Run `make setup`, then .venv/bin/python in its place.")
