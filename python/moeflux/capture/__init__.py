"""GPU traces for a debugger: of a scope, of a window of layers, or of the first pass.

A trace holds command buffers made after its start and committed before its end, so it starts before
the work is encoded. All work is waited for before it ends, since Metal's stop fails otherwise.
"""

from moeflux.capture.one_shot import OneShotCapture
from moeflux.capture.process import capture, is_capturing, start_capture, stop_capture
from moeflux.capture.steps import StepCapture
from moeflux.capture.trace import Capture, Target
from moeflux.capture.window import Action, CaptureWindow, Window

__all__ = [
    "Action",
    "Capture",
    "CaptureWindow",
    "OneShotCapture",
    "StepCapture",
    "Target",
    "Window",
    "capture",
    "is_capturing",
    "start_capture",
    "stop_capture",
]
