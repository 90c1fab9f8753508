"""UniPC without copies to the device in its steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import UniPCMultistepScheduler
from torch import Tensor


class ResidentUniPC(UniPCMultistepScheduler):  # type: ignore[misc]  # the library has no types
    """diffusers' UniPC, with its noise levels on the device.

    diffusers keeps the levels on the CPU and copies up to six of them to the device in every step; the host waits for each copy. Here they
    are copied once, when the timesteps are set. Only the updates read them there, so that every result is the same, bit for bit: where
    diffusers multiplies by a level on the CPU, it still does.
    """

    sigmas: Tensor
    _resident_sigmas: Tensor

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None, **options: Any) -> None:
        """Sets the timesteps as diffusers does, and copies the noise levels to `device`."""
        super().set_timesteps(num_inference_steps, device=device, **options)
        self._resident_sigmas = self.sigmas.to(device)

    def multistep_uni_p_bh_update(self, *args: Any, **options: Any) -> Tensor:
        """The predictor's update."""
        with self._with_resident_sigmas():
            updated: Tensor = super().multistep_uni_p_bh_update(*args, **options)
        return updated

    def multistep_uni_c_bh_update(self, *args: Any, **options: Any) -> Tensor:
        """The corrector's update."""
        with self._with_resident_sigmas():
            updated: Tensor = super().multistep_uni_c_bh_update(*args, **options)
        return updated

    @contextmanager
    def _with_resident_sigmas(self) -> Iterator[None]:
        on_host, self.sigmas = self.sigmas, self._resident_sigmas
        try:
            yield
        finally:
            self.sigmas = on_host
