"""What each feature of a job asks of a GPU, counted on a fake CUDA device. `benchmarks/feature_report.py` counts all.

Memory is counted with networks of the published sizes, and compared with the estimates that decide what fits (`handlers/*/memory.py`).
Waits of the host are counted with shallow networks over ten steps: they are at the same points, and there are as many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from benchmarks.device_counts import DECODE, DENOISE, PREPARE, JobCounts, count_job
from benchmarks.fake_cuda import FakeCuda
from shared.jobs.recipe import Recipe
from shared.models.lora_files import Lora
from shared.models.lora_names import LoraTarget

URL = "https://a.example/b.png"
STEPS = 10
"""The denoising steps of the jobs whose waits are counted."""


@dataclass(frozen=True)
class Estimates:
    """The bytes that a handler's estimate gives for the phases of a job, without its allowance for libraries, and those of merged LoRAs.

    Attributes:
        preparing: For encoding references or merging LoRAs; 0 without either.
        denoising: For a step of the whole batch.
        decoding: For an image or a clip.
    """

    preparing: int
    denoising: int
    decoding: int


@dataclass(frozen=True)
class FeatureUse:
    """One feature. Bytes are in addition to the weights; `estimated_…` is what `Estimates` says.

    Attributes:
        handler: `SDXL` or `WAN`.
        feature: Its name.
        waits_before: Waits of the host before the first step.
        waits_in_steps: In ten steps together; fewer where a reference shortens the schedule.
        waits_after: After the last step.
    """

    handler: str
    feature: str
    waits_before: int
    waits_in_steps: int
    waits_after: int
    preparing: int
    denoising: int
    decoding: int
    estimated_preparing: int
    estimated_denoising: int
    estimated_decoding: int

    @classmethod
    def of(cls, handler: str, feature: str, shallow: JobCounts, full: JobCounts, estimates: Estimates) -> FeatureUse:
        """Combines the counts of one feature."""
        return cls(
            handler=handler,
            feature=feature,
            waits_before=shallow.counts.waits_in(PREPARE),
            waits_in_steps=sum(shallow.waits_by_step),
            waits_after=shallow.counts.waits_in(DECODE),
            preparing=full.needed(PREPARE),
            denoising=full.needed(DENOISE),
            decoding=full.needed(DECODE),
            estimated_preparing=estimates.preparing,
            estimated_denoising=estimates.denoising,
            estimated_decoding=estimates.decoding,
        )


@dataclass(frozen=True)
class CountedRecipe:
    """A recipe on a fake device.

    Attributes:
        card: The device, entered.
        recipe: The recipe.
        parse: Makes a request of a configuration.
        denoisers: The networks whose first call begins the denoising.
        estimate: Returns the estimates for a request.
    """

    card: FakeCuda
    recipe: Recipe[Any]
    parse: Callable[[Mapping[str, Any]], Any]
    denoisers: Sequence[Any]
    estimate: Callable[[Any], Estimates]

    def count(self, config: Mapping[str, Any]) -> JobCounts:
        """Runs one job."""
        request = self.parse(config)
        image = Image.effect_noise((request.width, request.height), 90).convert("RGB")
        references = dict.fromkeys(request.references, image)
        return count_job(self.card, self.recipe, request, self.denoisers, references)


def merged_bytes(target: LoraTarget, lora: Lora) -> int:
    """Returns the bytes of the layers that a LoRA replaces while a job runs."""
    return sum(target.layers[layer].weight.nbytes for layer in lora.updates)
