"""The memory of WebP's decoder."""

from __future__ import annotations

from typing import Any

from PIL import Image


def free_decoder_early(image: Image.Image) -> None:
    """Frees the decoder of a WebP with its first frame: Pillow would keep both canvases, 8 bytes per pixel, while it copies that frame."""
    decoder = getattr(image, "_decoder", None)
    if image.format == "WEBP" and decoder is not None:
        image._decoder = _FirstFrame(decoder)  # type: ignore[attr-defined]


class _FirstFrame:
    """Stands for a decoder of which only the first frame is read."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def get_next(self) -> Any:
        """Returns the first frame."""
        decoder, self._decoder = self._decoder, None
        return decoder.get_next()
