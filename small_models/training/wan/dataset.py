"""Clips of one plain figure that moves over a plain background, 64 × 64 pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from small_models.training.shapes import PALETTE, SIZE, Pixels, coverage, is_held_out

SHAPES = ("circle", "square", "triangle", "star")
MOTIONS: dict[str, tuple[int, int]] = {"still": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Each motion's direction, across and down."""
SPEED = 2.0
"""Pixels per frame: one cell of the latents per latent frame."""

_RADIUS = 12.0
_LOOSE_RADIUS = 1.5  # pixels
_LOOSE_SPEED = 0.15  # pixels per frame
_LOOSE_PLACE = 4.0  # pixels, of the path's middle


@dataclass(frozen=True)
class Scene:
    """What a clip shows.

    Attributes:
        shape: One of `SHAPES`.
        color: One of `PALETTE`.
        motion: One of `MOTIONS`.
        background: One of `PALETTE`, and not the figure's color.
    """

    shape: str
    color: str
    motion: str
    background: str

    @property
    def held_out(self) -> bool:
        """Whether this combination of attributes is kept from training."""
        return is_held_out((self.background, self.shape, self.color, self.motion))


def sample_scene(rng: np.random.Generator, *, held_out: bool = False) -> Scene:
    """Draws a scene by chance.

    Args:
        rng: The chance.
        held_out: Whether it shall be one that is kept from training, or one that is not.
    """
    while True:
        background, color = (str(name) for name in rng.permutation(list(PALETTE))[:2])
        scene = Scene(str(rng.choice(SHAPES)), color, str(rng.choice(list(MOTIONS))), background)
        if scene.held_out == held_out:
            return scene


def render(scene: Scene, frames: int, rng: np.random.Generator) -> Pixels:
    """Draws a clip. The middle of the figure's path is near the middle of the picture; size, speed and place vary a little.

    Args:
        scene: What is shown.
        frames: At least 1.
        rng: The chance.

    Returns:
        Frames × 64 × 64 × 3.
    """
    radius = _RADIUS + rng.uniform(-_LOOSE_RADIUS, _LOOSE_RADIUS)
    speed = SPEED + rng.uniform(-_LOOSE_SPEED, _LOOSE_SPEED)
    middle = SIZE / 2 + rng.uniform(-_LOOSE_PLACE, _LOOSE_PLACE, 2)
    direction = np.array(MOTIONS[scene.motion])
    places = middle + direction * speed * (np.arange(frames) - (frames - 1) / 2)[:, None]
    return np.stack([draw(scene, float(x), float(y), radius) for x, y in places])


def draw(scene: Scene, x: float, y: float, radius: float = _RADIUS) -> Pixels:
    """Draws one picture of a scene's figure.

    Args:
        scene: What is shown.
        x: The figure's middle, in pixels from the left.
        y: The figure's middle, in pixels from the top.
        radius: In pixels.

    Returns:
        64 × 64 × 3.
    """
    ground, ink = (np.array(PALETTE[color], np.float32) for color in (scene.background, scene.color))
    return np.round(ground + coverage(scene.shape, x, y, radius)[..., None] * (ink - ground)).astype(np.uint8)
