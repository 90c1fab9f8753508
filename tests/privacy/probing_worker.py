"""A worker that starts a program while it loads its models, as libraries do: `python -m tests.privacy.probing_worker`."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import NoReturn

from shared.serverless import serve
from shared.settings import Settings, SettingsError
from tests.doubles.stub_worker import HANDLER


def _probe(settings: Settings) -> NoReturn:
    assert settings.supabase_key is not None, "it was read before"
    subprocess.run(["env"], check=True)
    raise SettingsError("The environment was printed.")


if __name__ == "__main__":
    serve(replace(HANDLER, load=_probe))
