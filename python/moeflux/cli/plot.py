"""Hit rate against pool size as a picture. Needs matplotlib, which only `moeflux[plot]` brings."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from moeflux.errors import MoefluxError
from moeflux.experts.replay import BELADY


class Point(Protocol):
    """A simulated run."""

    @property
    def share(self) -> float: ...
    @property
    def policy(self) -> str: ...
    @property
    def predictor(self) -> str: ...
    @property
    def hit_rate(self) -> float: ...


# Of Okabe and Ito, which people with any colour vision can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_BELADY_COLOUR = "0.45"
_MARKERS = ("o", "s", "^", "D", "v")


def check_can_plot() -> None:
    """Raises MoefluxError without matplotlib."""
    _module("matplotlib.figure")


def plot_hit_rates(points: Iterable[Point], title: str, path: Path) -> None:
    """Write a line per policy and predictor to `path`, of a type that its suffix names.

    Raises MoefluxError without matplotlib, ValueError for an unknown suffix.
    """
    figures, ticker = _module("matplotlib.figure"), _module("matplotlib.ticker")
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for point in points:
        key = (point.policy, point.predictor)
        lines.setdefault(key, []).append((point.share, point.hit_rate))
    policies = [policy for policy in dict.fromkeys(key[0] for key in lines) if policy != BELADY]
    colours = dict(zip(policies, _COLOURS, strict=False)) | {BELADY: _BELADY_COLOUR}
    predictors = dict.fromkeys(key[1] for key in lines)
    markers = dict(zip(predictors, _MARKERS, strict=False))
    figure = figures.Figure(figsize=(8.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for (policy, predictor), values in lines.items():
        axes.plot(
            *zip(*sorted(values), strict=True),
            color=colours[policy],
            linestyle="--" if policy == BELADY else "-",
            marker=markers[predictor],
            linewidth=1.6,
            markersize=5,
            label=policy if predictor == "none" else f"{policy}, {predictor}",
        )
    axes.set(xlabel="slots, as a share of all experts", ylabel="hit rate of decode")
    axes.set_title(title, fontsize=9, loc="left", wrap=True)
    axes.set_xlim(0, None)
    axes.set_ylim(0, 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ticker.PercentFormatter(1))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MoefluxError("a plot needs matplotlib: pip install 'moeflux[plot]'") from error
