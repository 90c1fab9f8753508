"""What cannot fit a worker's memory is refused before any work; what fits is fitted in, and is the same clip."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from handlers.wan.handler import load
from handlers.wan.memory import Work, check_memory
from handlers.wan.recipe import WanRecipe
from handlers.wan.request import WanRequest
from shared.errors import OutOfMemory
from shared.jobs.execution.cancel import CancelToken
from shared.jobs.recipe import Run
from shared.media.images import Pixels
from shared.models.device import Memory, size_of
from shared.settings import Settings
from tests.handlers.conftest import Watched, clip, make, wan

GB = 10**9


def worker(tiny_models: Path, gigabytes: float | None) -> WanRecipe:
    """A worker on a device that seems to have so much memory."""
    recipe = load(Settings(models_dir=tiny_models, device="cpu", device_memory_gb=gigabytes))
    assert isinstance(recipe, WanRecipe)
    return recipe


@pytest.fixture(scope="module")
def small(tiny_models: Path) -> WanRecipe:
    """1 GB is kept for what is not a tensor, so that 0.6 GB are left for work."""
    return worker(tiny_models, 1.6)


def film(recipe: WanRecipe, request: WanRequest) -> Pixels:
    return np.stack(list(clip(make(recipe, request)).frames))


def refused(recipe: WanRecipe, request: WanRequest) -> str:
    with pytest.raises(OutOfMemory) as caught:
        recipe.accept(request)
    return str(caught.value)


def published(width: int, feed_forward: int, looking: int = 0) -> SimpleNamespace:
    """A transformer of which only the configuration matters."""

    class Config(dict[str, object]):
        num_attention_heads, attention_head_dim, ffn_dim = width // 128, 128, feed_forward

    return SimpleNamespace(config=Config(vace_layers=list(range(looking))))


@pytest.mark.parametrize(
    ("transformer", "counted"),
    [(published(1536, 8960), 1.616), (published(1536, 8960, 15), 3.226), (published(5120, 13824), 3.744)],
    ids=["1.3B", "VACE 1.3B", "14B"],
)
def test_the_arithmetic_gives_what_was_counted_for_the_published_networks(transformer: SimpleNamespace, counted: float) -> None:
    assert Work(480, 832, 81).denoising(transformer) / GB == pytest.approx(counted, rel=0.03)
    assert Work(480, 832, 81).decoding(tiled=False) / GB == pytest.approx(8.3, rel=0.01)
    assert Work(480, 832, 81).decoding(tiled=True) / GB == pytest.approx(1.82, rel=0.06)


def test_a_clip_that_cannot_fit_is_refused_with_what_would(small: WanRecipe) -> None:
    message = refused(small, wan(width=480, height=832, frames=81))
    assert "81 frames of 480x832 need 1.9 GB" in message
    assert "0.6 GB" in message
    size = message.rpartition("81 frames of ")[2].rstrip(".")
    width, height = (int(side) for side in size.split("x"))
    small.accept(wan(width=width, height=height, frames=81))
    refused(small, wan(width=width + 16, height=height + 32, frames=81))


def test_where_only_fewer_frames_would_fit_it_says_how_many(tiny_models: Path) -> None:
    recipe = worker(tiny_models, 2.5)
    message = refused(recipe, wan(width=480, height=832, frames=83))
    frames = int(message.partition("What would fit: ")[2].partition(" frames of 480x832")[0])
    recipe.accept(wan(width=480, height=832, frames=frames))
    refused(recipe, wan(width=480, height=832, frames=frames + 1))


def test_where_nothing_fits_it_says_so(tiny_models: Path) -> None:
    assert "nothing smaller fits" in refused(worker(tiny_models, 0.5), wan())


def test_what_fits_is_made_though_memory_is_short_and_is_the_same(small: WanRecipe, wan_recipe: WanRecipe) -> None:
    request = wan(width=96, height=64, frames=9)
    assert np.array_equal(film(small, request), film(wan_recipe, request))


def test_memory_without_end_refuses_nothing(wan_recipe: WanRecipe) -> None:
    wan_recipe.accept(wan(width=480, height=832, frames=83))


def test_the_text_encoder_goes_where_it_is_in_the_way_and_comes_back_for_a_new_prompt(
    wan_recipe: WanRecipe, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipelines = worker(tiny_models, None)._pipelines
    work, encoder = Work(64, 64, 9).most(pipelines.text.transformer, tiled=False), size_of(pipelines.text.text_encoder)
    stays = size_of(pipelines.vae, pipelines.vace.transformer)
    tight = WanRecipe(pipelines, wan_recipe._shelf, memory_limit=stays + work + encoder // 2)
    moves = []
    for request in (wan(), wan(seed=8), wan("a blue square")):
        made = np.stack(list(clip(list(tight.generate(request, {}, Watched().run))).frames))
        assert np.array_equal(made, film(wan_recipe, request))
        moves.append(capsys.readouterr().out.count("text encoder moved off"))
        assert tight._residence.away
    assert moves == [1, 0, 1]  # the second prompt was known


def test_the_text_encoder_stays_where_there_is_room(small: WanRecipe, wan_recipe: WanRecipe) -> None:
    for recipe in (small, wan_recipe):
        film(recipe, wan())
        assert not recipe._residence.away


def test_a_pipeline_steps_without_the_text_encoder_wherever_that_is_and_has_it_again(small: WanRecipe) -> None:
    seen: list[object] = []

    def look(*_: object, **__: object) -> None:
        seen.append(small._pipelines.text.text_encoder)

    list(clip(list(small.generate(wan(), {}, Run("job", CancelToken(60), look)))).frames)
    assert seen == [None] * 3
    assert all(pipeline.text_encoder is not None for pipeline in small._pipelines.all)


@pytest.mark.parametrize(("free", "tiled"), [(GB, True), (100 * GB, False)])
def test_a_reference_is_encoded_in_tiles_where_the_whole_does_not_fit(free: int, tiled: bool) -> None:
    from handlers.wan.decoding import coded_in

    class Vae:
        use_tiling = False

        def enable_tiling(self) -> None:
            self.use_tiling = True

        def disable_tiling(self) -> None:
            self.use_tiling = False

    vae = Vae()
    with coded_in(vae, free, Work(480, 832, 81, encodes=True).encoding(tiled=False)):
        assert vae.use_tiling is tiled
    assert not vae.use_tiling


def test_references_count(tiny_models: Path) -> None:
    without, with_one = (Work(480, 832, 81, pictures, bool(pictures)) for pictures in (0, 1))
    transformer = published(1536, 8960, 15)
    assert with_one.denoising(transformer) == pytest.approx(without.denoising(transformer) * 22 / 21, abs=2)
    assert without.encoding(tiled=False) == 0 < with_one.encoding(tiled=True) < with_one.encoding(tiled=False)


def test_a_gpu_without_limit_is_asked_itself() -> None:
    check_memory(Work(64, 64, 5), published(1536, 8960), Memory(torch.device("cpu")), 0)
    assert Memory(torch.device("cpu"), 5).free(3) == 2
    assert Memory(torch.device("cpu")).free(3) is None
