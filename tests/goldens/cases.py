"""The tiny checkpoints that have goldens: which weights, and in which layouts they are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from json import dumps
from pathlib import Path

from stored_tensors import encode
from tiny_checkpoint import (
    ROUTER_OVERRIDES,
    HfLayout,
    MlxLayout,
    TinyCheckpoint,
    TinyModel,
    write_hf,
    write_mlx,
)

FOLDER = Path(__file__).parent
KINDS = ("qwen3_5_moe", "qwen3_next", "qwen3_moe")
Layout = HfLayout | MlxLayout


@dataclass(frozen=True)
class GoldenCase:
    """Weights with a golden. All layouts hold the same numbers; the first is the oracle's."""

    name: str
    model: TinyModel
    layouts: tuple[Layout, ...]
    n_tokens: int = 24
    positions: tuple[int, ...] | None = None
    """Prompt tokens whose logits are kept; None: all."""

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.npz"


def tiny_model(kind: str, *, tied: bool = False) -> TinyModel:
    """Sizes that differ from each other and that groups of 128 divide; value heads share keys."""
    return TinyModel(
        kind=kind,
        n_layers=5,
        n_experts=12,
        top_k=3,
        expert_width=128,
        shared_width=256,
        n_heads=6,
        head_dim=64,
        n_value_heads=8,
        tied=tied,
    )


def golden_cases() -> Iterator[GoldenCase]:
    for kind in KINDS:
        model = tiny_model(kind)
        yield GoldenCase(f"{kind}_bfloat16", model, BFLOAT16)
        yield GoldenCase(f"{kind}_float32", model, (HfLayout(dtype="F32"),))
        yield GoldenCase(f"{kind}_float16", model, (HfLayout(dtype="F16"),))
        for name, layouts in QUANTISED.items():
            yield GoldenCase(f"{kind}_{name}", model, layouts)
        yield GoldenCase(f"{kind}_4bit_long", model, (MlxLayout(),), 150, BLOCK_EDGES)
    tied = tiny_model("qwen3_moe", tied=True)
    yield GoldenCase("qwen3_moe_bfloat16_tied", tied, (HfLayout(), MlxLayout(bits=None)))


BFLOAT16 = (
    HfLayout(),
    HfLayout(stacked_experts=True, n_shards=3),
    HfLayout(stacked_experts=False, aligned=False),
    MlxLayout(bits=None),
)
QUANTISED: dict[str, tuple[Layout, ...]] = {
    "4bit": (MlxLayout(), MlxLayout(n_shards=3, aligned=False)),
    "4bit_router_too": (MlxLayout(overrides={}),),
    "4bit_router_not": (MlxLayout(overrides=dict.fromkeys(ROUTER_OVERRIDES)),),
    "2bit_group32": (MlxLayout(bits=2, group_size=32),),
    "3bit_group128": (MlxLayout(bits=3, group_size=128),),
    "5bit_group64": (MlxLayout(bits=5, dtype="F16"),),
    "6bit_group32": (MlxLayout(bits=6, group_size=32),),
    "8bit_group128": (MlxLayout(bits=8, group_size=128),),
    "mixed": (
        MlxLayout(
            bits=3,
            overrides=ROUTER_OVERRIDES
            | {"lm_head": (6, 64), "v_proj": (5, 32), "layers.4.mlp.experts.down_proj": (6, 128)},
        ),
    ),
}
BLOCK_EDGES = (0, 1, 62, 63, 64, 65, 127, 128, 149)


def write(model: TinyModel, folder: Path, layout: Layout) -> TinyCheckpoint:
    if isinstance(layout, HfLayout):
        return write_hf(model, folder, layout)
    return write_mlx(model, folder, layout)


def digest(checkpoint: TinyCheckpoint) -> str:
    """Of what a checkpoint means, in any layout: a golden belongs to these numbers only.

    To bfloat16 precision: the last bit of a random number may depend on the platform's logarithm.
    """
    config = dict(checkpoint.config)
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)
    state = sha256(dumps(config, sort_keys=True).encode())
    for name, weight in sorted(checkpoint.weights.items()):
        state.update(f"{name} {weight.shape}".encode())
        state.update(encode(weight, "BF16")[1].tobytes())
    return state.hexdigest()
