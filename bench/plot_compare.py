"""Draws the last line of bench/compare.py: moeflux and llama.cpp side by side, with the spread.

usage: python bench/compare.py FOLDER | tail -1 | python bench/plot_compare.py FILE.svg
"""

from __future__ import annotations

import json
import sys
from typing import Any

import matplotlib.pyplot as plt

TITLES = {
    "decode": "decode, tokens per second",
    "prefill": "prefill, tokens per second",
    "processor_seconds": "processor seconds (less is better)",
}
COLOURS = {"moeflux": "#2f6f9f", "llama.cpp": "#b0b0b0"}


def draw(result: dict[str, Any], path: str) -> None:
    figure, axes = plt.subplots(1, len(TITLES), figsize=(9, 2.8), constrained_layout=True)
    for axis, (quantity, title) in zip(axes, TITLES.items(), strict=True):
        rows = [row for row in result["rows"] if row["quantity"] == quantity]
        for offset, (name, colour) in enumerate(COLOURS.items()):
            medians = [row["medians"][name] for row in rows]
            spread = [
                [
                    median - min(row["values"][name])
                    for row, median in zip(rows, medians, strict=True)
                ],
                [
                    max(row["values"][name]) - median
                    for row, median in zip(rows, medians, strict=True)
                ],
            ]
            places = [index + 0.4 * offset - 0.2 for index in range(len(rows))]
            axis.bar(places, medians, 0.36, yerr=spread, capsize=3, color=colour, label=name)
        labels = [f"{row['threads']} thread{'s' * (row['threads'] > 1)}" for row in rows]
        axis.set_xticks(range(len(rows)), labels)
        axis.set_xlim(-0.7, len(rows) - 0.3)
        axis.set_title(title, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    draw(json.loads(sys.stdin.read().splitlines()[-1]), sys.argv[1])
