"""Stop long work in time: it asks between two batches, notes what it has found, and says why it stopped."""

from collections.abc import Callable

Stop = Callable[[], str | None]
"""Asked between two batches: why to stop now, None to go on."""


class Stopped(Exception):  # noqa: N818 - no error: it was asked for
    """Work stopped as it was told to; the message says why. What it found is noted, and the same call goes on."""


def never() -> None:
    """Go on to the end: where nobody is waiting."""


def heed(stop: Stop, note: Callable[[], object]) -> None:
    """Go on, or ``note`` what is found so far and stop.

    Raises:
        Stopped: it is time.
    """
    why = stop()
    if why is not None:
        note()
        raise Stopped(why)
