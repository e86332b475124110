"""The timer's thread outlives whatever `timer()` returns."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from beamfold.app.hooks import ReducerHooks
from beamfold.model.parameters import ParameterHistory, ParameterSet
from beamfold.protocols.codec import TypeTable
from beamfold.reduce.folder import Folder, Timer


@pytest.mark.parametrize("seconds", [1e300, 1e10])
def test_a_pause_that_the_system_cannot_wait_for(seconds: float) -> None:
    called = threading.Event()

    class App:
        def process_result(self, result: Any) -> None:
            pass

        def timer(self) -> float:
            called.set()
            return seconds

    hooks = ReducerHooks(App)
    parameters = ParameterSet((), 1)
    hooks.construct(parameters, {}, None)
    timer = Timer(Folder(hooks, ParameterHistory([(0, parameters)]), TypeTable([]), []))
    before = threading.enumerate()
    timer.start()
    assert called.wait(10)
    (thread,) = (t for t in threading.enumerate() if t not in before)
    thread.join(0.05)
    assert thread.is_alive()
    timer.stop()
    thread.join(10)
    assert not thread.is_alive()
