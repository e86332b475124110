"""One simulated detector of the demo, as a process: `python -m beamfold.cli.detectors xspress3|contrast …`.

It prints `{"event": "listening", "url": …}`, and for every line on stdin it sends one series and prints
`{"event": "sent", …}`. A line is the time (of `time.monotonic`, which all processes of a host share) at which
the series begins, so that both detectors keep step. It ends when stdin does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from beamfold.cli.process import follow_parent
from beamfold.model.errors import BeamfoldError
from beamfold.testing.sample import FluorescenceSample
from beamfold.testing.simulators import contrast_series, xspress3_series
from beamfold.testing.stream import StreamSender
from beamfold.testing.wire import Message
from beamfold.transport.control import Context

WAIT_S = 30.0
"""How long the ingester may take to subscribe."""

PARTS = {"xspress3": 3, "contrast": 1}
"""Messages per point."""


def main(argv: Sequence[str] | None = None) -> int:
    """Play series until stdin ends; returns the exit status."""
    args = _parser().parse_args(argv)
    if args.parent is not None:
        follow_parent(args.parent)
    context = Context()
    try:
        _play(args, context)
    except BeamfoldError as error:
        print(f"beamfold: {error}", file=sys.stderr)
        return 1
    finally:
        context.destroy(linger=0)
    return 0


def _play(args: argparse.Namespace, context: Context) -> None:
    columns = args.columns
    shape = (-(-args.points // columns), columns)
    sample = FluorescenceSample(shape, exptime=min(0.1, 1.0 / args.rate))
    sender = StreamSender(context, "tcp://127.0.0.1:0", "pub", linger_s=0)
    _say({"event": "listening", "stream": args.detector, "url": sender.url})
    for number, line in enumerate(sys.stdin, 1):
        if number == 1:
            sender.wait_for_peer(WAIT_S)
        messages = _series(args.detector, sample, args.points, number)
        sender.send(messages, args.rate, per_tick=PARTS[args.detector], start=float(line))
        _say({"event": "sent", "stream": args.detector, "frames": args.points})


def _series(detector: str, sample: FluorescenceSample, points: int, number: int) -> Iterator[Message]:
    if detector == "xspress3":
        return xspress3_series(map(sample.spectrum, range(points)), exptime=sample.exptime)
    return contrast_series(
        map(sample.readings, range(points)),
        scannr=number,
        description=sample.description,
        snapshot=sample.snapshot(),
        period=sample.exptime,
        ending="finished" if points == sample.points else "interrupted",
    )


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m beamfold.cli.detectors", description="A simulated detector.")
    parser.add_argument("detector", choices=sorted(PARTS))
    parser.add_argument("--points", type=int, required=True, help="points of the mesh")
    parser.add_argument("--columns", type=int, required=True, help="points of one line of the mesh")
    parser.add_argument("--rate", type=float, required=True, help="points per second")
    parser.add_argument("--parent", type=int, help="end when the process with this id ends")
    return parser


if __name__ == "__main__":
    sys.exit(main())
