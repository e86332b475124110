"""The command `beamfold`. Commands import what they need when they run: `beamfold --help` is quick."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit: 0 good, 1 an error told on stderr, 2 a wrong call, 130 interrupted."""
    from beamfold.cli.commands import app

    app(prog_name="beamfold")
