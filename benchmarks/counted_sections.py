"""Renders the sections of `docs/performance.md` on what was counted without a GPU, and on the compiled step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def _wan_decoder(results: dict[str, Any]) -> str:
    rows = (
        f"| {_DECODERS[name]} | {row['moved'] / 1e12:.2f} TB | {row['kernels']:,} | {row['peak'] / 1e9:.1f} GB |"
        for name, row in results.items()
    )
    return _WAN_DECODER.format(rows="\n".join(rows))


def _device(results: list[dict[str, Any]]) -> str:
    rows = (
        f"| {row['job']} | {row['waits']} | {row['operations']:.0f} · 10¹² | {row['overhead']:.3f} × "
        f"| {row['denoising'] / 1e9:.2f} GB, {row['estimated_denoising'] / 1e9:.2f} GB "
        f"| {row['decoding'] / 1e9:.2f} GB, {row['estimated_decoding'] / 1e9:.2f} GB |"
        for row in results
    )
    return _DEVICE.format(rows="\n".join(rows))


def _features(results: list[dict[str, Any]]) -> str:
    def memory(row: dict[str, Any], phase: str) -> str:
        estimated = f"{row[f'estimated_{phase}'] / 1e9:.2f} GB" if row[f"estimated_{phase}"] else "none"
        return f"{row[phase] / 1e9:.2f} GB, {estimated}"

    rows = (
        f"| {row['handler']}: {row['feature']} | {row['waits_before']} | {row['waits_in_steps']} | {row['waits_after']} "
        f"| {' | '.join(memory(row, phase) for phase in ('preparing', 'denoising', 'decoding'))} |"
        for row in results
    )
    return _FEATURES.format(rows="\n".join(rows))


def _cost_curves(results: Mapping[str, Any]) -> str:
    return _COST_CURVES.format(
        sides=_columns("SDXL: side in pixels", results["sdxl"]["sides"]),
        images=_columns("SDXL: images of 1024 × 1024", results["sdxl"]["images"]),
        steps=_columns("SDXL: steps", results["sdxl"]["steps"]),
        frames=_columns("WAN 1.3B: frames of 832 × 480", results["wan"]["frames"]),
        pixels=_columns("WAN 1.3B: size, 81 frames", results["wan"]["sizes"]),
        clip_steps=_columns("WAN 1.3B: steps, 81 frames", results["wan"]["steps"]),
        side_plot=_plot("SDXL, one image, 25 steps", "side in pixels", results["sdxl"]["sides"]),
        frame_plot=_plot("WAN 1.3B, 832 x 480, 25 steps", "frames", results["wan"]["frames"]),
        chat="\n".join(_chat_row(conversations, row) for conversations, row in results["chat"].items()),
    )


def _columns(name: str, costs: Mapping[str, float]) -> str:
    """Returns a table of two rows: what is asked for, and the operations of a job."""
    rows = (name, *costs), ("---",) * (len(costs) + 1), ("10¹² operations", *(f"{cost:,.0f}" for cost in costs.values()))
    return "\n".join(_row(row) for row in rows)


def _chat_row(conversations: str, gigabytes: Mapping[str, float]) -> str:
    return _row((conversations, *(f"{size:.2f} GB" for size in gigabytes.values())))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plot(title: str, axis: str, costs: Mapping[str, float]) -> str:
    """Returns a chart in Mermaid's language, which GitHub draws."""
    points = ", ".join(f"{cost:.0f}" for cost in costs.values())
    lines = (
        "<!-- not run: a diagram -->",
        "```mermaid",
        "xychart-beta",
        f'    title "{title}"',
        f'    x-axis "{axis}" [{", ".join(costs)}]',
        '    y-axis "10^12 operations"',
        f"    line [{points}]",
        "```",
    )
    return "\n".join(lines)


