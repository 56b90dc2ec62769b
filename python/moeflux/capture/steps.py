"""The captures that settings ask for, started and stopped between the command buffers of steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import cast

from moeflux._core import Device
from moeflux.capture.one_shot import OneShotCapture, why_unsupported
from moeflux.capture.trace import Capture
from moeflux.capture.window import Action, CaptureWindow, Mode, Window
from moeflux.errors import DeviceError
from moeflux.settings import Settings

_log = logging.getLogger(__name__)


class StepCapture:
    """Told of every pass, step and layer boundary of one model. Its errors are warnings.

    A pass is a whole prompt or a token; a step is a chunk of a prompt or a token.
    """

    def __init__(
        self, device: Device, settings: Settings, n_layers: int, drain: Callable[[], None]
    ) -> None:
        """`drain` waits for all work of the model; it raises what went wrong with it."""
        self._device = device
        self._drain = drain
        self._one_shot_path = settings.scope_capture_path
        self._one_shot: OneShotCapture | None = None
        self._path = settings.gpu_capture_path
        self._capture: Capture | None = None
        self._window = Window(
            cast("Mode", settings.gpu_capture_mode),
            settings.gpu_capture_chunk,
            settings.gpu_capture_layer,
            settings.gpu_capture_n_layers,
            settings.gpu_capture_token,
        )
        self._progress = self._armed(n_layers)

    @classmethod
    def from_settings(
        cls, device: Device, settings: Settings, n_layers: int, drain: Callable[[], None]
    ) -> StepCapture | None:
        """None if no capture is asked for, so that steps have nothing to call."""
        if not (settings.gpu_capture_path or settings.scope_capture_path):
            return None
        return cls(device, settings, n_layers, drain)

    def begin_pass(self, chunk: int = 0) -> None:
        """A prompt, its rest from `chunk` on, or a token begins; it has no command buffer yet."""
        if self._progress is not None:
            self._progress.begin_prompt(chunk)
        path, self._one_shot_path = self._one_shot_path, ""
        self._one_shot = OneShotCapture.take(self._device, path)
        if self._one_shot is not None:
            self._one_shot.begin()

    def begin_step(self, *, prefill: bool) -> bool:
        """Whether the step has a window, so that each of its layers starts a command buffer."""
        window = self._progress
        if window is None:
            return False
        return window.begin_chunk() if prefill else window.begin_token()

    def at_layer(self, index: int) -> None:
        """All before layer `index` (or after the last) is committed, and nothing of it made."""
        if self._progress is not None:
            action = self._progress.at_layer(index)
            if action is Action.START:
                self._start_window()
            elif action is Action.STOP:
                self._stop_window()

    def end_pass(self) -> None:
        """The pass is over, and its work is finished."""
        if self._one_shot is not None:
            try:
                self._drain()
            finally:
                self._one_shot.close()
                self._one_shot = None

    def abandon(self) -> None:
        """An error ends the pass: what is under way is written as it is."""
        if self._one_shot is not None:
            self._one_shot.close()
            self._one_shot = None
        if self._progress is not None:
            self._progress.abandon()
            self._end_trace()

    def close(self) -> None:
        """No pass follows."""
        if self._progress is not None and not self._progress.done:
            _log.warning("no GPU trace at %s: %s was not reached", self._path, self._window)
            self._progress = None

    def _armed(self, n_layers: int) -> CaptureWindow | None:
        """None, with the reason, where the window can never be captured."""
        if not self._path:
            return None
        reason = ""
        if not self._device.supports_capture:
            reason = why_unsupported(self._device)
        elif self._window.layer >= n_layers:
            reason = f"no layer {self._window.layer} in a model of {n_layers} layers"
        if reason:
            _log.warning("no GPU trace at %s: %s", self._path, reason)
            return None
        n_left = n_layers - self._window.layer
        self._window = replace(self._window, n_layers=min(self._window.n_layers, n_left))
        return CaptureWindow(self._window, n_layers)

    def _start_window(self) -> None:
        self._drain()
        capture = Capture(self._device, self._path, target="device", overwrite=True)
        try:
            capture.start()
        except (DeviceError, OSError) as error:
            _log.warning("%s", error)
            assert self._progress is not None
            self._progress.abandon()
            return
        self._capture = capture

    def _stop_window(self) -> None:
        try:
            self._drain()
        finally:
            self._end_trace()

    def _end_trace(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.stop()
            _log.warning("GPU trace of %s: %s", self._window, capture.path)
