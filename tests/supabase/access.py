"""Who may read and write what: tries every operation on every table, view, function and bucket in every role.

`python -m tests.supabase.access` writes `docs/access.md`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.doubles.postgres import Database, PostgresServer
from tests.doubles.processes import ROOT

PAGE = ROOT / "docs/access.md"
OWNER, OTHER = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
JOB, SPARE_JOB = "00000000-0000-4000-8000-0000000000a1", "00000000-0000-4000-8000-0000000000a2"
ACTORS: Mapping[str, tuple[str, str | None]] = {
    "owner": ("authenticated", OWNER),
    "other user": ("authenticated", OTHER),
    "anon": ("anon", None),
    "service": ("service_role", None),
}
"""Role and subject of the token."""

OPERATIONS = ("select", "insert", "update", "delete")

_JOB = {"user_id": OWNER, "job_type": "sdxl_image_fast", "format": "image", "model_type": "sdxl", "request": {}, "endpoint": "e1"} | {
    "status": "queued", "metadata": {}, "attempts": 0, "max_attempts": 3, "earlier_runpod_ids": [],
    "created_at": "2026-01-01", "deadline": "2099-01-01",
}  # fmt: skip
_ASSET = {"user_id": OWNER, "asset_type": "text", "content": "x", "generation_settings": {}, "created_at": "2026-01-01"}


@dataclass(frozen=True)
class Probed:
    """A relation to try.

    Attributes:
        relation: Its qualified name.
        row: A row of the owner, which exists.
        spare: Its changed columns for an insertion.
        key: The columns that identify the row.
    """

    relation: str
    row: Mapping[str, object]
    spare: Mapping[str, object]
    key: tuple[str, ...] = ("id",)

    def statements(self) -> dict[str, str]:
        """Returns one statement per operation, whose row count is 1 if it is permitted."""
        found = " and ".join(f"{column} = {_literal(self.row[column])}" for column in self.key)
        return {
            "select": f"select 1 from {self.relation} where {found}",
            "insert": self.insertion({**self.row, **self.spare}),
            "update": f"update {self.relation} set {self.key[0]} = {self.key[0]} where {found}",
            "delete": f"delete from {self.relation} where {found}",
        }

    def insertion(self, row: Mapping[str, object]) -> str:
        """Returns a statement that inserts a row."""
        columns = ", ".join(row)
        document = json.dumps(row).replace("'", "''")
        return f"insert into {self.relation} ({columns}) select {columns} from jsonb_populate_record(null::{self.relation}, '{document}')"


def _bucket(name: str) -> Probed:
    row = {"bucket_id": name, "name": f"{OWNER}/{JOB}/0.png", "id": SPARE_JOB[:-1] + str(len(name) % 10)}
    return Probed("storage.objects", row, {"name": f"{OWNER}/{JOB}/1.png", "id": JOB}, ("name", "bucket_id"))


RELATIONS: Mapping[str, Probed] = {
    "tiers": Probed(
        "public.tiers", {"name": "probed", "max_open_jobs": 1, "max_jobs_per_day": 1, "allows_adult_content": False}
        | {"allows_real_people": False}, {"name": "new"}, ("name",),
    ),
    "jobs": Probed("public.jobs", {**_JOB, "id": JOB}, {"id": SPARE_JOB}),
    "workspace_assets": Probed(
        "public.workspace_assets", {**_ASSET, "id": JOB, "job_id": JOB, "asset_index": 0, "expires_at": "2099-01-01"},
        {"id": SPARE_JOB, "asset_index": 1},
    ),
    "user_library": Probed("public.user_library", {**_ASSET, "id": JOB, "asset_id": JOB}, {"id": SPARE_JOB, "asset_id": SPARE_JOB}),
    "bucket workspace-temp": _bucket("workspace-temp"),
    "bucket user-library": _bucket("user-library"),
}  # fmt: skip
VIEWS = ("performance_metrics", "queue_metrics")
TOPIC = f"jobs:{OWNER}"
CHANNEL: Mapping[str, str] = {
    "receive": f"select 1 from realtime.messages where topic = '{TOPIC}'",
    "send": f"insert into realtime.messages (topic, extension, event) values ('{TOPIC}', 'broadcast', 'job')",
}
"""What Realtime tries as the role of a client that joins the owner's channel."""

