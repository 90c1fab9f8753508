"""Row-level security and grants, tried in every role, are those of the published table."""

from __future__ import annotations

from tests.doubles.postgres import Database
from tests.supabase.access import ACTORS, OPERATIONS, PAGE, RELATIONS, VIEWS, page, probe, relations


def test_every_cell_of_the_published_table_is_what_the_database_does(database: Database) -> None:
    table = probe(database)
    assert page(table) == PAGE.read_text("utf-8"), "python -m tests.supabase.access"
    assert all(set(cells) == set(ACTORS) for operations in table.values() for cells in operations.values())
    assert all(tuple(table[name]) == OPERATIONS for name in RELATIONS)


def test_every_table_view_and_bucket_is_in_the_table(database: Database) -> None:
    assert relations(database) == {*RELATIONS, *VIEWS}


def test_another_user_and_anon_may_do_nothing_at_all_and_an_owner_changes_only_the_library(database: Database) -> None:
    allowed = {
        actor: {(name, operation) for name, operations in table.items() for operation, cells in operations.items() if cells[actor]}
        for table in [probe(database)]
        for actor in ACTORS
    }
    assert allowed["other user"] == allowed["anon"] == set()
    changes = {("user_library", "delete"), ("bucket user-library", "insert"), ("bucket user-library", "delete")}
    assert {cell for cell in allowed["owner"] if cell[1] not in ("select", "receive")} == changes
