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


def weights_error(name: str, error: Exception) -> WeightsError:
    """Wraps an exception that a library raised while it read weights. Its text is for the operator only: it may contain paths.

    Args:
        name: The weights in the message.
        error: The library's exception.
    """
    # Torch's message for moving a meta tensor: a tensor that no file had. The same type is raised for an operation that does not exist in
    # some precision.
    if isinstance(error, NotImplementedError) and "meta tensor" in str(error):
        return WeightsError(name, "tensors are missing from its files")
    detail = (str(error).splitlines() or [type(error).__name__])[0]
    return WeightsError(name, "its files are damaged, incomplete or of another model", detail=detail)
