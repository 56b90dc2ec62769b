"""The entry points of the package: load a model, look at one, list devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from moeflux.backends import device_names, open_device
from moeflux.engine.inspection import ModelInfo, inspect_checkpoint
from moeflux.engine.model import Model
from moeflux.engine.plan import Plan, plan_checkpoint
from moeflux.errors import DeviceError
from moeflux.evaluation import Benchmark, ModelSource, SpeedWorkload
from moeflux.evaluation.speed import measure_speed
from moeflux.hub import resolve
from moeflux.settings import Settings

BACKENDS = ("metal", "cuda", "cpu")


@dataclass(frozen=True)
class DeviceInfo:
    """One backend: whether this build and machine can run it, and if not, why."""

    name: str
    description: str
    available: bool
    reason: str


def load(
    path_or_hub_id: str | PathLike[str],
    device: str = "auto",
    memory: int | str | None = None,
    settings: Settings | None = None,
    *,
    vram: int | str | None = None,
) -> Model:
    """Load a checkpoint folder, a hub id ("org/name") or "demo".

    memory: cap on the process in bytes, or "8GB", "6.5GiB", "50%". vram: the same on what the
    model takes of a device's own memory, instead of the settings'. Raises CheckpointError,
    DeviceError, OutOfMemoryError, NoDeviceMemoryError, MemoryCapError, ValueError.
    """
    return Model(resolve(str(path_or_hub_id)), device, memory, _with_vram(settings, vram))


def inspect(path_or_hub_id: str | PathLike[str]) -> ModelInfo:
    """Architecture, sizes and whether it fits, without loading it. Raises CheckpointError."""
    return inspect_checkpoint(resolve(str(path_or_hub_id)))


def plan(
    path_or_hub_id: str | PathLike[str],
    device: str = "auto",
    memory: int | str | None = None,
    settings: Settings | None = None,
    trace: str | PathLike[str] | None = None,
    *,
    vram: int | str | None = None,
) -> Plan:
    """What a run would hold in memory and read per token, and how fast it would decode here.

    Measures drive and device for some seconds; loads no weights. `trace`: a route trace of the
    model, replayed for the hit rate. Raises MemoryCapError below the floor, CheckpointError,
    DeviceError, TraceError, ReadError.
    """
    folder, chosen = resolve(str(path_or_hub_id)), _with_vram(settings, vram)
    return plan_checkpoint(folder, device, memory, chosen, None if trace is None else Path(trace))


def benchmark(
    path_or_hub_id: str | PathLike[str],
    device: str = "auto",
    memory: int | str | None = None,
    settings: Settings | None = None,
    workload: SpeedWorkload | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    vram: int | str | None = None,
) -> Benchmark:
    """Measure how fast a model prefills and decodes here, and what it finds in the page cache.

    `progress` is told of repetitions that are done, and of how many. Raises as load does,
    ValueError where the workload exceeds the model's context, and ReadError.
    """
    chosen = _with_vram(settings, vram)
    source = ModelSource(resolve(str(path_or_hub_id)), device, memory, chosen)
    return measure_speed(source, workload or SpeedWorkload(), progress)


def _with_vram(settings: Settings | None, vram: int | str | None) -> Settings | None:
    if vram is None:
        return settings
    return replace(settings or Settings.from_environment(), vram=str(vram))


def devices() -> list[DeviceInfo]:
    """Every backend there is, best first, those that cannot run here with the reason."""
    names = device_names()
    found: list[DeviceInfo] = []
    for name in BACKENDS:
        try:
            description, reason = open_device(name).description, ""
        except DeviceError as error:
            description, reason = "", str(error)
        found.append(DeviceInfo(name, description, name in names, reason))
    return found
