"""Processes that end with the one that started them, however that one ends."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent() -> None:
    """Have this process killed once the one that started it by ``multiprocessing`` is gone, or now if it is already.

    One that was started otherwise is left alone. SIGKILL, as a thread that waits on a full pipe outlives any other end.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # asked in this order: a parent that dies after the first line is seen by the kernel
        if os.getppid() == parent.pid:
            return
    # another system, or a fork server in between, or the parent is gone and somebody else has adopted this process
    threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
