"""Mixture-of-Experts models far larger than memory, run exactly, on one machine, from Python."""

from __future__ import annotations

from moeflux._core import Step, __version__
from moeflux.api import devices, inspect, load, plan
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
    OutOfMemoryError,
    ReadError,
    SessionStateError,
    TruncationError,
)
from moeflux.profile import Profile, profile
from moeflux.settings import Settings

__all__ = [
    "AlreadyCapturingError",
    "Capture",
    "CaptureError",
    "CaptureUnsupportedError",
    "ChatTemplateError",
    "CheckpointError",
    "ChecksumError",
    "ConstraintError",
    "ContextOverflowError",
    "DeviceError",
    "Event",
    "ExpertReadError",
    "GenerationStats",
    "MemoryCapError",
    "Model",
    "MoefluxError",
    "OutOfMemoryError",
    "Plan",
    "PrefillProgress",
    "Profile",
    "ReadError",
    "Session",
    "SessionMemoryError",
    "SessionStateError",
    "Settings",
    "Step",
    "TokenLogprobs",
    "TruncationError",
    "__version__",
    "capture",
    "convert",
    "devices",
    "inspect",
    "is_capturing",
    "load",
    "plan",
    "profile",
    "start_capture",
    "stop_capture",
    "verify",
]
