"""Knowing at once that a process of the run is gone, whatever the others are waiting for.

A connection that waits for a word breaks when the process at its other end dies: gloo says so within milliseconds,
where a reduction on GPUs would wait for minutes. Rank 0 listens to all, all others to rank 0.
"""

import contextlib
import os
import sys
import threading
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist

DONE: Final = 1
FAILED: Final = 2
"""What a process says before it leaves; one that says nothing was killed."""
GRACE: Final = 5.0
"""Seconds that the main thread has to find out for itself, before it is taken to wait for ever."""
_POLL: Final = 0.1
"""Seconds between looks at whether waiting is of use."""


class Lifelines:
    """Threads that listen to other processes until they leave. ``lost`` is a rank that left without a word."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.lost: int | None = None
        self._broken, self._left, self._told = threading.Event(), threading.Event(), threading.Lock()
        self._gone = threading.Event()
        # a connection may be silent for as long as a run takes
        self._group = dist.new_group(backend="gloo", timeout=timedelta(days=3650))
        self._peers = list(range(1, size)) if rank == 0 else [0]
        self._threads = [threading.Thread(target=self._listen, args=(p,), daemon=True) for p in self._peers]
        for thread in self._threads:
            thread.start()

    def broken(self, *, wait: float = 0.0) -> bool:
        """Return whether a process was lost, or failed and says so itself."""
        return self._broken.wait(wait)

    def await_end(self) -> None:
        """Return when the process that was lost or has failed is gone, or takes too long."""
        self._gone.wait(4 * GRACE)

    @property
    def speaks(self) -> bool:
        """Whether it is for this process to say what happened."""
        first = self.rank == 1 or os.environ.get("LOCAL_RANK") == "0"
        return self.lost is not None and (self.rank == 0 or first)

    def sentence(self) -> str:
        """Return what happened, and how to go on."""
        return (
            f"Process {self.lost} of {self.size} (counted from 0) was lost: killed, or out of reach; "
            "what was saved stays, and the same command goes on: a training with --resume"
        )

    def leave(self, word: int) -> None:
        """Tell the others; of a run that is done, return when they are done as well, or gone.

        Rank 0 has by then written all there is to write: nobody who is gone is missed.
        """
        self._tell(word)
        if word == FAILED or self.rank == 0:
            self._left.set()
        for thread in self._threads if word == DONE else ():
            while thread.is_alive() and not self._broken.is_set():
                thread.join(_POLL)
        self._left.set()

    def _tell(self, word: int) -> None:
        if not self._told.acquire(blocking=False):
            return  # they know
        for peer in self._peers:
            with contextlib.suppress(RuntimeError):  # it is gone
                dist.send(torch.tensor([word]), dst=peer, group=self._group)

    def _listen(self, peer: int) -> None:
        word = torch.zeros(1, dtype=torch.int64)
        try:
            dist.recv(word, src=peer, group=self._group)
        except RuntimeError:
            self.lost = peer if self.lost is None else self.lost
        if int(word) == DONE or self._left.is_set():
            return
        self._tell(FAILED)  # before rank 0 itself is gone, and is missed
        self._broken.set()
        if int(word) == FAILED:
            # it takes its time to say why, and torchrun would end it if this one ended first
            with contextlib.suppress(RuntimeError):  # that is how one that is gone, or does not go, is heard
                end = dist.irecv(word, src=peer, group=self._group)
                if end is not None:
                    end.wait(timedelta(seconds=3 * GRACE))
        self._gone.set()
        if not self._left.wait(GRACE):
            if self.speaks:
                sys.stderr.write(f"fsrobust: {self.sentence()}\n")
                sys.stderr.flush()
            os._exit(1)  # the main thread waits for the lost process, on a GPU for ever
