"""References are fetched within limits, and opened by nobody but three decoders."""

from __future__ import annotations

from tests.mutations.table import Point, Protection, fault

POINT = Point(
    1,
    "References",
    (
        Protection(
            "A body is counted while it comes, whatever was announced.",
            "shared/fetch.py",
            "            if len(body) > limit:",
            "            if len(body) > 2**28:",
            (fault("F12"),),
        ),
        Protection(
            "What is announced to be too large is not read.",
            "shared/fetch.py",
            "        if announced.isdigit() and int(announced) > limit:",
            "        if False:",
            ("tests/shared/test_fetch.py::test_no_more_bytes_are_taken_than_allowed", fault("F12")),
        ),
        Protection(
            "An encoded answer, which may be a bomb, is refused unread.",
            "shared/fetch.py",
            '        if response.headers.get("content-encoding", "identity").lower() != "identity":',
            "        if False:",
            (fault("F14"), "tests/shared/test_fetch.py::test_an_encoded_answer_is_refused_unread"),
        ),
        Protection(
            "A host that fails for now is asked again.",
            "shared/fetch.py",
            "again=status in _RETRIED or status >= 500, status=status)",
            "again=False, status=status)",
            (fault("F15"), "tests/shared/test_fetch.py::test_a_failure_that_passes_is_survived"),
            shows="shared.errors.ReferenceImageError",
        ),
        Protection(
            "A connection that breaks is tried again.",
            "shared/fetch.py",
            'raise FailedTry("the connection to its host failed", again=True) from None',
            'raise FailedTry("the connection to its host failed", again=False) from None',
            (fault("F15"), "tests/shared/test_fetch.py::test_a_connection_that_breaks_is_tried_again"),
            shows="shared.errors.ReferenceImageError",
        ),
        Protection(
            "Only PNG, JPEG and WebP are decoded.",
            "shared/media/images.py",
            "Image.open(BytesIO(content), formats=tuple(IMAGE_TYPES))",
            "Image.open(BytesIO(content))",
            (fault("F16"), "tests/shared/media/test_images.py::test_other_formats_are_refused_whatever_decoders_are_installed"),
        ),
        Protection(
            "A picture's size is judged before it is decoded.",
            "shared/media/images.py",
            "            _check_size(*image.size)\n",
            "",
            (fault("F17"), "tests/shared/media/test_images.py::test_a_picture_of_a_silly_size_is_refused_before_it_is_decoded"),
        ),
        Protection(
            "Whatever a decoder raises for a damaged file becomes our own refusal.",
            "shared/media/images.py",
            """\
    except _DAMAGED:
        raise UnreadableImage("the file is damaged") from None
""",
            "",
            (fault("F18"), "tests/shared/media/test_images.py::test_a_truncated_picture_is_refused"),
            shows="OSError",
        ),
        Protection(
            "Sixteen bits are scaled to eight, where Pillow would make them white.",
            "shared/media/images.py",
            """\
    if image.mode.startswith("I"):
        image = _scale_to_8_bits(image)
""",
            "",
            (fault("F19"), "tests/shared/media/test_images.py::test_sixteen_bits_are_scaled_not_clipped"),
        ),
        Protection(
            "A `data:` URL holds a picture by name.",
            "shared/fetch.py",
            'r"data:image/(?:png|jpeg|webp);base64,"',
            'r"data:[^,]*,"',
            (fault("F20"), "tests/shared/test_fetch.py::test_a_data_url_that_cannot_be_used_is_refused"),
        ),
        Protection(
            "A `data:` URL is measured before it is decoded.",
            "shared/fetch.py",
            "    if len(payload) > (limit + 2) // 3 * 4:",
            "    if False:",
            (fault("F20"), "tests/shared/test_fetch.py::test_a_data_url_that_cannot_be_used_is_refused"),
        ),
        Protection(
            "A path in storage belongs to the job's own user.",
            "shared/fetch.py",
            "segments[0] == user_id:",
            "segments[0]:",
            ("tests/shared/test_fetch_storage.py::test_a_path_that_is_not_the_jobs_own_is_refused_before_storage_is_asked",),
        ),
    ),
)
