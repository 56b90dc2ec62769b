"""The command line: run, info, devices. Decides nothing that a Python user could not call."""

from moeflux.cli.app import main as main
