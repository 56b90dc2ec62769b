"""How the tensors of a text model are named and stored: by mlx_lm's converter or as published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from moeflux.checkpoint.safetensors import TensorEntry
from moeflux.errors import CheckpointError

Style = Literal["mlx", "hf"]

_LM_HEADS = {
    "language_model.model": "language_model.lm_head",
    "model.language_model": "lm_head",
    "model": "lm_head",
}
"""Trunks in the order in which they are looked for, and the matrix of the logits beside each."""


def find_style(tensors: Mapping[str, TensorEntry], quantised: bool) -> Style:
    """Which converter's conventions the tensors follow.

    In "hf", norms of the zero-centred families hold w where 1 + w is meant; in "mlx" they hold
    1 + w. What decides, in this order:

    1. The convolution of a gated delta net is [channels, 1, kernel] in "hf" and
       [channels, kernel, 1] in "mlx". The converter moves this axis in the step that shifts the
       norms, so it decides even where tensors typical of the other style (multi-token prediction,
       stacked experts) are present.
    2. Affine quantisation and experts under switch_mlp exist in "mlx" only.
    3. All else is "hf".

    Raises CheckpointError if convolutions of both layouts are present.
    """
    convolutions: dict[Style, TensorEntry] = {}
    for name, tensor in tensors.items():
        if name.endswith(".linear_attn.conv1d.weight") and len(tensor.shape) == 3:
            _, middle, last = tensor.shape
            if (middle == 1) != (last == 1):
                convolutions["hf" if middle == 1 else "mlx"] = tensor
    if len(convolutions) == 2:
        raise CheckpointError(
            "convolutions of two layouts, so it is unknown whether norms hold w or 1 + w: "
            + " and ".join(f"{t.path}: {t.name!r} {list(t.shape)}" for t in convolutions.values())
        )
    if convolutions:
        return next(iter(convolutions))
    return "mlx" if quantised or any(".switch_mlp." in name for name in tensors) else "hf"


def find_trunk(tensors: Mapping[str, TensorEntry], folder: Path) -> str:
    """The name under which embed_tokens, layers and norm lie; CheckpointError without one."""
    for trunk in _LM_HEADS:
        if f"{trunk}.embed_tokens.weight" in tensors:
            return trunk
    wanted = " or ".join(f"{trunk}.embed_tokens.weight" for trunk in _LM_HEADS)
    raise CheckpointError(f"{folder}: no text model: wanted tensor {wanted}")


def find_lm_head(tensors: Mapping[str, TensorEntry], trunk: str, folder: Path) -> str:
    """The name of the matrix that gives the logits. Raises CheckpointError if there is none."""
    name = _LM_HEADS[trunk]
    if f"{name}.weight" in tensors:
        return name
    raise CheckpointError(
        f"{folder}: no tensor '{name}.weight', which is wanted where tie_word_embeddings is false"
    )
