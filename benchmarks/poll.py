"""Viewers of a run, a thread each: `poll.py REDUCER CONTROLLER COUNT HZ`, until stdin is closed.

Each asks the reducer for the value of the dataset `count` and the controller for its progress, HZ times a second or as
often as it gets answers. At the end a line of JSON says how many answers there were and, by status, how many others.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

import httpx

from sidebyside.viewer import dataset_path

PROGRESS = "/api/v1/progress"
PATIENCE_S = 30.0


class Viewer(threading.Thread):
    """One of them; `statuses` counts what it was answered with."""

    def __init__(self, targets: list[tuple[str, str]], period: float, ended: threading.Event) -> None:
        super().__init__()
        self._targets = [(http.client.HTTPConnection(host, timeout=PATIENCE_S), path) for host, path in targets]
        self._period = period
        self._ended = ended
        self.statuses: Counter[int] = Counter()

    def run(self) -> None:
        """On an absolute schedule; what is late is not caught up."""
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            for connection, path in self._targets:
                connection.request("GET", path)
                response = connection.getresponse()
                response.read()
                self.statuses[response.status] += 1
            due = max(due + self._period, time.monotonic())


def main(reducer: str, controller: str, count: int, rate: float) -> None:
    """Look until stdin ends."""
    with httpx.Client(timeout=PATIENCE_S, trust_env=False) as client:
        value = dataset_path(client, reducer, "count")
    targets = [(urlsplit(reducer).netloc, value), (urlsplit(controller).netloc, PROGRESS)]
    ended = threading.Event()
    viewers = [Viewer(targets, 1 / rate, ended) for _ in range(count)]
    began = time.monotonic()
    for viewer in viewers:
        viewer.start()
    print("looking", flush=True)
    sys.stdin.read()
    ended.set()
    for viewer in viewers:
        viewer.join()
    statuses: Counter[int] = sum((viewer.statuses for viewer in viewers), Counter())
    seconds = time.monotonic() - began
    print(json.dumps({"seconds": seconds, "answers": statuses.pop(200, 0), "others": statuses}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
