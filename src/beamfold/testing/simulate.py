"""Detectors to try things with: `python -m beamfold.testing.simulate fluorescence|stins|joined|capture …`.

Every line on stdout is one JSON object: first where each stream can be received (`"event": "listening"`), at
the end what was sent (`"event": "sent"`) and since when (`"started"`, in seconds since the epoch), so that
scripts need no fixed ports and can check that nothing was missed. The process ends when everything was handed
over to the receivers, or after `--linger` seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import zmq

from beamfold.model.errors import BeamfoldError
from beamfold.testing import wire
from beamfold.testing.rings import rings
from beamfold.testing.sample import FluorescenceSample
from beamfold.testing.simulators import contrast_series, xspress3_series
from beamfold.testing.stream import Dealer, StreamSender, send_capture
from beamfold.testing.wire import Message

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Common:
    """What all simulations share: see `StreamSender`.

    `rate` in frames per second, None for full speed; times in seconds, None for ever.
    """

    bind: bool = True
    hwm: int = 1000
    rate: float | None = None
    wait_s: float | None = None
    linger_s: float | None = None
    drop: bool = False


def run_fluorescence(
    context: zmq.Context[zmq.Socket[bytes]],
    common: Common,
    *,
    xspress3_url: str | None = "tcp://127.0.0.1:0",
    contrast_url: str | None = "tcp://127.0.0.1:0",
    shape: tuple[int, int] = (40, 40),
    points: int | None = None,
    framing: str = "single",
    seed: int = 0,
    counts: float = 1.0,
    heartbeats: int = 0,
    report: Report,
) -> None:
    """A mesh scan with both detectors (or one, where the other's url is None), one thread each, on one
    schedule.

    `points`: stop after that many, as an interrupted mesh does; None for all. Each detector sends its start
    message, one frame per point and its end message. The threads are daemons: a process may end while one is
    blocked.
    """
    exptime = min(0.1, 1.0 / common.rate) if common.rate else 0.1
    sample = FluorescenceSample(shape, seed=seed, counts=counts, exptime=exptime)
    count = sample.points if points is None else min(points, sample.points)
    streams: list[tuple[str, StreamSender, Iterator[Message], int]] = []
    if xspress3_url is not None:
        spectra = map(sample.spectrum, range(count))
        messages = xspress3_series(spectra, exptime=exptime, framing=framing)  # type: ignore[arg-type]
        sender = _sender(context, xspress3_url, "pub", common)
        streams.append(("xspress3", sender, messages, 3 if framing == "single" else 1))
    if contrast_url is not None:
        messages = contrast_series(
            map(sample.readings, range(count)),
            description=sample.description,
            snapshot=sample.snapshot(),
            period=exptime,
            heartbeats=heartbeats,
            ending="finished" if count == sample.points else "interrupted",
        )
        streams.append(("contrast", _sender(context, contrast_url, "pub", common), messages, 1))
    for name, sender, _, _ in streams:
        report({"event": "listening", "stream": name, "url": sender.url})
    for _, sender, _, _ in streams:
        sender.wait_for_peer(common.wait_s)
    start = time.monotonic()
    complete: list[str] = []

    def play(name: str, sender: StreamSender, messages: Iterator[Message], per_tick: int) -> None:
        with sender:
            sender.send(messages, common.rate, per_tick=per_tick, start=start)
        report(_summary(name, sender, count, time.monotonic() - start))
        complete.append(name)

    threads = [threading.Thread(target=play, args=stream, daemon=True) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    broken = {stream[0] for stream in streams} - set(complete)
    if broken:
        raise BeamfoldError(f"the simulated {' and '.join(sorted(broken))} stopped early: see the traceback above")


def run_stins(
    context: zmq.Context[zmq.Socket[bytes]],
    common: Common,
    *,
    urls: Sequence[str] = ("tcp://127.0.0.1:0",),
    kind: str = "push",
    shape: tuple[int, ...] = (8, 8),
    dtype: str = "uint16",
    frames: int = 1000,
    first_msg: int = 0,
    base: int = 0,
    compression: str = "none",
    distinct: int = 16,
    seed: int = 0,
    stamp: str | None = None,
    report: Report,
) -> None:
    """One STINS series: header, `frames` images taken in turn from `distinct` different ones, series_end.

    Several `urls`: its messages are dealt to as many sockets in turn. `stamp`: a key of the images' headers that says
    when each was sent, in ns of the monotonic clock.
    """
    images = rings(shape, dtype, count=max(1, min(distinct, frames)), seed=seed)
    template = wire.stins_template(shape, images.dtype, compression, stamp=stamp)  # type: ignore[arg-type]
    blobs = [wire.stins_blob(image, compression) for image in images]  # type: ignore[arg-type]
    senders = [_sender(context, url, kind, common) for url in urls]
    for sender in senders:
        report({"event": "listening", "stream": "stins", "url": sender.url})
    for sender in senders:
        sender.wait_for_peer(common.wait_s)
    clock = None if stamp is None else time.monotonic_ns
    start = time.monotonic()
    with ExitStack() as closing:
        for sender in senders:
            closing.enter_context(sender)
        whole = senders[0] if len(senders) == 1 else Dealer(senders)
        whole.send([wire.stins_header("simulated.h5", first_msg)])
        if isinstance(whole, StreamSender):
            whole.send_numbered(template, blobs, frames, first=(base, first_msg + 1), rate=common.rate, stamp=clock)
        else:
            whole.send(_images(template, blobs, frames, (base, first_msg + 1), clock), common.rate)
        whole.send([wire.stins_end(first_msg + frames + 1)])
    report(_summary("stins", whole, frames, time.monotonic() - start))


def _images(
    template: bytes, blobs: Sequence[bytes], count: int, first: tuple[int, int], stamp: Callable[[], int] | None
) -> Iterator[Message]:
    """The messages that `StreamSender.send_numbered` sends, one by one."""
    for n in range(count):
        numbers = (first[0] + n, first[1] + n, *(() if stamp is None else (stamp(),)))
        yield [template % numbers, blobs[n % len(blobs)]]


def run_joined(
    context: zmq.Context[zmq.Socket[bytes]],
    common: Common,
    *,
    detectors: Sequence[tuple[tuple[int, ...], str]],
    kind: str = "push",
    dtype: str = "uint16",
    frames: int = 1000,
    distinct: int = 16,
    seed: int = 0,
    report: Report,
) -> None:
    """STINS series of several detectors on one trigger, one after the other in turn: (shape, url) of each.

    Each sends its header, `frames` images (from `distinct` different ones) and its series_end; frame n of all belongs
    together.
    """
    count = max(1, min(distinct, frames))
    streams = []
    for number, (shape, url) in enumerate(detectors):
        images = rings(shape, dtype, count=count, seed=seed + number)
        template = wire.stins_template(shape, images.dtype)
        sender = _sender(context, url, kind, common)
        report({"event": "listening", "stream": f"stins-{number}", "url": sender.url})
        streams.append((sender, template, [wire.stins_blob(image) for image in images]))
    senders = [sender for sender, _, _ in streams]
    for sender in senders:
        sender.wait_for_peer(common.wait_s)
    start = time.monotonic()
    for sender in senders:
        sender.send([wire.stins_header("simulated.h5", 0)])
    series = [sender.numbered(template, blobs, frames, rate=common.rate) for sender, template, blobs in streams]
    for _ in zip(*series, strict=True):
        pass  # a stride of every detector
    for number, sender in enumerate(senders):
        sender.send([wire.stins_end(frames + 1)])
        sender.close()
        report(_summary(f"stins-{number}", sender, frames, time.monotonic() - start))


def run_capture(
    context: zmq.Context[zmq.Socket[bytes]],
    common: Common,
    *,
    path: str,
    url: str = "tcp://127.0.0.1:0",
    kind: str = "push",
    per_tick: int = 1,
    report: Report,
) -> None:
    """A raw capture's messages, as they were recorded."""
    sender = _sender(context, url, kind, common)
    report({"event": "listening", "stream": "capture", "url": sender.url})
    sender.wait_for_peer(common.wait_s)
    start = time.monotonic()
    with sender:
        count = send_capture(path, sender, common.rate, per_tick=per_tick)
    report(_summary("capture", sender, count, time.monotonic() - start))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one simulation; returns the exit status, 0 or 1 for an error it has told on stderr."""
    args = vars(_parser().parse_args(argv))
    run = args.pop("run")
    if args.get("only"):
        args["xspress3_url" if args["only"] == "contrast" else "contrast_url"] = None
    args.pop("only", None)
    common = Common(
        bind=not args.pop("connect"),
        **{name: args.pop(name) for name in ("hwm", "rate", "wait_s", "linger_s", "drop")},
    )
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        run(context, common, report=_print, **args)
        began = time.monotonic()
        context.term()  # this is where unsent messages linger
    except BeamfoldError as error:
        print(f"error: {error}", file=sys.stderr)
        context.destroy(linger=0)
        return 1
    if common.linger_s is not None and time.monotonic() - began >= common.linger_s > 0:
        print(f"error: not everything was taken within {common.linger_s} s (--linger)", file=sys.stderr)
        return 1
    return 0


def _sender(context: zmq.Context[zmq.Socket[bytes]], url: str, kind: str, common: Common) -> StreamSender:
    return StreamSender(
        context,
        url,
        kind,  # type: ignore[arg-type]
        bind=common.bind,
        hwm=common.hwm,
        linger_s=common.linger_s,
        drop=common.drop,
    )


def _summary(name: str, sender: StreamSender | Dealer, frames: int, seconds: float) -> dict[str, Any]:
    """What a sender has sent that began so many seconds ago."""
    return {
        "event": "sent",
        "stream": name,
        "frames": frames,
        "messages": sender.sent,
        "bytes": sender.sent_bytes,
        "started": round(time.time() - seconds, 6),
        "seconds": round(seconds, 6),
    }


def _print(line: dict[str, Any]) -> None:
    # One write per line: two threads report.
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _shape(text: str) -> tuple[int, ...]:
    """Rows × columns: 8x8 as (8, 8)."""
    try:
        shape = tuple(int(n) for n in text.lower().split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape: write it as 8x8")
    return shape


def _detector(text: str) -> tuple[tuple[int, ...], str]:
    """SHAPE=URL as both."""
    shape, _, url = text.partition("=")
    return _shape(shape), url or "tcp://127.0.0.1:0"


def _mesh(text: str) -> tuple[int, ...]:
    """A mesh: 40x25 as (40, 25); a plain number of points as the square mesh that holds them."""
    shape = _shape(text)
    if len(shape) == 1:
        shape = (math.isqrt(shape[0] - 1) + 1,) * 2
    if len(shape) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is no mesh: write it as 40x25")
    return shape


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m beamfold.testing.simulate", description="Simulated detectors.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--rate", type=float, help="frames per second (default: as fast as they are taken)")
    common.add_argument("--connect", action="store_true", help="connect to the address instead of listening on it")
    common.add_argument("--hwm", type=int, default=1000, help="messages queued per receiver (default 1000)")
    common.add_argument("--wait", type=float, dest="wait_s", metavar="S", help="give up if no receiver comes in time")
    common.add_argument(
        "--linger",
        type=float,
        dest="linger_s",
        metavar="S",
        help="at the end, wait no longer than this for receivers",
    )
    common.add_argument("--drop", action="store_true", help="PUB: drop what a slow subscriber does not take")
    kinds = parser.add_subparsers(required=True)
    address = "tcp://127.0.0.1:0"

    mesh = kinds.add_parser("fluorescence", parents=[common], help="a mesh scan: Xspress3 spectra, Contrast positions")
    mesh.set_defaults(run=run_fluorescence)
    mesh.add_argument("--xspress3", dest="xspress3_url", default=address, metavar="URL")
    mesh.add_argument("--contrast", dest="contrast_url", default=address, metavar="URL")
    mesh.add_argument("--only", choices=("xspress3", "contrast"), help="run one of the two detectors")
    mesh.add_argument("--shape", type=_mesh, default=(40, 40), help="mesh as 40x25, or a number of points")
    mesh.add_argument("--points", type=int, help="interrupt the mesh after this many points")
    mesh.add_argument("--framing", choices=("single", "multipart"), default="single")
    mesh.add_argument("--heartbeats", type=int, default=0, help="a Contrast heartbeat after every this many points")
    mesh.add_argument("--counts", type=float, default=1.0, help="scales all count rates")
    mesh.add_argument("--seed", type=int, default=0)

    stins = kinds.add_parser("stins", parents=[common], help="images as MAX IV's streaming receiver sends them")
    stins.set_defaults(run=run_stins)
    stins.add_argument(
        "--url", dest="urls", nargs="+", default=[address], metavar="URL", help="several: dealt to all of them in turn"
    )
    stins.add_argument("--kind", choices=("push", "pub"), default="push")
    stins.add_argument("--shape", type=_shape, default=(8, 8), help="pixels as 8x8 (rows × columns)")
    stins.add_argument("--dtype", default="uint16")
    stins.add_argument("--frames", type=int, default=1000)
    stins.add_argument("--first-msg", type=int, default=0)
    stins.add_argument("--base", type=int, default=0, help="number of the first frame")
    stins.add_argument("--compression", choices=("none", "bslz4"), default="none")
    stins.add_argument("--distinct", type=int, default=16, help="how many different images are sent in turn")
    stins.add_argument("--seed", type=int, default=0)
    stins.add_argument("--stamp", metavar="KEY", help="say in every header when it was sent (ns, monotonic clock)")

    joined = kinds.add_parser("joined", parents=[common], help="several such detectors on one trigger")
    joined.set_defaults(run=run_joined)
    joined.add_argument("detectors", nargs="+", type=_detector, metavar="SHAPE=URL", help="one for every detector")
    joined.add_argument("--kind", choices=("push", "pub"), default="push")
    joined.add_argument("--dtype", default="uint16")
    joined.add_argument("--frames", type=int, default=1000)
    joined.add_argument("--distinct", type=int, default=16, help="how many different images each sends in turn")
    joined.add_argument("--seed", type=int, default=0)

    capture = kinds.add_parser("capture", parents=[common], help="a recorded stream of raw messages")
    capture.set_defaults(run=run_capture)
    capture.add_argument("path")
    capture.add_argument("--url", default=address)
    capture.add_argument("--kind", choices=("push", "pub"), default="push")
    capture.add_argument("--per-tick", type=int, default=1, help="messages that make one frame, for --rate")
    return parser


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        # A thread may be blocked in a send that only a receiver could end; nothing of ours needs a tidy end.
        os._exit(130)
    sys.exit(status)
