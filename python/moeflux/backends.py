"""The devices of this machine, opened as the settings say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from moeflux import _core
from moeflux._core import CudaOptions, Device
from moeflux.settings import Settings

SYSTEM_COMPILERS = ("libnvrtc.so.13", "libnvrtc.so.12")
"""NVRTC where the loader finds it: of a CUDA toolkit."""


def device_names(settings: Settings | None = None) -> list[str]:
    """Backends that this build has and this machine can run, best first."""
    return _core.device_names(cuda_options(settings or Settings.from_environment()))


def open_device(name: str = "auto", settings: Settings | None = None) -> Device:
    """The device of that name, "auto" for the best there is. Raises DeviceError with the reason."""
    settings = settings or Settings.from_environment()
    cuda = cuda_options(settings)
    name = _core.device_names(cuda)[0] if name == "auto" else name
    return _core.open_device(
        name, settings.n_threads, settings.instruction_set, settings.activations, cuda
    )


def cuda_options(settings: Settings) -> CudaOptions:
    """Where CUDA is, by the settings; what they leave open is looked for."""
    chosen = [settings.cuda_compiler] if settings.cuda_compiler else _compilers()
    folder = settings.kernel_folder and str(Path(settings.kernel_folder).expanduser())
    return CudaOptions(settings.cuda_driver, chosen, folder, settings.gpu_timeout)


def _compilers() -> list[str]:
    """NVRTC of the packages nvidia-cuda-nvrtc*, the newest first, then that of the system."""
    found: list[Path] = []
    packages = importlib.util.find_spec("nvidia")
    for place in (packages and packages.submodule_search_locations) or ():
        found += Path(place).glob("*/lib/libnvrtc.so.*[0-9]")
    newest_first = sorted(found, key=lambda path: int(path.suffix[1:]), reverse=True)
    return [*map(str, newest_first), *SYSTEM_COMPILERS]
