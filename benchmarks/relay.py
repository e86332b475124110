"""A link of a bare chain of processes: `relay.py COUNT FROM [TO]` takes COUNT messages from FROM and sends them to TO.

It says when it is ready and, at its end, in a line of JSON: the CPU seconds used, when it had the last message (s since
the epoch) and, without TO, of every image its frame number, how many parts it
had, and the ns from being sent (`sent` in its header) until it was here.
"""

from __future__ import annotations

import json
import sys
import time

import zmq


def main(count: int, source: str, target: str | None = None) -> None:
    """Nothing but receive and send: what a chain costs is what this costs."""
    taken: list[tuple[int, list[bytes]]] = []
    with zmq.Context() as context, context.socket(zmq.PULL) as pull, context.socket(zmq.PUSH) as push:
        if target is not None:
            push.bind(target)
        pull.connect(source)
        print("ready", flush=True)
        used = time.process_time()  # of all threads, ZeroMQ's too
        for _ in range(count):
            message = pull.recv_multipart()
            if target is None:
                taken.append((time.monotonic_ns(), message))
            else:
                push.send_multipart(message)
        ended, used = time.time(), time.process_time() - used
    images = []
    for now, message in taken:
        header = json.loads(message[0])
        if header["htype"] == "image":
            images.append((header["frame"], len(message), now - header["sent"]))
    print(json.dumps({"cpu_seconds": used, "ended": ended, "images": images}))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
