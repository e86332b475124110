"""Becomes the command it is given, after arranging to be killed when the thread that started it ends.

Run by path with a bare interpreter, so it imports nothing but the standard library: `launcher.py OWNER_PID
COMMAND…`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>; survives execve of programs that are not setuid


def main() -> None:
    """Exit 70 with a text when the arrangement cannot be made; nothing is started unprotected."""
    owner, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        print(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        sys.exit(70)
    if os.getppid() != owner:  # it died before the arrangement was made, so no signal will come
        sys.exit(70)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
