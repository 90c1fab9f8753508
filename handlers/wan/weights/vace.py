"""The text-to-video model inside VACE: the transformer without the blocks that process references."""

from __future__ import annotations

from typing import Any

import torch


def text_to_video_view(vace: Any) -> Any:
    """Returns the text-to-video part of a VACE transformer, as a transformer of its own that shares every tensor.

    It computes the same as VACE with a conditioning scale of 0, bit for bit, without a third of the blocks and without encoding an empty
    video. VACE's training left these tensors frozen (arXiv 2503.07598, 3.3), so this is the plain text-to-video model.

    Args:
        vace: A loaded `WanVACETransformer3DModel`.

    Returns:
        A `WanTransformer3DModel`, frozen and in evaluation mode. It takes no memory of its own.
    """
    from diffusers import WanTransformer3DModel

    plain = {key: value for key, value in vace.config.items() if key not in ("vace_layers", "vace_in_channels") and key[0] != "_"}
    with torch.device("meta"):
        view: Any = WanTransformer3DModel.from_config(plain)
    tensors = vace.state_dict()
    view.load_state_dict({name: tensors[name] for name in view.state_dict()}, strict=True, assign=True)
    view.rope = vace.rope  # its buffers are not in the state dict, and would stay on the meta device
    view.requires_grad_(False)
    return view.eval()
