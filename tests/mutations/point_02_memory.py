"""Lack of memory is met by one remedy after the other."""

from __future__ import annotations

from tests.mutations.table import Point, Protection

_MEMORY = "tests/handlers/test_oom_recovery.py::"
_LADDER = "tests/shared/models/test_oom.py::"
_BEFOREHAND = "tests/handlers/wan/test_memory.py::"

POINT = Point(
    2,
    "Memory",
    (
        Protection(
            "Lack of memory is known by torch's error, by Python's and by the texts of other libraries.",
            "shared/errors.py",
            "    if _is_out_of_memory(error):",
            "    if False:",
            ("tests/shared/test_errors.py::test_an_exception_of_another_library_has_its_row",),
        ),
        Protection(
            "The error is forgotten before memory is given back: its traceback holds on to what the work had.",
            "shared/models/oom.py",
            """\
            raise
    # Outside of the except block: the error's traceback holds on to the tensors of the work.
    gc.collect()
""",
            "            raise\n        gc.collect()\n",
            (f"{_LADDER}test_the_error_is_forgotten_before_memory_is_given_back",),
        ),
        Protection(
            "What holds on to itself is collected before the next try.",
            "shared/models/oom.py",
            "    gc.collect()\n",
            "",
            (f"{_LADDER}test_what_holds_on_to_itself_is_free_before_the_next_try",),
        ),
        Protection(
            "The first remedy is to try once more, with the memory that was kept in reserve.",
            "handlers/sdxl/decoding.py",
            "        FREED,\n",
            "",
            (f"{_MEMORY}test_a_picture_that_cannot_be_decoded_at_once_is_decoded_in_tiles_and_not_denoised_again",),
        ),
        Protection(
            "What a failed job was computing with is free when it has ended, and not only when the collector comes.",
            "shared/jobs/lifecycle.py",
            "    let_go(error)\n",
            "",
            ("tests/shared/jobs/execution/test_freed.py::test_of_a_job_that_fails",),
        ),
        Protection(
            "A reference is encoded by the same remedies.",
            "handlers/sdxl/features/img2img.py",
            "climb(lambda: vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist, (FREED, tiles), warn)",
            "vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist",
            (f"{_MEMORY}test_a_reference_that_cannot_be_encoded_at_once_is_encoded_in_tiles",),
        ),
        Protection(
            "Pictures that do not fit together are made in smaller batches.",
            "handlers/sdxl/recipe.py",
            "    done, latents = attempt(work)",
            "    done, latents = True, work()",
            (f"{_MEMORY}test_pictures_that_do_not_fit_together_are_made_in_smaller_batches_and_are_the_same",),
            shows="torch.OutOfMemoryError",
        ),
        Protection(
            "A try that failed has used up no noise: the next one makes the same picture.",
            "handlers/sdxl/recipe.py",
            "        part.noise = [generator.clone_state() for generator in part.noise]\n",
            "",
            (f"{_MEMORY}test_a_picture_for_which_memory_did_not_suffice_once_is_the_same_to_the_bit",),
        ),
        Protection(
            "SDXL's text encoders make room while a picture is denoised.",
            "handlers/sdxl/recipe.py",
            "        return climb(work, (FREED, aside), run.warn)",
            "        return climb(work, (FREED,), run.warn)",
            (f"{_MEMORY}test_a_picture_for_which_memory_did_not_suffice_once_is_the_same_to_the_bit",),
            shows="shared.errors.OutOfMemory",
        ),
        Protection(
            "Tiles are smaller than the picture.",
            "shared/models/oom.py",
            "    vae.enable_tiling()",
            "    pass",
            (f"{_MEMORY}test_tiles_are_really_used",),
        ),
        Protection(
            "Tiles come off again.",
            "shared/models/oom.py",
            "            vae.disable_tiling()",
            "            pass",
            (
                f"{_MEMORY}test_a_picture_that_cannot_be_decoded_at_once_is_decoded_in_tiles_and_not_denoised_again",
                f"{_MEMORY}test_a_clip_that_cannot_be_decoded_at_once_is_decoded_in_tiles_and_not_denoised_again",
            ),
        ),
        Protection(
            "Networks that made room come back, also where the work failed.",
            "shared/models/oom.py",
            "        yield\n    finally:\n        _move(homes)",
            "        yield\n    finally:\n        pass",
            (
                f"{_LADDER}test_networks_that_were_moved_aside_come_back",
                f"{_LADDER}test_they_come_back_where_the_work_or_the_moving_itself_failed",
            ),
        ),
        Protection(
            "A clip for which memory did not suffice while it was denoised is tried again.",
            "handlers/wan/recipe.py",
            "        return climb(lambda: self._try_to_denoise(request, embeddings, given, run), (FREED, self._encoder_away()), run.warn)",
            "        return self._try_to_denoise(request, embeddings, given, run)",
            (f"{_MEMORY}test_a_clip_for_which_memory_did_not_suffice_once_is_the_same_to_the_bit",),
            shows="torch.OutOfMemoryError",
        ),
        Protection(
            "WAN's text encoder makes room for a clip.",
            "handlers/wan/recipe.py",
            "(FREED, self._encoder_away()), run.warn)",
            "(FREED,), run.warn)",
            (f"{_MEMORY}test_the_text_encoder_makes_room_for_a_clip_and_is_there_for_the_next",),
            shows="shared.errors.OutOfMemory",
        ),
        Protection(
            "It is back when the next prompt is to be encoded.",
            "handlers/wan/offload.py",
            "            self._encoder.to(self._memory.device)\n            self.away = False",
            "            pass",
            (f"{_MEMORY}test_the_text_encoder_makes_room_for_a_clip_and_is_there_for_the_next",),
        ),
        Protection(
            "A clip that cannot be decoded at once is decoded in tiles, from the same latents.",
            "handlers/wan/decoding.py",
            "Ladder((FREED, tiles, *rungs), warn)",
            "Ladder((FREED, *rungs), warn)",
            (f"{_MEMORY}test_a_clip_that_cannot_be_decoded_at_once_is_decoded_in_tiles_and_not_denoised_again",),
        ),
        Protection(
            "A decoding that begins anew hands no frame over twice.",
            "handlers/wan/decoding.py",
            "            next(islice(self._decoding, self._given, self._given), None)\n",
            "",
            (f"{_MEMORY}test_a_clip_for_which_memory_did_not_suffice_once_is_the_same_to_the_bit",),
        ),
        Protection(
            "Every remedy is named to the caller.",
            "shared/models/oom.py",
            '            self._warn(f"Memory did not suffice; {rung.done}.")\n',
            "",
            (f"{_LADDER}test_each_remedy_is_tried_once_and_named",),
        ),
        Protection(
            "A clip that cannot fit is refused before any work.",
            "handlers/wan/recipe.py",
            "        check_memory(self._work(request), self._choose(request).transformer, self._memory, self._residence.others)\n",
            "        pass\n",
            (f"{_BEFOREHAND}test_a_clip_that_cannot_fit_is_refused_with_what_would", f"{_BEFOREHAND}test_where_nothing_fits_it_says_so"),
        ),
        Protection(
            "A picture that cannot fit is refused before any work.",
            "handlers/sdxl/memory.py",
            "        if self.denoising > room or decoding > room + self.unet:",
            "        if False:",
            ("tests/handlers/sdxl/test_memory.py::test_a_picture_that_cannot_fit_is_refused_before_any_step_with_a_size_that_would",),
        ),
    ),
)
