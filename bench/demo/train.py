"""Train the demo model on encoded tokens and save a checkpoint of its exact weights.

Loss = cross entropy + balance of the routers + size of their logits. The last part of the run
computes with quantised weights. Knows nothing of the exported file.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from config import ModelConfig
from model import LanguageModel
from muon import Muon
from quantize import StoredWeights
from torch import Tensor
from torch.nn import functional

BALANCE_WEIGHT, SIZE_WEIGHT = 0.01, 1e-3
MATRIX_SUFFIXES = (
    "in_proj_qkv.weight",
    "in_proj_z.weight",
    "out_proj.weight",
    "q_proj.weight",
    "k_proj.weight",
    "v_proj.weight",
    "o_proj.weight",
    "up_proj",
    "down_proj",
    "gate_proj.weight",
    "up_proj.weight",
    "down_proj.weight",
)


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with train.npy and heldout.npy")
    parser.add_argument("checkpoint", type=Path, help="file to write")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument(
        "--seconds",
        type=float,
        default=math.inf,
        help="shorten the schedule if the steps would take longer than this",
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument("--quantised-share", type=float, default=0.15)
    parser.add_argument("--matrix-rate", type=float, default=4e-3)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--matrix-decay", type=float, default=0.8)
    parser.add_argument("--decay", type=float, default=0.3)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--report", type=int, default=100, help="steps between lines of output")
    parser.add_argument("--evaluate", type=int, default=500, help="steps between evaluations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=json.loads, default={}, help="shapes, as JSON")
    parser.add_argument("--no-compile", action="store_true")
    return parser.parse_args()


def load_tokens(path: Path, device: torch.device) -> Tensor:
    """All tokens of a split, on the device."""
    return torch.from_numpy(np.load(path).astype(np.int32)).to(device)


def windows(tokens: Tensor, batch: int, length: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless [batch, length] inputs and targets: each pass covers the tokens once.

    Every pass shifts the grid of windows by a random offset and shuffles it.
    """
    generator = torch.Generator().manual_seed(seed)
    within = torch.arange(length + 1, device=tokens.device)
    count = (len(tokens) - length - 1) // length
    while True:
        offset = int(torch.randint(length, (), generator=generator))
        order = torch.randperm(count, generator=generator)
        starts = (order * length + offset).clamp_max(len(tokens) - length - 1)
        for chosen in torch.split(starts.to(tokens.device), batch):
            if len(chosen) == batch:
                picked = tokens[chosen[:, None] + within].long()
                yield picked[:, :-1], picked[:, 1:]


