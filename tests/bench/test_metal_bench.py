"""The bench of a model's dispatches: complete, measured on any device, and written as a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kernel_costs import Cost
from metal import TABLE, cost_table, main, steps, total
from model_shapes import SHAPES
from moeflux._core import device_names, open_device
from stand_in_operands import MOST_COPIES, StandInOperands

TINY, LARGE = SHAPES["tiny"], SHAPES["qwen3.6-35b-a3b"]
Output = pytest.CaptureFixture[str]


def test_every_kernel_is_in_every_step_that_it_is_for() -> None:
    decode, prefill = ({work.kernel for work in step} for step in steps(TINY))
    kernels, halves = set(open_device("cpu").kernels()), {"attention_decode", "attention_merge"}
    assert decode == kernels - {"attention"}
    assert prefill == kernels - halves


def test_costs_of_a_step_are_those_of_its_dispatches() -> None:
    works = list(steps(TINY)[0])
    wanted = Cost(
        sum(work.count * work.cost.nbytes for work in works),
        sum(work.count * work.cost.flops for work in works),
    )
    assert total(iter(works)) == wanted


def test_weights_of_a_decoded_token_are_those_of_the_model() -> None:
    """All but the embedding table and the routed experts, and top_k of the latter, once."""
    form, hidden = LARGE.form, LARGE.hidden
    mixer, net = LARGE.attention, LARGE.delta_net
    width, kv_width = mixer.n_heads * mixer.head_dim, mixer.n_kv_heads * mixer.head_dim
    full = form.nbytes(2 * width + 2 * kv_width, hidden) + form.nbytes(hidden, width)
    rows = net.channels + net.value_width + 2 * net.n_value_heads
    linear = form.nbytes(rows, hidden) + form.nbytes(hidden, net.value_width)
    expert = form.nbytes(2 * LARGE.expert_width, hidden) + form.nbytes(hidden, LARGE.expert_width)
    layer = form.nbytes(LARGE.n_experts + 1, hidden) + (LARGE.top_k + 1) * expert
    weights = 10 * full + 30 * linear + 40 * layer + form.nbytes(LARGE.vocabulary, hidden)
    products = ("matmul", "gate_up", "expert_gate_up", "expert_down")
    moved = total(work for work in steps(LARGE)[0] if work.kernel in products)
    assert weights < moved.nbytes < 1.01 * weights


@pytest.mark.parametrize("device", device_names())
def test_the_last_line_is_json_with_every_dispatch(device: str, capsys: Output) -> None:
    given = ["--model", "tiny", "--seconds", "0", "--working-set", "0.3", "--only", "norm"]
    main(["--device", device, *given])
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    wanted = [work for step in steps(TINY) for work in step if "norm" in work.kernel]
    assert [result["kernel"] for result in summary["results"]] == [work.kernel for work in wanted]
    for result, work in zip(summary["results"], wanted, strict=True):
        assert result["nbytes"] == work.cost.nbytes
        assert result["gb_per_second"] * result["microseconds"] * 1e3 == pytest.approx(
            work.cost.nbytes
        )
        assert result["share_of_copy_bandwidth"] == pytest.approx(
            result["gb_per_second"] / summary["copy_gb_per_second"]
        )


def test_every_dispatch_runs(capsys: Output) -> None:
    given = ["--model", "tiny", "--seconds", "0", "--working-set", "0.3", "--device", "cpu"]
    main(given)
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert len(results) == sum(len(list(step)) for step in steps(TINY))
    assert all(result["microseconds"] > 0 for result in results)


def test_the_written_table_is_that_of_the_costs() -> None:
    """python bench/metal.py --table-only writes it again after a change of the costs."""
    assert TABLE.read_text() == cost_table(LARGE)


def test_the_table_can_be_written_elsewhere(tmp_path: Path) -> None:
    main(["--model", "tiny", "--table-only", str(tmp_path / "costs.md")])
    text = (tmp_path / "costs.md").read_text()
    assert text == cost_table(TINY)
    assert text.count("| **whole step** |") == 2


def test_operands_go_round_in_the_working_set() -> None:
    operands = StandInOperands(open_device("cpu", 1), 2**20)
    assert operands.n_copies(2**18) == 4
    assert operands.n_copies(2**21) == 1
    assert operands.n_copies(1) == MOST_COPIES