_PROBE = """
create function pg_temp.probe(role_name text, claims text, statement text) returns text language plpgsql as $$
declare affected bigint;
begin
  perform set_config('request.jwt.claims', claims, true), set_config('storage.allow_delete_query', 'true', true);
  perform set_config('realtime.topic', (select topic from realtime.messages limit 1), true);
  execute format('set local role %I', role_name);
  begin
    execute statement;
    get diagnostics affected = row_count;
    raise exception using errcode = 'PT000', message = case affected when 0 then '' else 'yes' end;
  exception
    when sqlstate 'PT000' then reset role; return sqlerrm;
    when insufficient_privilege then reset role; return '';
  end;
end $$;
"""


def probe(database: Database) -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    """Returns `yes` or an empty string by object, operation and actor. Every attempt is undone."""
    users = f"insert into auth.users (id) values ('{OWNER}'), ('{OTHER}');"
    database.execute(users + ";".join(probed.insertion(probed.row) for probed in RELATIONS.values()))
    cells = [(name, operation, actor, statement) for name, operation, statement in _statements(database) for actor in ACTORS]
    calls = [
        f"pg_temp.probe({_literal(ACTORS[actor][0])}, {_literal(json.dumps({'sub': ACTORS[actor][1]}))}, {_literal(statement)})"
        for _, _, actor, statement in cells
    ]
    answers = json.loads(database.execute(_PROBE + "begin; select array_to_json(array[" + ", ".join(calls) + "]); rollback;"))
    table: dict[str, dict[str, dict[str, str]]] = {}
    for (name, operation, actor, _), answer in zip(cells, answers, strict=True):
        table.setdefault(name, {}).setdefault(operation, {})[actor] = answer
    return table


def _statements(database: Database) -> Iterator[tuple[str, str, str]]:
    for name, probed in RELATIONS.items():
        yield from ((name, operation, statement) for operation, statement in probed.statements().items())
    yield from (("channel jobs:{user_id}", operation, statement) for operation, statement in CHANNEL.items())
    for view in VIEWS:
        yield view, "select", f"select count(*) from public.{view}"
    yield "schema private", "usage", "select 1 where has_schema_privilege('private', 'usage')"
    for function, arguments in functions(database).items():
        signature = f"public.{function}({', '.join(arguments)})"
        yield f"{function}()", "execute", f"select 1 where has_function_privilege('{signature}', 'execute')"


def functions(database: Database) -> Mapping[str, list[str]]:
    """Returns the functions of the API with the types of their arguments."""
    query = """
      select proname as name, array(select format_type(t, null) from unnest(proargtypes) as t) as types
      from pg_proc where pronamespace = 'public'::regnamespace order by 1"""
    return {row["name"]: row["types"] for row in database.rows(query)}


def relations(database: Database) -> set[str]:
    """Returns the names of all tables and views of the API and of all buckets."""
    tables = "select relname as name from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v', 'm', 'p', 'f')"
    return {row["name"] for row in database.rows(f"{tables} union all select 'bucket ' || id from storage.buckets")}


def page(table: Mapping[str, Mapping[str, Mapping[str, str]]]) -> str:
    """Returns the page as Markdown."""
    lines = [
        "# Access",
        "",
        "Which role may do what with a row or object of *owner*, tried on a real database. An empty cell is refused, or",
        "affects no row. All other changes go through the edge functions, which connect as `postgres` and name the owner in each",
        "statement. Generated by `python -m tests.supabase.access`.",
        "",
        "| | operation | " + " | ".join(ACTORS) + " |",
        "|---|---|" + "---|" * len(ACTORS),
    ]  # fmt: skip
    for name, operations in table.items():
        for operation, cells in operations.items():
            lines.append(f"| `{name}` | {operation} | " + " | ".join(cells[actor] for actor in ACTORS) + " |")
    return "\n".join(lines) + "\n"


def _literal(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def main() -> int:
    """Writes the page."""
    with PostgresServer() as server:
        PAGE.write_text(page(probe(server.new_database())), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
