"""A fake of the part of Supabase's Management API that the CLI calls to set secrets and to deploy functions."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from playground.loopback import LoopbackServer, RequestHandler


@dataclass
class DeployedFunction:
    """An uploaded function.

    Attributes:
        settings: What the CLI sends with it.
        files: Contents by path from the root of the repository.
    """

    settings: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)


class FakeManagementAPI(LoopbackServer):
    """Records secrets and functions of any project.

    Attributes:
        secrets: Values by name.
        functions: By name.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.secrets: dict[str, str] = {}
        self.functions: dict[str, DeployedFunction] = {}

    def deploy(self, name: str, body: bytes, content_type: str) -> None:
        """Records an upload, a form with the files and `metadata`."""
        mimetype, options = parse_options_header(content_type)
        _, form, files = FormDataParser().parse(BytesIO(body), mimetype, None, options)
        contents = {str(file.filename): file.stream.read() for file in files.getlist("file")}
        self.functions[name] = DeployedFunction(json.loads(form["metadata"]), contents)


class _Handler(RequestHandler[FakeManagementAPI]):
    def do_GET(self) -> None:
        self.respond_json(200, {"ref": "any", "name": "any"})

    def do_POST(self) -> None:
        url, body = urlsplit(self.path), self.body()
        if url.path.endswith("/secrets"):
            self.service.secrets |= {secret["name"]: secret["value"] for secret in json.loads(body)}
            self.respond_json(201, {})
        else:
            (name,) = parse_qs(url.query)["slug"]
            self.service.deploy(name, body, self.headers["Content-Type"])
            self.respond_json(201, {"id": "any", "slug": name, "name": name, "status": "ACTIVE", "version": 1})

    def do_PUT(self) -> None:
        self.body()
        self.respond_json(200, {"functions": []})
