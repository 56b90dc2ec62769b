"""Misses per token of an LRU pool, by the order in which answers in flight take their turns.

usage: python bench/turn_orders.py MODEL --text FILE [--slots 32 48 96 160] [--answers 8]
       [--tokens 64] [--prompt-tokens 64]

Orders: one answer after another, all token by token in turn, all layer by layer together. The
routes are the model's own; the pool is a list, so that nothing but the order differs.
"""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

import moeflux
from moeflux.engine.routes import RouteRecorder
from moeflux.experts.trace import TokenRoutes

Expert = tuple[int, int]  # layer and number
Routes = list[list[tuple[tuple[int, ...], ...]]]  # [answer][token][layer]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--slots", type=int, nargs="+", default=[32, 48, 96, 160])
    parser.add_argument("--answers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    arguments = parser.parse_args()
    with moeflux.load(arguments.model) as model:
        routes = recorded(model, arguments)
    n_tokens = len(routes) * len(routes[0])
    rows = [
        {"slots": n_slots}
        | {name: misses(order, n_slots) / n_tokens for name, order in orders(routes)}
        for n_slots in arguments.slots
    ]
    for row in rows:
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    print(json.dumps(rows))


def recorded(model: moeflux.Model, arguments: argparse.Namespace) -> Routes:
    """Of the decode steps of each answer, all equally many."""
    token_ids = model.tokenizer.encode(arguments.text.read_text())
    never_ends = dict.fromkeys(model.tokenizer.eos_token_ids, -1000.0)
    found: Routes = []
    for index in range(arguments.answers):
        first = index * (len(token_ids) - arguments.prompt_tokens) // max(1, arguments.answers - 1)
        steps: list[TokenRoutes] = []
        for _ in model.generate(
            token_ids[first : first + arguments.prompt_tokens],
            max_tokens=arguments.tokens,
            temperature=0.8,
            seed=index,
            logit_bias=never_ends,
            routes=RouteRecorder(steps.append),
        ):
            pass
        found.append([step.experts for step in steps if not step.prefill])
    return found


def orders(routes: Routes) -> Iterator[tuple[str, Iterable[Expert]]]:
    answers, tokens = range(len(routes)), range(len(routes[0]))
    layers = range(len(routes[0][0]))

    def experts(answer: int, token: int, layer: int) -> Iterator[Expert]:
        return ((layer, expert) for expert in routes[answer][token][layer])

    yield "one after another", (e for at in product(answers, tokens, layers) for e in experts(*at))
    yield (
        "token by token",
        (e for t, a, layer in product(tokens, answers, layers) for e in experts(a, t, layer)),
    )
    yield (
        "layer by layer",
        (e for t, layer, a in product(tokens, layers, answers) for e in experts(a, t, layer)),
    )


def misses(order: Iterable[Expert], n_slots: int) -> int:
    """Of a pool in which the least recently used expert gives way."""
    pool: OrderedDict[Expert, None] = OrderedDict()
    n_missed = 0
    for expert in order:
        if expert in pool:
            pool.move_to_end(expert)
            continue
        n_missed += 1
        if len(pool) >= n_slots:
            pool.popitem(last=False)
        pool[expert] = None
    return n_missed


if __name__ == "__main__":
    main()
