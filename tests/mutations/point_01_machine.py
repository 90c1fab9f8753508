"""The GPU, the models and the machine may fail; what fails is answered, and nothing of it stays."""

from __future__ import annotations

from tests.mutations.table import Point, Protection, fault

POINT = Point(
    1,
    "The GPU, the models, the machine",
    (
        Protection(
            "A single picture for which memory did not suffice is tried again.",
            "handlers/sdxl/recipe.py",
            "        return climb(work, (FREED, aside), run.warn)",
            "        return work()",
            (fault("F21"),),
        ),
        Protection(
            "A picture that cannot be decoded at once is decoded in tiles.",
            "handlers/sdxl/decoding.py",
            '        Rung("the picture was decoded in tiles", lambda: in_tiles(vae)),\n',
            "",
            (fault("F22"),),
        ),
        Protection(
            "A lost GPU is known by torch's error and by its texts.",
            "shared/errors.py",
            "    if _is_lost_device(error):",
            "    if False:",
            (fault("F23"),),
        ),
        Protection(
            "An interpreter that stands still is ended by the C library's timer.",
            "shared/jobs/execution/watchdog.py",
            "            faulthandler.dump_traceback_later(max(deadline - time.monotonic(), 1.0), exit=True, file=self._nowhere)",
            "            pass",
            (fault("F24"),),
            shows="subprocess.TimeoutExpired",
        ),
        Protection(
            "A picture of a single colour is a failure.",
            "handlers/sdxl/decoding.py",
            "    return pixels, ONE_COLOUR if is_one_colour(pixels) else None",
            "    return pixels, None",
            (fault("F25"),),
        ),
        Protection(
            "What was to be kept and could not be leaves no part behind.",
            "shared/jobs/delivery/uploads.py",
            """\
        if self._draft is not None:
            self._draft.drop()
""",
            "        return\n",
            (fault("F26"),),
        ),
        Protection(
            "A worker that cannot write clips does not start.",
            "handlers/wan/handler.py",
            '    checks={"encoder": check_video},\n',
            "",
            (fault("F27"),),
            shows="subprocess.TimeoutExpired",
        ),
        Protection(
            "A clip that could not be written to its end leaves no file.",
            "shared/media/videos.py",
            "            path.unlink(missing_ok=True)",
            "            pass",
            ("tests/shared/media/test_videos.py::test_when_the_frames_fail_nothing_is_left",),
        ),
        Protection(
            "Weights of which a bit has flipped are found before anything is loaded.",
            "shared/weights/verify.py",
            "    _check(name, differences(weights, lock, hashes=True))",
            "    differences(weights, lock, hashes=True)",
            (fault("F28"), "tests/shared/weights/test_verify.py::test_damaged_weights_are_named"),
            shows="subprocess.TimeoutExpired",
        ),
        Protection(
            "Tensors that are no part of a LoRA for this model are refused.",
            "shared/models/lora_files.py",
            "        if layer is None:",
            "        if False:",
            (fault("F29"),),
        ),
        Protection(
            "A job that is sent again stores over what an earlier run has left.",
            "shared/storage/supabase.py",
            '"upsert": "true"',
            '"upsert": "false"',
            (fault("F30"),),
        ),
    ),
)
