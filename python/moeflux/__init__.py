"""Mixture-of-Experts models far larger than memory, run exactly, on one machine, from Python."""

from __future__ import annotations

from moeflux._core import Step, __version__
from moeflux.api import benchmark, devices, inspect, load, plan
from moeflux.capture import Capture, capture, is_capturing, start_capture, stop_capture
from moeflux.checkpoint.convert import convert
from moeflux.checkpoint.verify import verify
from moeflux.engine.budget import MemoryCapError
from moeflux.engine.events import Event, PrefillProgress, TokenLogprobs
from moeflux.engine.model import Model
from moeflux.engine.plan import Plan
from moeflux.engine.receipt import GenerationStats
from moeflux.engine.session import Session
from moeflux.engine.state_budget import SessionMemoryError
from moeflux.errors import (
    AlreadyCapturingError,
    CaptureError,
    CaptureUnsupportedError,
    ChatTemplateError,
    CheckpointError,
    ChecksumError,
    ConstraintError,
    ContextOverflowError,
    DeviceError,
    ExpertReadError,
    MoefluxError,
    NoDeviceMemoryError,
    OutOfMemoryError,
    ReadError,
    SessionStateError,
    SnapshotDamagedError,
    SnapshotError,
    SnapshotMismatchError,
    TruncationError,
)
from moeflux.evaluation import (
    Benchmark,
    DifferentVocabularyError,
    Divergence,
    Perplexity,
    SpeedWorkload,
    divergence,
    perplexity,
)
from moeflux.profile import Profile, profile
from moeflux.settings import Settings

__all__ = [
    "AlreadyCapturingError",
    "Benchmark",
    "Capture",
    "CaptureError",
    "CaptureUnsupportedError",
    "ChatTemplateError",
    "CheckpointError",
    "ChecksumError",
    "ConstraintError",
    "ContextOverflowError",
    "DeviceError",
    "DifferentVocabularyError",
    "Divergence",
    "Event",
    "ExpertReadError",
    "GenerationStats",
    "MemoryCapError",
    "Model",
    "MoefluxError",
    "NoDeviceMemoryError",
    "OutOfMemoryError",
    "Perplexity",
    "Plan",
    "PrefillProgress",
    "Profile",
    "ReadError",
    "Session",
    "SessionMemoryError",
    "SessionStateError",
    "Settings",
    "SnapshotDamagedError",
    "SnapshotError",
    "SnapshotMismatchError",
    "SpeedWorkload",
    "Step",
    "TokenLogprobs",
    "TruncationError",
    "__version__",
    "benchmark",
    "capture",
    "convert",
    "devices",
    "divergence",
    "inspect",
    "is_capturing",
    "load",
    "perplexity",
    "plan",
    "profile",
    "start_capture",
    "stop_capture",
    "verify",
]