def optimisers(model: LanguageModel, options: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for everything else."""
    matrices, tables, rest = [], [], []
    for name, parameter in model.named_parameters():
        if name.endswith(MATRIX_SUFFIXES):
            matrices.append(parameter)
        elif parameter.ndim >= 2 and "conv1d" not in name:
            tables.append(parameter)
        else:
            rest.append(parameter)
    groups = [
        {"params": tables, "weight_decay": options.decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    fused = next(model.parameters()).is_cuda
    return [
        Muon(matrices, options.matrix_rate, options.matrix_decay),
        torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98), fused=fused),
    ]


class Trainer:
    """One training run; `progress` in 0..1 drives the learning rate and the quantised phase."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(options.seed)
        torch.set_float32_matmul_precision("high")
        self.model = LanguageModel(ModelConfig(**options.config), options.dropout).to(self.device)
        self.optimisers = optimisers(self.model, options)
        for group in (g for o in self.optimisers for g in o.param_groups):
            group["initial_rate"] = group["lr"]
        if not options.no_compile:
            for layer in self.model.model.layers:
                layer.compile()
            self.cross_entropy = torch.compile(cross_entropy)
        else:
            self.cross_entropy = cross_entropy
        self.stored = StoredWeights(self.model)
        self.train_tokens = load_tokens(options.data / "train.npy", self.device)
        self.held_out = load_tokens(options.data / "heldout.npy", self.device)

    def loss(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cross entropy, balance and size of one batch."""
        with torch.autocast(self.device.type, torch.bfloat16):
            hidden, balance, size = self.model(inputs)
            entropy = self.cross_entropy(hidden, self.model.lm_head.weight, targets)
        return entropy, balance, size

    def step(self, inputs: Tensor, targets: Tensor, quantised: bool) -> tuple[Tensor, ...]:
        """Forward, backward and update."""
        if quantised:
            self.stored.enter()
        entropy, balance, size = self.loss(inputs, targets)
        torch.autograd.backward(entropy + BALANCE_WEIGHT * balance + SIZE_WEIGHT * size)
        if quantised:
            self.stored.leave()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return entropy.detach(), balance.detach(), size.detach(), norm

    @torch.no_grad()
    def held_out_loss(self, quantised: bool) -> float:
        """Mean cross entropy over the held-out tokens in whole windows."""
        self.model.eval()
        if quantised:
            self.stored.enter()
        batch, length = self.options.batch, self.options.length
        stream = windows(self.held_out, batch, length, seed=1)
        count = max(1, (len(self.held_out) - length - 1) // length // batch)
        losses = [self.loss(*pair)[0] for pair in itertools.islice(stream, count)]
        if quantised:
            self.stored.leave()
        self.model.train()
        return float(torch.stack(losses).mean())

    def run(self) -> None:
        """The whole schedule: warm-up, then a learning rate that falls linearly to zero."""
        options, begin = self.options, time.perf_counter()
        quantised = False
        stream = windows(self.train_tokens, options.batch, options.length, options.seed)
        warm_begin = begin
        for step, (inputs, targets) in enumerate(stream):
            if step == 20:  # compilation is over
                warm_begin = time.perf_counter()
            elapsed = time.perf_counter() - begin
            progress = max(step / options.steps, elapsed / options.seconds)
            if progress >= 1:
                break
            quantised = progress >= 1 - options.quantised_share
            for group in (g for o in self.optimisers for g in o.param_groups):
                group["lr"] = group["initial_rate"] * min(1 - progress, (step + 1) / options.warmup)
            terms = self.step(inputs, targets, quantised)
            if step % options.report == 0:
                values = " ".join(f"{float(term):.4f}" for term in terms)
                speed = max(0, step - 20) * inputs.numel() / (time.perf_counter() - warm_begin)
                print(
                    f"{elapsed:6.1f} s step {step} progress {progress:.3f} loss/balance/size/norm"
                    f" {values} {speed:.0f} tokens/s{' quantised' if quantised else ''}"
                )
            if step and step % options.evaluate == 0:
                print(f"held out {self.held_out_loss(quantised):.4f}")
                self.save()
        print(
            f"steps {step} tokens {step * options.batch * options.length} "
            f"seconds {time.perf_counter() - begin:.0f}"
        )
        print(
            f"held out, exact weights {self.held_out_loss(quantised=False):.4f}, "
            f"stored weights {self.held_out_loss(quantised=True):.4f}"
        )

    def save(self) -> None:
        """Write the exact weights, replacing the file only once it is whole."""
        weights = {name: value.detach().cpu() for name, value in self.model.named_parameters()}
        target = self.options.checkpoint
        partial = target.with_suffix(".partial")
        torch.save({"config": self.options.config, "weights": weights}, partial)
        partial.replace(target)


def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(W h)[target]."""
    logits = functional.linear(hidden, weight).flatten(0, 1).float()
    return functional.cross_entropy(logits, targets.flatten())


def main() -> None:
    """Train and save."""
    options = parse()
    trainer = Trainer(options)
    count = sum(parameter.numel() for parameter in trainer.model.parameters())
    print(f"{count / 1e6:.2f} M parameters, {len(trainer.train_tokens) / 1e6:.2f} M tokens")
    trainer.run()
    trainer.save()


if __name__ == "__main__":
    main()
