"""Renders `docs/performance.md` from the results that `benchmarks.report` keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def render(results: dict[str, Any]) -> str:
    """Returns the page, with a section for each result."""
    sections = [_PAGE.format(**results["machine"])]
    sections += [section(results[name]) for name, section in _SECTIONS.items() if name in results]
    return "\n".join([*sections, _on_a_gpu()])


def _overhead(results: dict[str, Any]) -> str:
    rows = (
        f"| `{handler}` | {row['bare'] * 1e3:.0f} ms | {row['overhead'] * 1e3:.1f} ms | {row['latency'] * 1e3:.1f} ms |"
        for handler, row in results.items()
    )
    return _OVERHEAD.format(rows="\n".join(rows))


def _concurrency(results: dict[str, Any]) -> str:
    return _CONCURRENCY.format(rows="\n".join(f"| `{name}` | {row['ratio']:.2f} × | {row['busy']:.0%} |" for name, row in results.items()))


def _encoding(results: dict[str, Any]) -> str:
    rows = (
        f"| {_ENCODED[name]} | {row['speed']:.1f} × | {row['size']:.2f} × | {row['psnr']:+.1f} dB |"
        if row["psnr"]
        else f"| {_ENCODED[name]} | {row['speed']:.1f} × | {row['size']:.2f} × | the same pixels |"
        for name, row in results.items()
    )
    return _ENCODING.format(rows="\n".join(rows))


def _upload_overlap(results: dict[str, Any]) -> str:
    rows = (
        f"| {link} | {row['encoding'] * 1e3:.0f} ms | {row['uploading'] * 1e3:.0f} ms | {row['job'] * 1e3:.0f} ms | {row['ratio']:.2f} × |"
        for link, row in results.items()
    )
    return _UPLOAD_OVERLAP.format(rows="\n".join(rows))


def _full_queue(results: list[dict[str, Any]]) -> str:
    rows = (
        f"| {row['seconds']:g} s | {row['concurrency'] or '2, the default'} | {row['share']:.3f} | {row['simulated']:.3f} |"
        for row in results
    )
    return _FULL_QUEUE.format(rows="\n".join(rows))


def _start(results: dict[str, Any]) -> str:
    return _START.format(rows="\n".join(f"| `{name}` | {row['wall']:.1f} × | {row['processor']:.1f} × |" for name, row in results.items()))


def _batching(results: dict[str, Any]) -> str:
    return _BATCHING.format(ratio=f"{results['batched'] / results['sequential']:.1f}")


def _prefix_cache(results: dict[str, Any]) -> str:
    return _PREFIX_CACHE.format(tokens=results["tokens"], ratio=f"{results['miss'] / results['hit']:.1f}")


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


def _sdxl_compilation(results: dict[str, Any]) -> str:
    ratio, load = f"{results['ratio']:.2f}", f"{results['load']:.0f}"
    difference, layout = (f"{results[name] * 1000:.1f}" for name in ("difference", "layout"))
    return _SDXL_COMPILATION.format(ratio=ratio, load=load, difference=difference, layout=layout)


def _setup(results: dict[str, Any]) -> str:
    minutes, gigabytes = f"{results['seconds'] / 60:.0f}", f"{results['bytes'] / 1e9:.1f}"
    more = f"{cuda_gigabytes(results, 'cu130'):.0f}"
    return _SETUP.format(minutes=minutes, seconds=f"{results['processor_seconds']:.0f}", gigabytes=gigabytes, more=more)


def cuda_gigabytes(setup: Mapping[str, Any], lock: str) -> float:
    """Returns by how much torch of a lock file is larger than its build for CPUs, in GB."""
    return float(setup["torch_bytes"][lock] - setup["torch_bytes"]["cpu"]) / 1e9


def _on_a_gpu() -> str:
    return _ON_A_GPU.format(tflop=f"{sdxl_tflop(25):.1f}", rows="\n".join(_estimate_row(card) for card in PUBLISHED))


PUBLISHED = {"RTX 3090": (20, 5.60), "RTX 4090": (20, 4.90), "A10": (30, 9.40)}
"""Published seconds of one SDXL image of 1024 × 1024 with torch: OneDiff's README (the first two), and the baseline of Stability's card of
the TensorRT weights."""


def sdxl_tflop(steps: int) -> float:
    """The operations of one SDXL image of 1024 × 1024 with guidance, in 10¹², by torch's `FlopCounterMode` on the published configuration:
    13.52 for a step, 10.47 for decoding, 0.25 for the text encoders."""
    return 13.52 * steps + 10.47 + 0.25


def sdxl_estimate(card: str, steps: int = 25) -> float:
    """Seconds of one SDXL image of 1024 × 1024: a published time, scaled by the operations."""
    published_steps, seconds = PUBLISHED[card]
    return seconds * sdxl_tflop(steps) / sdxl_tflop(published_steps)


def _estimate_row(card: str) -> str:
    steps, seconds = PUBLISHED[card]
    return f"| {card} | {steps} steps: {seconds:.2f} s | {sdxl_estimate(card):.0f} s |"


_PAGE = """\
<!-- Generated by `make performance`. Do not edit. -->
# Performance