def _sdxl_compilation(results: dict[str, Any]) -> str:
    ratio, load = f"{results['ratio']:.2f}", f"{results['load']:.0f}"
    difference, layout = (f"{results[name] * 1000:.1f}" for name in ("difference", "layout"))
    return _SDXL_COMPILATION.format(ratio=ratio, load=load, difference=difference, layout=layout)


_DECODERS: Mapping[str, str] = {
    "diffusers": "diffusers, float32",
    "float32": "the worker, float32: the same bits",
    "float16": "the worker, float16, as on a GPU: at most one level apart",
}

_WAN_DECODER = """\
## What decoding a clip moves

81 frames of 480 × 832 through WAN's VAE, counted on the published configuration (`python -m benchmarks.wan_decoder`): bytes that kernels
other than convolutions and matrix multiplications read and write, kernels, and the peak of memory beside the VAE's weights.

| | moved | kernels | peak |
|---|---|---|---|
{rows}
"""

_DEVICE = """\
## What a job asks of a GPU

Counted at full size on a fake CUDA device, which runs the recipes on tensors without values (`python -m benchmarks.device_report MODELS`):
how often the host waits in a step, the operations relative to those of the networks alone, and the peak of memory in addition to the
weights, each with the estimate that decides what fits. With guidance and UniPC.

| job | waits in a step | operations | of those needed | denoising, estimated | decoding, estimated |
|---|---|---|---|---|---|
{rows}
"""

_FEATURES = """\
## What each feature asks of a GPU

Counted in the same way (`python -m benchmarks.feature_report MODELS`), one image of 1024 × 1024 or 81 frames of 832 × 480: how often the
host waits before the first step, in ten steps together and after the last one, and the peak of memory in each of these phases with its
estimate. A LoRA is one that changes every linear layer; the estimates here include its merged layers, which SDXL keeps until the images are
decoded and WAN until the last step.

| feature | waits: before | in ten steps | after | preparing, estimated | denoising, estimated | decoding, estimated |
|---|---|---|---|---|---|---|
{rows}

Steps wait in five cases. A preview is read by the host. diffusers noises the reference of inpainting anew in every step but the last, with
four waits each, and sets up the schedule of the refiner within its first step. UniPC looks up where it begins in the first step of WAN's
pipelines with references. The first-block cache decides on the host whether a pass is skipped. What has no estimate is encoded text, which
the estimates' allowances cover. An upscaler's memory decides nothing: its tiles shrink when memory is short; the figures are of its largest
tile, with Real-ESRGAN's network.
"""

_COST_CURVES = """\
## What a job costs against what it asks for

Operations of whole jobs at full size, counted on the fake device (`python -m benchmarks.cost_curves MODELS_DIR`), with guidance and 25
steps unless the table says otherwise. Steps and images cost the same each; pixels and frames cost more than in proportion, because
attention compares each with all others.

{sides}

{images}

{steps}

{side_plot}

{frames}

{pixels}

{clip_steps}

{frame_plot}

A chat answer is limited by the memory's bandwidth. For each token of an answer, Qwen 2.5 7B in bfloat16 reads its weights, which all
conversations of a batch share, and the keys and values of that conversation's context:

| conversations at once | 1,024 tokens of context | 4,096 | 16,384 | 32,768 |
|---|---|---|---|---|
{chat}
"""

_SDXL_COMPILATION = """\
## A compiled step

A step of SDXL's full-size UNet with random weights, one image of 128 × 128 with guidance in bfloat16, compiled and with the channels last,
against eager (`python -m benchmarks.sdxl_compilation`): {ratio} × the speed, at a load of {load}. The results differ by {difference} ‰ in
the root mean square; those of the eager step with either layout by {layout} ‰. It has not been measured on a GPU.
"""

COUNTED: Mapping[str, Callable[[Any], str]] = {
    "wan_decoder": _wan_decoder,
    "device": _device,
    "features": _features,
    "cost_curves": _cost_curves,
    "sdxl_compilation": _sdxl_compilation,
}
"""By the names of the results."""
