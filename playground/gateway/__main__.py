"""`python -m playground.gateway MODELS`: serves the three handlers behind RunPod's API on this machine."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
import webbrowser
from pathlib import Path

from handlers import HANDLERS
from playground.gateway.server import Gateway, GatewayOptions
from shared.contract.callback_hosts import LOOPBACK_HOSTS


def main() -> int:
    """Runs the command and returns the exit status."""
    arguments = _parser().parse_args()
    key = arguments.key or (None if arguments.host in LOOPBACK_HOSTS else secrets.token_urlsafe(24))
    endpoints = {name: f"handlers.{name}.handler" for name in arguments.handlers}
    names = ("models", "output", "workers", "host", "port")
    options = GatewayOptions(endpoints=endpoints, key=key, **{name: getattr(arguments, name) for name in names})
    try:
        gateway = Gateway(options)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        print(f"Port {options.port} of {options.host} cannot be used: {reason}. Choose another one with --port.", file=sys.stderr)
        return 1
    _print_addresses(gateway, key)
    if arguments.open:
        webbrowser.open(gateway.url)  # the port is bound already, so the page waits until it is served
    asyncio.run(gateway.run())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m playground.gateway", description=__doc__)
    parser.add_argument("models", type=Path, help="the folder with the models, made by `make models`")
    parser.add_argument("--output", type=Path, default=Path("out"), help="the folder for results and logs (default: out)")
    parser.add_argument("--handlers", nargs="+", choices=HANDLERS, default=HANDLERS, help="the endpoints to serve (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="workers per endpoint (default: 1)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1; others need a key)")
    parser.add_argument("--port", type=int, default=8000, help="the port, or the next free one (default: 8000)")
    parser.add_argument("--key", help="the API key that callers must send (default: none on loopback, else a random one)")
    parser.add_argument("--open", action="store_true", help="open the playground in the browser")
    return parser


def _print_addresses(gateway: Gateway, key: str | None) -> None:
    print(f"The playground is at {gateway.url}, and a local RunPod at {gateway.url}/v2.")
    print("Workers load their models now; jobs wait in the queue meanwhile.")
    for endpoint in gateway.endpoints:
        print(f"    POST {gateway.url}/v2/{endpoint.name}/run")
    print(f"Authorization: Bearer {key}" if key else "Any API key is accepted, because only this machine can connect.")
    print("Ctrl+C ends it.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
