"""A CUDA device without a GPU: programs run unchanged on fake tensors, and what they would ask of the device is counted.

Tensors on `cuda` have a shape, a type and a lifetime but no values (`torch._subclasses.FakeTensor`); tensors on the CPU are real, so that
schedulers, tokenizers and image libraries compute as usual. Full-size networks take no memory::

    with FakeCuda() as card:
        network = Network().to("cuda", torch.float16)
        card.reset()                        # the weights are resident: count from here
        run(network)
    card.counts.waits, card.memory.peak

It finds operands on two devices or of two types, every point where the host waits for the device, the arithmetic, and the bytes that are
alive at once, with an optional budget. It cannot find wrong values, times, kernels that do not exist for a type, nor fragmentation.
"""

from __future__ import annotations

from benchmarks.fake_cuda.counts import Counts, Wait
from benchmarks.fake_cuda.device_guard import can_build_device_guard
from benchmarks.fake_cuda.mode import FakeCuda

__all__ = ["Counts", "FakeCuda", "Wait", "can_build_device_guard"]
