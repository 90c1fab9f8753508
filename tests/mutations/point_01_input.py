"""What a job brings is judged before any work."""

from __future__ import annotations

from tests.mutations.table import Point, Protection, fault

POINT = Point(
    1,
    "What a job brings",
    (
        Protection(
            "An input that is no object is refused as such.",
            "shared/contract/collect_fields.py",
            """\
    if not isinstance(raw, Mapping):
        raise ValidationError([Problem("input", describe(raw), "an object with the fields of the request")])
""",
            "",
            (fault("F01"),),
        ),
        Protection(
            "A value of another type is refused and not converted.",
            "shared/contract/request.py",
            "ConfigDict(strict=True, ",
            "ConfigDict(",
            (fault("F02"),),
        ),
        Protection(
            "A list has an end.",
            "handlers/sdxl/request.py",
            'Field(strict=False, max_length=MOST_CONTROLS, description="ControlNets',
            'Field(strict=False, description="ControlNets',
            (fault("F03"),),
        ),
        Protection(
            "A prompt has an end.",
            "handlers/sdxl/request.py",
            """\
            max_length=10_000,
            description="May be empty only""",
            """\
            description="May be empty only""",
            (fault("F03"),),
        ),
        Protection(
            "An id is made of plain characters.",
            "shared/contract/fields.py",
            'Field(pattern=r"^[A-Za-z0-9_-]{1,128}$", ',
            "Field(",
            (fault("F04"),),
        ),
        Protection(
            "A key of storage is made of plain parts, whoever makes it.",
            "shared/storage/protocol.py",
            "        if not pattern.fullmatch(part):",
            "        if False:",
            (
                "tests/shared/storage/test_keys.py::test_an_id_that_is_not_plain_is_refused",
                "tests/shared/storage/test_supabase.py::test_a_key_that_was_not_built_by_object_key_never_leaves_the_worker",
            ),
        ),
        Protection(
            "A text that cannot be written as UTF-8 is refused by its field.",
            "shared/contract/fields.py",
            "    if _LONE_SURROGATE_OR_NUL.search(text):",
            "    if False:",
            (fault("F05"),),
        ),
        Protection(
            "The name of a file is never a path or a URL.",
            "shared/contract/fields.py",
            'Field(pattern=r"^[A-Za-z0-9_](\\.?[A-Za-z0-9_ +-])*\\.?$", ',
            "Field(",
            ("tests/handlers/sdxl/test_request.py::test_a_name_is_never_a_path_or_a_url",),
        ),
        Protection(
            "A name is compared with the names that there are, and never made into a path.",
            "shared/weights/addons.py",
            "        if path is None:",
            "        if False:",
            (fault("F06"), "tests/shared/weights/test_addons.py::test_what_is_not_there_is_refused_with_its_field_and_what_there_is"),
        ),
        Protection(
            "A link leads out of no folder of a shelf.",
            "shared/weights/addons.py",
            '    return all(each.resolve().is_relative_to(home) for each in (path, *(path.rglob("*") if path.is_dir() else ())))',
            "    return True",
            ("tests/shared/weights/test_addons.py::test_a_link_out_of_the_folder_is_not_there",),
        ),
        Protection(
            "A callback goes to a host that the operator allows.",
            "shared/contract/request.py",
            " and host in Context.of(info).operator.callback_hosts",
            "",
            (fault("F07"), "tests/shared/contract/test_identity.py::test_a_callback_goes_nowhere_else"),
        ),
        Protection(
            "Whoever sends callbacks asks once more where they may go.",
            "shared/webhooks.py",
            "        if url.userinfo or url.host not in self._allowed:",
            "        if False:",
            ("tests/shared/test_webhooks.py::test_any_other_host_counts_for_nothing",),
        ),
        Protection(
            "A job that is delivered twice is told under one id.",
            "shared/jobs/delivery/callbacks.py",
            'f"{payload.job_id}_{payload.status}")[-256:]',
            """f"{payload.job_id}_{payload.status}_{__import__('time').time_ns()}")[-256:]""",
            (
                fault("F08"),
                "tests/shared/serverless/test_results.py::test_the_same_job_delivered_twice_makes_the_same_files_and_the_same_webhook_id",
            ),
        ),
    ),
)