Measured with small models on the CPU: {processor}, {cores} cores, load {load}; Python {python}, torch {torch}. Absolute times say
nothing about a GPU; ratios, and what a handler adds to a job, carry over. Both sides of a ratio alternate in one process.
"""

_OVERHEAD = """\
## What a handler adds to the model

Validation, encoding, storage on the local disk and the payload of the job in `handlers/*/test_input.json`, against the bare call of the
loaded pipeline (`make bench`). The last column is its part before the pipeline is called: what a job waits on an idle worker after RunPod's
SDK has handed it over.

| handler | bare call | added | before the call |
|---|---|---|---|
{rows}
"""

_CONCURRENCY = """\
## What concurrency gains

Four jobs in flight against one, where the uploads of a job take as long as its generation (`make bench-load`): ideally 2 ×, and by chance
more or less on a busy machine.

| handler | throughput | GPU thread busy |
|---|---|---|
{rows}
"""

_ENCODED: Mapping[str, str] = {
    "png": "6 images of 1024 × 1024 to PNG",
    "mp4_quality_25": "81 frames of 480 × 832 to MP4, `VIDEO_QUALITY=25`",
    "mp4_quality_18": "the same, default quality (18)",
}

_ENCODING = """\
## From the decoder's tensor to a file

Against diffusers' post-processing with Pillow's default, and with `export_to_video` by imageio, whose x264 runs at CRF 25
(`python -m benchmarks.encoding`):

| | speed | bytes | quality |
|---|---|---|---|
{rows}
"""

_UPLOAD_OVERLAP = """\
## Encoding and uploading at the same time

A job of six images of 1024 × 1024 that are ready, on a link that is slower or faster than the encoder
(`python -m benchmarks.upload_overlap`). It cannot be faster than the longer of both parts:

| link | encoding alone | uploading alone | the job | of the longer |
|---|---|---|---|---|
{rows}
"""

_FULL_QUEUE = """\
## A full queue

SDXL's worker in RunPod's SDK on loopback, ten jobs in the queue, the GPU's work replaced by a pause
(`python -m benchmarks.full_queue`). The share of the time in which the GPU works, measured and by the simulation of
[one job in flight, or two?](endpoint-simulation.md):

| GPU seconds of a job | jobs in flight | measured | simulated |
|---|---|---|---|
{rows}
"""

_START = """\
## From the start of a worker to its first job

With small models and a warm page cache, against `python -c "import torch"` (`python -m benchmarks.start MODELS`). Nine tenths of it are
imports of libraries; real weights are read at the same time.

| handler | wall-clock time | processor time |
|---|---|---|
{rows}
"""

_BATCHING = """\
## What batching gains

Eight conversations at once against one after the other, in tokens per second of processor time (`make bench-chat`): {ratio} ×. On a GPU the
gain is larger, because one conversation leaves most of it idle.
"""

_PREFIX_CACHE = """\
## What the prefix cache gains

The first token of a prompt of {tokens} tokens comes {ratio} × sooner if its system prompt is in the prefix cache.
"""

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

_SETUP = """\
## Set-up

`make setup` took {minutes} minutes on this machine, {seconds} seconds of it processor time and the rest mostly downloads, and fills `.venv`
with {gigabytes} GB (torch's build for CPUs; that for CUDA takes {more} GB more).
"""

_ON_A_GPU = """\
## On a GPU

No figure of this project was measured on a GPU. `make bench-gpu` measures there, at full size with random weights. Until then, estimates:
one SDXL image of 1024 × 1024 with 25 steps takes {tflop} · 10¹² operations, counted on the published configuration. Scaled from published
times with torch:

| card | published | estimated, 25 steps |
|---|---|---|
{rows}

Memory and cold starts are computed in [deploy.md](deploy.md#memory).
"""

_SDXL_COMPILATION = """\
## A compiled step

A step of SDXL's full-size UNet with random weights, one image of 128 × 128 with guidance in bfloat16, compiled and with the channels last,
against eager (`python -m benchmarks.sdxl_compilation`): {ratio} × the speed, at a load of {load}. The results differ by {difference} ‰ in
the root mean square; those of the eager step with either layout by {layout} ‰. It has not been measured on a GPU.
"""

_SECTIONS: Mapping[str, Callable[[Any], str]] = {
    "overhead": _overhead,
    "concurrency": _concurrency,
    "encoding": _encoding,
    "upload_overlap": _upload_overlap,
    "full_queue": _full_queue,
    "start": _start,
    "batching": _batching,
    "prefix_cache": _prefix_cache,
    "wan_decoder": _wan_decoder,
    "device": _device,
    "features": _features,
    "sdxl_compilation": _sdxl_compilation,
    "setup": _setup,
}
