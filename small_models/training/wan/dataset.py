"""The small WAN's synthetic dataset: clips of one figure that moves over a plain background, 64 × 64 pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from small_models.training.shapes import PALETTE, SIZE, Pixels, coverage, is_held_out

SHAPES = ("circle", "square", "triangle", "star")
MOTIONS: dict[str, tuple[int, int]] = {"still": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Each motion's direction, across and down."""
SPEED = 2.0
"""Pixels per frame: one latent pixel per latent frame."""

_RADIUS = 12.0
_RADIUS_JITTER = 1.5  # pixels
_SPEED_JITTER = 0.15  # pixels per frame
_CENTER_JITTER = 4.0  # pixels, of the path's midpoint


@dataclass(frozen=True)
class Scene:
    """The attributes of one clip.

    Attributes:
        shape: One of `SHAPES`.
        color: One of `PALETTE`.
        motion: One of `MOTIONS`.
        background: One of `PALETTE`, different from the figure's color.
    """

    shape: str
    color: str
    motion: str
    background: str

    @property
    def held_out(self) -> bool:
        """Whether this combination is excluded from training."""
        return is_held_out((self.background, self.shape, self.color, self.motion))


def sample_scene(rng: np.random.Generator, *, held_out: bool = False) -> Scene:
    """Samples a random scene.

    Args:
        rng: The random generator.
        held_out: Whether to sample from the held-out combinations or from those for training.
    """
    while True:
        background, color = (str(name) for name in rng.permutation(list(PALETTE))[:2])
        scene = Scene(str(rng.choice(SHAPES)), color, str(rng.choice(list(MOTIONS))), background)
        if scene.held_out == held_out:
            return scene


def render(scene: Scene, frames: int, rng: np.random.Generator) -> Pixels:
    """Renders a clip. The path's midpoint is near the center of the frame; size, speed and position vary slightly.

    Args:
        scene: The scene.
        frames: The number of frames, at least 1.
        rng: The random generator.

    Returns:
        Frames × 64 × 64 × 3.
    """
    radius = _RADIUS + rng.uniform(-_RADIUS_JITTER, _RADIUS_JITTER)
    speed = SPEED + rng.uniform(-_SPEED_JITTER, _SPEED_JITTER)
    midpoint = SIZE / 2 + rng.uniform(-_CENTER_JITTER, _CENTER_JITTER, 2)
    direction = np.array(MOTIONS[scene.motion])
    positions = midpoint + direction * speed * (np.arange(frames) - (frames - 1) / 2)[:, None]
    return np.stack([render_frame(scene, float(x), float(y), radius) for x, y in positions])


def render_frame(scene: Scene, x: float, y: float, radius: float = _RADIUS) -> Pixels:
    """Renders a scene's figure at a given position.

    Args:
        scene: The scene.
        x: The figure's center, in pixels from the left.
        y: The figure's center, in pixels from the top.
        radius: In pixels.

    Returns:
        64 × 64 × 3.
    """
    background, color = (np.array(PALETTE[name], np.float32) for name in (scene.background, scene.color))
    return np.round(background + coverage(scene.shape, x, y, radius)[..., None] * (color - background)).astype(np.uint8)
