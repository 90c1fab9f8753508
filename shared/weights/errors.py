"""The error for weights that exist but cannot be used."""

from __future__ import annotations

_ADVICE = "Copy the weights again, or configure other ones."


class WeightsError(Exception):
    """A set of weights is damaged, incomplete or of another model.

    At start it is treated like `SettingsError`: the worker refuses to start and logs the message. For an add-on, `AddonLibrary.load`
    passes `reason` on to the caller.

    Args:
        name: The weights, as messages call them: `sdxl/unet`, `loras/stripes`.
        reason: Why, without paths, because it may reach a caller.
        detail: For the operator instead of `reason`, where a library's own message says more; it may contain paths.
        advice: What the operator can do.
    """

    def __init__(self, name: str, reason: str, *, detail: str | None = None, advice: str = _ADVICE) -> None:
        super().__init__(f"The weights of {name} cannot be used: {detail or reason}. {advice}")
        self.reason = reason
