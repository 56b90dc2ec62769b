"""`moeflux devices`: the backends, and why those that cannot run here cannot."""

from __future__ import annotations

import dataclasses
import json

import moeflux
from moeflux.cli.options import JsonOption
from moeflux.cli.table import print_table


def devices(as_json: JsonOption = False) -> None:
    """List the devices that models can run on."""
    found = moeflux.devices()
    if as_json:
        print(json.dumps([dataclasses.asdict(device) for device in found], indent=2))
    else:
        print_table(
            (device.name, device.description if device.available else f"not here: {device.reason}")
            for device in found
        )
