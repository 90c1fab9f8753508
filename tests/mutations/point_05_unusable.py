"""What is no picture is never called completed."""

from __future__ import annotations

from tests.mutations.table import Point, Protection

_UNUSABLE = "tests/handlers/test_unusable_outputs.py::"

POINT = Point(
    5,
    "Unusable results",
    (
        Protection(
            "SDXL's latents are finite, or are not even decoded.",
            "handlers/sdxl/decoding.py",
            "    check_latents(latent)\n",
            "",
            (f"{_UNUSABLE}test_latents_that_are_not_finite_are_not_even_decoded",),
        ),
        Protection(
            "A picture that is not finite is decoded once more in float32.",
            "handlers/sdxl/decoding.py",
            "    if wrong is not None and vae.dtype != torch.float32:",
            "    if False:",
            (f"{_UNUSABLE}test_a_picture_that_overflows_in_half_precision_is_decoded_once_more_in_full",),
            shows="shared.errors.GenerationError",
        ),
        Protection(
            "The VAE is in its own precision again afterwards.",
            "shared/models/oom.py",
            "            network.to(before)",
            "            pass",
            (f"{_UNUSABLE}test_a_picture_that_overflows_in_half_precision_is_decoded_once_more_in_full",),
        ),
        Protection(
            "What float32 does not mend fails.",
            "handlers/sdxl/decoding.py",
            "    if pixels is None or wrong is not None:",
            "    if pixels is None:",
            (f"{_UNUSABLE}test_a_picture_that_is_nothing_in_full_precision_either_fails",),
        ),
        Protection(
            "A picture of one colour, black or any other, is none.",
            "shared/models/pixels.py",
            "    return bool((pixels == pixels[:1, :1]).all())",
            "    return bool((pixels == 255).all())",
            (f"{_UNUSABLE}test_a_picture_that_is_nothing_in_full_precision_either_fails",),
        ),
        Protection(
            "A picture that is nearly of one colour is as good as any other.",
            "shared/models/pixels.py",
            "    return bool((pixels == pixels[:1, :1]).all())",
            "    return bool((pixels == pixels[:1, :1]).mean() > 0.9)",
            (f"{_UNUSABLE}test_a_picture_that_is_nearly_black_is_as_good_as_any",),
        ),
        Protection(
            "A value that is not finite never becomes a black pixel.",
            "shared/models/pixels.py",
            "    if not bool(images.isfinite().all()):",
            "    if False:",
            (
                "tests/shared/models/test_pixels.py::test_a_value_that_is_not_finite_is_an_error_and_never_a_black_pixel",
                f"{_UNUSABLE}test_a_clip_that_is_nothing_fails_before_it_is_whole[decoder-nan-not finite]",
            ),
        ),
        Protection(
            "WAN's latents are finite, or are not even decoded.",
            "handlers/wan/decoding.py",
            "    check_latents(latents)\n",
            "",
            (f"{_UNUSABLE}test_latents_of_a_clip_that_are_not_finite_are_not_even_decoded",),
        ),
        Protection(
            "A clip of which every frame is of one colour is none.",
            "handlers/wan/decoding.py",
            "    if plain:\n        raise GenerationError(ONE_COLOUR)\n",
            "",
            (f"{_UNUSABLE}test_a_clip_that_is_nothing_fails_before_it_is_whole", f"{_UNUSABLE}test_a_picture_of_wan_that_is_nothing_fails"),
        ),
    ),
)
