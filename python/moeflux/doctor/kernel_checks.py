"""Every kernel of a device against its formula, and against itself: the same bits each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

from moeflux._core import Device
from moeflux.doctor import attention_cases, delta_net_cases, matrix_cases, row_cases
from moeflux.doctor.cases import TOLERANCE, Case
from moeflux.doctor.failures import EXPECTED, told
from moeflux.doctor.findings import Finding, Status

CASES: Mapping[str, Callable[[], Iterator[Case]]] = {
    "attention": attention_cases.attention_cases,
    "attention_decode": attention_cases.attention_decode_cases,
    "attention_merge": attention_cases.attention_merge_cases,
    "attention_prepare": attention_cases.attention_prepare_cases,
    "embedding": matrix_cases.embedding_cases,
    "expert_down": matrix_cases.expert_down_cases,
    "expert_gate_up": matrix_cases.expert_gate_up_cases,
    "gate_up": matrix_cases.gate_up_cases,
    "gated_delta_net": delta_net_cases.gated_delta_net_cases,
    "gated_delta_net_conv": delta_net_cases.gated_delta_net_conv_cases,
    "gated_delta_net_decay": delta_net_cases.gated_delta_net_decay_cases,
    "gated_delta_net_split": delta_net_cases.gated_delta_net_split_cases,
    "gated_rms_norm": row_cases.gated_rms_norm_cases,
    "matmul": matrix_cases.matmul_cases,
    "moe_combine_norm": row_cases.moe_combine_norm_cases,
    "rms_norm": row_cases.rms_norm_cases,
    "router_top_k": row_cases.router_top_k_cases,
}
"""By kernel."""

REPEATED_CASES = 12
"""Of a kernel, for its bits."""

ADVICE = (
    "The device or its driver computes something else than the kernel's formula: attach this "
    "report to an issue, and run with --device cpu until that is understood."
)
FAILED = (
    "The device did not run the kernel: attach this report to an issue, and run with --device cpu "
    "until that is understood."
)
GAP = "This is a gap in moeflux: please open an issue."


def check_kernels(
    device: Device, cases: Mapping[str, Callable[[], Iterator[Case]]] = CASES
) -> Iterator[Finding]:
    """One finding for each kernel that the device has or should have."""
    kernels = device.kernels()
    for kernel in sorted({*kernels, *cases}):
        if kernel not in cases:
            said = "unchecked: there is no case for it"
            yield Finding("kernels", kernel, Status.PROBLEM, said, GAP)
        elif kernel not in kernels:
            said = "the device has no such kernel"
            yield Finding("kernels", kernel, Status.PROBLEM, said, GAP)
        else:
            yield _check(device, kernel, cases[kernel]())


def _check(device: Device, kernel: str, cases: Iterable[Case]) -> Finding:
    n_cases, worst, worst_case = 0, 0.0, ""
    for case in cases:
        try:
            error = case.error(case.run(device))
        except EXPECTED as failure:
            said = f"{case.detail}: {told(failure)}"
            return Finding("kernels", kernel, Status.PROBLEM, said, FAILED)
        n_cases += 1
        if error >= worst:
            worst, worst_case = error, case.detail
    values = {
        "n_cases": n_cases,
        # JSON has no infinity.
        "worst_error": worst if worst < float("inf") else None,
        "worst_case": worst_case,
        "tolerance": TOLERANCE,
    }
    distance = f"{worst:.1e}" if worst < float("inf") else "wrong or not finite"
    said = f"{n_cases} cases, worst error {distance} (tolerance {TOLERANCE:.0e})"
    if worst <= TOLERANCE:
        return Finding("kernels", kernel, Status.OK, said, values=values)
    return Finding("kernels", kernel, Status.PROBLEM, f"{said}: {worst_case}", ADVICE, values)


def check_bits(device: Device, alone: Device) -> Iterator[Finding]:
    """Whether kernels give the same bits twice, and on `alone`, the device with one thread."""
    for name, other in (("twice", device), ("opened again with one thread", alone)):
        n_cases, differing = 0, []
        for kernel in device.kernels():
            for case in islice(CASES.get(kernel, _none)(), REPEATED_CASES):
                n_cases += 1
                if not _same_bits(case, device, other):
                    differing.append(f"{kernel}: {case.detail}")
        status = Status.PROBLEM if differing else Status.OK
        said = f"the same bits in {n_cases} cases"
        if differing:
            said = f"other bits in {len(differing)} of {n_cases} cases, first {differing[0]}"
        values = {"n_cases": n_cases, "differing": differing}
        yield Finding("same bits", name, status, said, ADVICE if differing else "", values)


def _same_bits(case: Case, one: Device, other: Device) -> bool:
    results = zip(case.run(one), case.run(other), strict=True)
    return all(got.tobytes() == again.tobytes() for got, again in results)


def _none() -> Iterator[Case]:
    return iter(())
