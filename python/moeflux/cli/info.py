"""`moeflux info`: what a checkpoint is, how large, and whether it runs here."""

from __future__ import annotations

import dataclasses
import json

import moeflux
from moeflux.cli.options import JsonOption, ModelArgument
from moeflux.cli.table import print_table
from moeflux.engine.inspection import ModelInfo
from moeflux.memory import format_size


def info(model: ModelArgument, as_json: JsonOption = False) -> None:
    """Show architecture, sizes and whether the model fits, without loading it."""
    facts = moeflux.inspect(model)
    if as_json:
        print(json.dumps(dataclasses.asdict(facts), indent=2))
    else:
        print_table(_rows(facts))


def _rows(facts: ModelInfo) -> list[tuple[str, str]]:
    layers = f"{facts.n_layers} layers, hidden size {facts.hidden_size}"
    touched = format_size(facts.dense_bytes_per_token)
    return [
        ("folder", facts.path),
        ("architecture", f"{facts.model_type}: {layers}"),
        ("experts", f"{facts.n_experts} per layer, {facts.top_k} per token"),
        ("vocabulary", f"{facts.vocab_size} tokens"),
        ("context", f"{facts.context_size} tokens"),
        ("quantisation", facts.quantisation),
        ("dense weights", format_size(facts.dense_nbytes)),
        ("routed experts", format_size(facts.expert_nbytes)),
        ("read per token", f"up to {format_size(facts.bytes_per_token)} of experts"),
        ("touched per token", f"{touched} of dense weights"),
        ("needs at least", f"{format_size(facts.floor_nbytes)} of memory"),
        ("fits", f"{'yes' if facts.fits else 'no'}: {facts.reason}"),
    ]
