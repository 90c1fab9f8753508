"""The command line of a worker, `python -m handlers.sdxl.handler`: mistakes are reported in one sentence, before anything is loaded.

The options that start with `--rp_`, and `--test_input`, are those of RunPod's SDK, which reads them again.
"""

from __future__ import annotations

import argparse
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NoReturn, get_args

Scope = Literal["image", "weights", "machine"]
"""What `--check` checks."""

JOB_FILE = Path("test_input.json")
"""The local job without `--test_input`, in the current folder."""

_JOB = "'{\"input\": {…}}'"


class CommandLineError(Exception):
    """The command line cannot be followed. The message is one sentence on what is wrong and one on what to do, and shows no job."""


@dataclass(frozen=True)
class CommandLine:
    """A worker's command line.

    Attributes:
        check: The scope of the self-check that replaces the start, if any.
        has_job: Whether `--test_input` has a job.
        api_address: The URL of the local API, if one is to be served.
    """

    check: Scope | None = None
    has_job: bool = False
    api_address: str | None = None

    def ensure_job(self, handler: str) -> None:
        """Checks that a local run has a job: that of `--test_input`, or the one in `JOB_FILE`.

        Args:
            handler: The name of the handler.

        Raises:
            CommandLineError: There is none, or the file has no job.
        """
        if self.has_job or self.api_address is not None:
            return
        if not JOB_FILE.is_file():
            raise CommandLineError(
                f"There is no job to run: this folder has no {JOB_FILE}. Pass one with --test_input {_JOB}, as in "
                f"handlers/{handler}/test_input.json, or serve jobs with --rp_serve_api."
            )
        _check_job(str(JOB_FILE), JOB_FILE.read_text(encoding="utf-8"), handler)


def parse_command_line(handler: str, arguments: Sequence[str]) -> CommandLine:
    """Parses and checks a command line. `--help` prints the options and exits with 0.

    Args:
        handler: The name of the handler.
        arguments: The command line without the program.

    Raises:
        CommandLineError: An option or its value is wrong, or the port of the local API is in use.
    """
    parser = _parser(handler)
    values, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise CommandLineError(f"There is no option {unknown[0]}.{_suggestion(parser, unknown[0])} --help lists all options.")
    if values.test_input is not None:
        _check_job("--test_input", values.test_input, handler)
    return CommandLine(_scope(values.check), values.test_input is not None, _api_address(values) if values.rp_serve_api else None)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandLineError(f"{message[0].upper()}{message[1:]}. --help lists all options.")


def _parser(handler: str) -> argparse.ArgumentParser:
    program = f"python -m handlers.{handler}.handler"
    parser = _Parser(
        prog=program,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Runs a worker: on RunPod the jobs of its queue, elsewhere one local job, by default the one in ./test_input.json.",
        epilog=f"The configuration is read from environment variables: docs/environment.md.\n\n  {program} --check\n"
        f'  MODELS_DIR=models {program} --test_input "$(cat handlers/{handler}/test_input.json)"\n  {program} --rp_serve_api',
    )
    scopes = ", ".join(get_args(Scope))
    parser.add_argument("--check", nargs="?", const="machine", metavar="SCOPE", help=f"check and exit: {scopes} (the default)")
    parser.add_argument("--test_input", metavar="JSON", help=f"the local job, {_JOB}")
    parser.add_argument("--rp_serve_api", action="store_true", help="serve jobs over HTTP on this machine, for trials")
    parser.add_argument("--rp_api_host", default="localhost", metavar="HOST", help="its host name (default: %(default)s)")
    parser.add_argument("--rp_api_port", default="8000", metavar="PORT", help="its port (default: %(default)s)")
    parser.add_argument("--rp_api_concurrency", default=1, type=int, metavar="N", help="its number of processes (default: %(default)s)")
    parser.add_argument("--rp_log_level", metavar="LEVEL", help="of RunPod's SDK; this worker's own is LOG_LEVEL")
    parser.add_argument("--rp_debugger", action="store_true", help="of RunPod's SDK")
    return parser


def _suggestion(parser: argparse.ArgumentParser, unknown: str) -> str:
    options = [option for action in parser._actions for option in action.option_strings]
    near = get_close_matches(unknown.partition("=")[0], options, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _scope(value: str | None) -> Scope | None:
    if value is None:
        return None
    for scope in get_args(Scope):
        if value == scope:
            return scope  # type: ignore[no-any-return]  # get_args has no types
    raise CommandLineError(f"--check takes {', '.join(get_args(Scope))} or nothing, which means machine; got {value!r}.")


def _check_job(source: str, text: str, handler: str) -> None:
    try:
        job = json.loads(text)
    except ValueError as error:
        place = f": {error.msg} at line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise CommandLineError(f"{source} is not JSON{place}. A job is {_JOB}, as in handlers/{handler}/test_input.json.") from None
    if not isinstance(job, dict) or not job.get("input"):
        raise CommandLineError(f"{source} has no input. A job is {_JOB}, as in handlers/{handler}/test_input.json.")


def _api_address(values: argparse.Namespace) -> str:
    """The address of the local API, which must be free: the SDK would find out only after the models have been loaded."""
    host, port = values.rp_api_host, values.rp_api_port
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise CommandLineError(f"--rp_api_port must be a whole number from 1 to 65535; got {port!r}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = (error.strerror or "it cannot be bound").lower()
        raise CommandLineError(f"The local API cannot listen on {host}:{port}: {reason}. Choose another --rp_api_port.") from None
    return f"http://{host}:{port}"
