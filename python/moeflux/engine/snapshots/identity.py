"""What a stored state belongs to: the weights, the device and the program that computed it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property

from moeflux._core import Device, __version__
from moeflux.checkpoint import Checkpoint
from moeflux.checkpoint.watch import FileWatch


@dataclass(frozen=True)
class StateIdentity:
    """A state goes on with the bits of a straight run only where all of this is the same."""

    model: str
    """Fingerprint of the checkpoint."""
    device: str
    program: str

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class Fingerprint:
    """Tells checkpoints apart without reading them whole.

    SHA-256 of configuration, names and shapes of tensors, sizes of files and samples of their
    bytes. The same weights in another layout (packed, untouched, other shards) have another one.
    """

    def __init__(self, checkpoint: Checkpoint, files: FileWatch) -> None:
        self._checkpoint = checkpoint
        self._files = files

    @cached_property
    def value(self) -> str:
        """In hexadecimal. Raises ReadError."""
        config = json.dumps(self._checkpoint.config.raw, sort_keys=True)
        digest = hashlib.sha256(config.encode())
        for name, tensor in sorted(self._checkpoint.tensors.items()):
            digest.update(repr((name, tensor.dtype, tensor.shape)).encode())
        for name, nbytes, sample in self._files.samples():
            digest.update(repr((name, nbytes)).encode())
            digest.update(sample)
        return digest.hexdigest()


def device_identity(device: Device) -> str:
    """Backend, hardware and instruction set, which decide the order of sums.

    Amounts in the description, such as threads, change no bit.
    """
    parts = device.description.split(", ")
    return ", ".join([device.name, *(part for part in parts if not part[:1].isdigit())])


def state_identity(fingerprint: Fingerprint, device: Device) -> StateIdentity:
    """The identity of states that this program computes now. Raises ReadError."""
    return StateIdentity(fingerprint.value, device_identity(device), f"moeflux {__version__}")
