"""What moeflux, Python and the machine are, without anything that names its user."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from moeflux._core import __version__
from moeflux.api import devices
from moeflux.backends import open_device
from moeflux.doctor.findings import Finding, Status
from moeflux.memory import available_memory, control_group_limits, format_size, total_memory

LEAST_MEMORY = 1_000_000_000
NATIVE_BACKENDS = {"Darwin": "metal"}
"""By operating system: the backend that a build there has."""


def check_installation() -> Iterator[Finding]:
    """Version, Python and the backends of this build."""
    python = f"Python {platform.python_version()} ({platform.python_implementation()})"
    said = f"moeflux {__version__}, {python}, NumPy {np.__version__}"
    versions = {
        "moeflux": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    yield Finding("installation", "versions", Status.OK, said, values=versions)
    for device in devices():
        name = f"backend {device.name}"
        if device.description:
            yield Finding("installation", name, Status.OK, device.description)
        elif device.available:
            advice = "Update the operating system and its drivers; other programs may use it up."
            yield Finding("installation", name, Status.PROBLEM, device.reason, advice)
        elif NATIVE_BACKENDS.get(platform.system()) == device.name:
            advice = (
                "Install again from source on this machine (`pip install .`) with the command "
                "line tools of Xcode; a virtual machine without a GPU has no Metal."
            )
            yield Finding("installation", name, Status.PROBLEM, device.reason, advice)
        else:
            yield Finding("installation", name, Status.ABSENT, device.reason)


def check_machine() -> Iterator[Finding]:
    """Operating system, processor and memory, with what control groups leave of them."""
    yield Finding("machine", "operating system", Status.OK, _operating_system())
    yield _processor()
    yield _memory()


def _operating_system() -> str:
    machine = platform.machine()
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]}, {machine}"
    return f"{platform.system()} {platform.release()}, {machine}"


def _processor() -> Finding:
    name, *_ = open_device("cpu").description.rsplit(", ", 1)
    logical, physical = psutil.cpu_count(), psutil.cpu_count(logical=False)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    quota = control_group_cores()
    said = f"{name}; {logical} logical and {physical or 'unknown'} physical cores, {usable} usable"
    values = {
        "logical_cores": logical,
        "physical_cores": physical,
        "usable_cores": usable,
        "control_group_cores": quota,
    }
    if quota is not None:
        said += f", a control group allows the time of {quota:g}"
    if quota is None or usable is None or quota >= usable:
        return Finding("machine", "processor", Status.OK, said, values=values)
    threads = max(1, int(quota))
    advice = f"Set MOEFLUX_N_THREADS={threads} (or --threads {threads}): more threads are stopped."
    return Finding("machine", "processor", Status.PROBLEM, said, advice, values)


def control_group_cores(root: Path = Path("/")) -> float | None:
    """Cores whose time the control groups (version 2) of this process allow; None: no limit."""
    membership = root / "proc/self/cgroup"
    if not membership.exists():
        return None
    mount, limits = root / "sys/fs/cgroup", []
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents) if controllers == "" else ():
            quota = folder / "cpu.max"
            if folder.is_relative_to(mount) and quota.exists():
                allowed, period = quota.read_text().split()
                limits += [] if allowed == "max" else [int(allowed) / int(period)]
    return min(limits, default=None)


def _memory() -> Finding:
    machine, total, available = (
        int(psutil.virtual_memory().total),
        total_memory(),
        available_memory(),
    )
    groups = [limit.nbytes for limit in control_group_limits()]
    said = f"{format_size(machine)}, {format_size(available)} available"
    if groups:
        said += f", limited to {format_size(min(groups))} by a control group"
    swap = psutil.swap_memory()
    if swap.used:
        said += f", {format_size(swap.used)} swapped out"
    values = {
        "machine_nbytes": machine,
        "total_nbytes": total,
        "available_nbytes": available,
        "control_group_nbytes": groups,
        "swapped_nbytes": int(swap.used),
        "python_bits": 64 if sys.maxsize > 2**32 else 32,
    }
    if available >= LEAST_MEMORY:
        return Finding("machine", "memory", Status.OK, said, values=values)
    advice = "Close other programs, or raise the limit of the container: models need more."
    return Finding("machine", "memory", Status.PROBLEM, said, advice, values)
