"""The fenced code blocks of the documentation, and the test that runs or checks each of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "small_models").rglob("*.md")),
]
_FENCE = re.compile(r"(?:^<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Path of its page, relative to the repository.
        info: What follows the opening fence: the language, and for some pages `file=…`.
        text: Its lines.
        reason: Why nothing runs it, from an HTML comment `<!-- not run: … -->` on the line before; else None.
    """

    page: str
    info: str
    text: str
    reason: str | None

    @property
    def language(self) -> str:
        """The first word after the opening fence."""
        return self.info.partition(" ")[0]

    @property
    def start(self) -> str:
        """Its first line."""
        return self.text.partition("\n")[0]


def blocks() -> list[Block]:
    """Returns the blocks of all pages, in their order."""
    return [
        Block(page.relative_to(ROOT).as_posix(), found["info"], found["text"], found["reason"])
        for page in PAGES
        for found in _FENCE.finditer(page.read_text(encoding="utf-8"))
    ]


def block(page: str, start: str) -> str:
    """Returns the text of the block of a page whose first line starts so."""
    (found,) = (each.text for each in blocks() if each.page == page and each.start.startswith(start))
    return found


_SHELL = "tests/documentation/test_shell_blocks.py::"
_PAGES = "tests/documentation/test_pages.py::"
_ADDONS = "tests/builder/weights/test_addons.py::"
_INTEGRATION = "tests/supabase/test_integration_page.py::"
_DEPLOY = "tests/test_deploy_walkthrough.py::"
_COMMANDS = "tests/test_deploy_commands.py::"
_FOURTH = "tests/test_write_a_handler.py::"
_BENCHMARKS = "tests/benchmarks/"

_FIRST_JOB = _DEPLOY + "test_the_first_job_is_the_one_that_the_page_describes"

COVERED: dict[tuple[str, str], str] = {
    ("README.md", "make demo"): _SHELL + "test_make_runs_what_the_pages_say",
    ("README.md", "curl https://api.runpod.ai/v2/$ENDPOINT_ID/run "): _SHELL + "test_the_request_of_the_readme_makes_the_files_it_shows",
    ("README.md", "{"): "tests/test_docs.py::test_the_payload_that_the_readme_shows_has_the_keys_of_a_real_one",
    ("README.md", "make image"): _SHELL + "test_the_image_of_the_readme_is_pushed_under_the_tag_that_was_built",
    ("README.md", "import os"): _SHELL + "test_the_python_program_of_the_readme_submits_a_job",
    ("README.md", "import type"): _SHELL + "test_the_typescript_program_of_the_readme_prints_the_answer",
    ("README.md", "import { Webhook }"): "tests/shared/test_standard_webhooks.py::test_a_callback_verifies_in_python_and_in_node",
    (
        "docs/endpoint-simulation.md",
        ".venv/bin/python -m",
    ): _BENCHMARKS + "test_endpoint.py::test_the_command_of_the_page_prints_two_rows",
    ("docs/architecture.md", "handlers.sdxl |"): _PAGES + "test_the_layers_shown_are_those_that_lint_enforces",
    ("docs/demo.md", "SDXL: images"): _PAGES + "test_the_transcript_of_the_demo_is_of_its_own_jobs",
    ("docs/deploy.md", "make image HANDLER=sdxl"): _COMMANDS + "test_the_image_that_is_pushed_is_the_one_that_was_built",
    ("docs/deploy.md", "make models"): _COMMANDS + "test_the_image_that_is_tried_has_the_small_models_where_a_worker_finds_its_volume",
    ("docs/deploy.md", "apt-get install buildah"): _COMMANDS + "test_without_a_registry_the_image_is_built_on_the_base_image_that_was_made",
    ("docs/deploy.md", "python -m builder.download_weights sdxl --to"): _DEPLOY + "volume",
    ("docs/deploy.md", "python -m builder.download_weights --checkpoint"): _DEPLOY
    + "test_an_own_checkpoint_is_downloaded_by_the_pages_command_and_found",
    ("docs/deploy.md", "python -m builder.download_weights sdxl --w"): _ADDONS + "test_every_feature_is_installed_and_serves_its_requests",
    ("docs/deploy.md", "HF_TOKEN=hf_… docker build"): _COMMANDS + "test_baked_weights_take_the_token_as_a_secret_of_the_build",
    ("docs/deploy.md", "SUPABASE_URL="): _DEPLOY + "settings_of_the_page",
    ("docs/deploy.md", "BUCKET_ENDPOINT_URL="): _SHELL + "test_the_variables_of_a_bucket_configure_a_worker",
    ("docs/deploy.md", "jq -r"): _SHELL + "test_an_inline_result_is_decoded",
    ("docs/deploy.md", "export ENDPOINT_ID="): _FIRST_JOB,
    ("docs/deploy.md", 'curl "https://api.runpod.ai/v2/$ENDPOINT_ID/status'): _DEPLOY
    + "test_the_first_job_is_the_one_that_the_page_describes",
    ("docs/integration.md", "supabase --yes db push"): _INTEGRATION + "test_the_tables_schedule_and_tiers_are_those_of_the_page",
    ("docs/integration.md", "cat > functions.env"): _INTEGRATION + "test_secrets_are_set_that_the_functions_read",
    ("docs/integration.md", "supabase --yes functions deploy"): _INTEGRATION + "test_every_function_is_deployed_with_all_its_modules",
    ("docs/integration.md", "select vault.create_secret"): _INTEGRATION + "test_the_tables_schedule_and_tiers_are_those_of_the_page",
    ("docs/integration.md", "update public.tiers"): _INTEGRATION + "test_the_tables_schedule_and_tiers_are_those_of_the_page",
    ("docs/integration.md", "import { createClient }"): _INTEGRATION + "test_a_job_is_queued_from_a_shell_and_from_a_page",
    ("docs/integration.md", "cat > submission.json"): _INTEGRATION + "test_a_job_is_queued_from_a_shell_and_from_a_page",
    ("docs/integration.md", "cat > rotation.env"): _INTEGRATION + "test_secrets_are_set_that_the_functions_read",
    ("docs/integration.md", "select vault.update_secret"): _INTEGRATION + "test_the_tables_schedule_and_tiers_are_those_of_the_page",
    ("docs/integration.md", "alter table"): _INTEGRATION + "test_jobs_and_assets_move_over_from_older_tables",
    ("docs/integration.md", "insert into public.jobs"): _INTEGRATION + "test_jobs_and_assets_move_over_from_older_tables",
    ("docs/operate.md", 'curl "https://api.runpod.ai/v2/$ENDPOINT_ID/status'): _SHELL + "test_a_failed_job_is_read_from_its_id",
    ("docs/operate.md", "python -m shared.redeliver"): _SHELL + "test_the_outbox_is_redelivered_by_hand",
    ("docs/playground.md", "make playground"): _SHELL + "test_make_runs_what_the_pages_say",
    ("docs/write-a-handler.md", "make requirements schemas"): _SHELL + "test_make_runs_what_the_pages_say",
    ("docs/write-a-handler.md", "python -m handlers.gradient.handler"): _FOURTH + "test_its_test_job_runs_by_the_command_of_the_page",
    ("docs/write-a-handler.md", "file="): _FOURTH + "copy",
}
"""The test or fixture for each block, by its page and the start of its first line; `file=` is every block that names a file."""


def covering_tests(found: Block) -> list[str]:
    """Returns the tests or fixtures that run a block, or check what it shows."""
    start = "file=" if "file=" in found.info else found.start
    return [test for (page, prefix), test in COVERED.items() if page == found.page and start.startswith(prefix)]
