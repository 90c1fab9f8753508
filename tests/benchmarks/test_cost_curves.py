"""What a job costs against what it asks for."""

from __future__ import annotations

from itertools import pairwise

import pytest

from benchmarks.cost_curves import bytes_per_token, chat_curves, sdxl_curves
from benchmarks.fake_cuda import can_build_device_guard
from benchmarks.performance_page import sdxl_tflop


def test_a_token_reads_the_weights_and_the_context_of_its_conversation() -> None:
    """Qwen 2.5 7B has 7.62 · 10⁹ parameters, 0.545 · 10⁹ of them in the embedding."""
    assert bytes_per_token(1, 0) == pytest.approx(2 * (7.616e9 - 0.545e9), rel=1e-3)
    assert bytes_per_token(1, 1) - bytes_per_token(1, 0) == 57_344
    assert bytes_per_token(16, 0) == bytes_per_token(1, 0) / 16


def test_a_longer_context_costs_more_and_more_conversations_cost_less_each() -> None:
    rows = list(chat_curves().values())
    assert all(list(row.values()) == sorted(row.values()) for row in rows)
    assert all(more[context] < fewer[context] for fewer, more in pairwise(rows) for context in fewer)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.skipif(not can_build_device_guard(), reason="needs a C++ compiler")
def test_the_cost_of_an_image_grows_faster_than_its_pixels() -> None:
    curves = sdxl_curves(sides=(512, 1024), images=(1,))
    assert curves["sides"]["1024"] == pytest.approx(sdxl_tflop(25), rel=0.01)
    assert curves["sides"]["1024"] > 4 * curves["sides"]["512"]
    assert curves["images"]["1"] == curves["steps"]["25"] == curves["sides"]["1024"]
