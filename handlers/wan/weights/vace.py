"""Two views of one WAN: with the blocks that look at pictures, and without."""

from __future__ import annotations

from typing import Any

import torch


def text_view(vace: Any) -> Any:
    """The part of a VACE transformer that makes video from text, as a transformer of its own that shares every tensor.

    It computes what the whole one computes when its hints count nothing, bit for bit, without a third of the blocks and without encoding
    an empty video. VACE's own training leaves these tensors as they were (arXiv 2503.07598, 3.3), so this is the plain text-to-video model.

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
    view.rope = vace.rope  # its buffers are not in the state, and would be left without numbers
    view.requires_grad_(False)
    return view.eval()
