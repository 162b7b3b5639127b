"""One training run over several processes, each with its share of every batch: torchrun, DistributedDataParallel.

Every process has the same weights and derives the same batches; it attacks its own rows of each, and gradients,
metrics and batch statistics are means over all. So everything that is decided is decided alike everywhere, and rank 0
alone writes.
"""

import atexit
import inspect
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fsrobust.train.config import TrainingError
from fsrobust.train.lifelines import DONE, FAILED, Lifelines
from fsrobust.train.objectives import Loss
from fsrobust.types import Images, InputError, Labels

Learn = Callable[[Images, Images, Labels], Loss]
_LOOKS: Final = 16
"""Batches after which processes with GPUs ask each other whether to stop: hosts wait for each other there."""
_PATIENCE: Final = 5.0
"""Seconds in which they do so at any rate: 30 after it has asked, torchrun kills."""

_NEWER: Final = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.13
_BUFFERS_STAY: Final[dict[str, Any]] = {"forward_sync_buffers" if _NEWER else "broadcast_buffers": False}
"""What keeps rank 0's batch statistics from replacing the others': ``Team.mean_`` makes means of them."""


@dataclass(frozen=True, eq=False)
class Team:
    """The processes of a run, as one of them sees them; a team of one does nothing."""

    rank: int = 0
    size: int = 1
    control: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def share(self, order: Tensor) -> Tensor:
        """Return this process's columns of an epoch's batches [steps, batch], of which all have as many."""
        return order.chunk(self.size, dim=1)[self.rank]

    def stride(self, seconds: float, device: torch.device) -> int:
        """Return after how many batches of an epoch all look up, given what one took this process of late."""
        if self.size == 1 or device.type == "cpu":
            return 1
        slowest = torch.tensor([seconds], dtype=torch.float64)
        dist.all_reduce(slowest, dist.ReduceOp.MAX, group=self.control)
        return looks_every(float(slowest))

    def agree(self, reason: str | None) -> str | None:
        """Return why to stop, if any process has a reason to; all get an answer at the same step."""
        if self.size == 1:
            return reason
        asked = torch.tensor([reason is not None], dtype=torch.int64)
        dist.all_reduce(asked, dist.ReduceOp.MAX, group=self.control)
        return reason or ("another process was asked to stop" if int(asked) else None)

    def check_same(self, number: int, what: str) -> None:
        """Refuse processes that do not see the same.

        Raises:
            InputError: they differ; the message says in ``what``.
        """
        if self.size == 1:
            return
        ends = torch.tensor([number, -number])
        dist.all_reduce(ends, dist.ReduceOp.MAX, group=self.control)
        highest, lowest = int(ends[0]), -int(ends[1])
        if highest != lowest:
            raise InputError(
                f"Expected processes that see the same {what}, but got {lowest} and {highest}; "
                "give them one run directory on a disk that all of them share"
            )

    def check_shared(self, folder: Path) -> None:
        """Refuse processes of which some do not see this folder, as on machines with disks of their own.

        Raises:
            InputError: what rank 0 leaves there, another does not find.
        """
        if self.size == 1:
            return
        word = torch.tensor([secrets.randbits(62) if self.leads else 0])
        dist.all_reduce(word, dist.ReduceOp.MAX, group=self.control)
        mark = folder / f".{int(word):x}.shared"
        if self.leads:
            folder.mkdir(parents=True, exist_ok=True)
            mark.touch()
        dist.barrier(group=self.control)
        seen = torch.tensor([mark.exists()], dtype=torch.int64)
        dist.all_reduce(seen, dist.ReduceOp.MIN, group=self.control)
        if self.leads:
            mark.unlink()
        if not int(seen):
            raise InputError(
                f'Expected all processes to see one folder "{folder}", but got some that do not find what process 0 '
                "wrote there; give them an --out on a disk that all of them share"
            )

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let rank 0 go through before the others do."""
        if self.leads:
            yield
        if self.size > 1:
            dist.barrier(group=self.control)
        if not self.leads:
            yield

    def mean_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in one reduction."""
        if self.size == 1:
            return
        kept = list(tensors)
        if not kept:
            return
        # in float64 the mean of equal float32 numbers is that number, so what stands still does so to the bit
        flat = torch.cat([tensor.detach().double().flatten() for tensor in kept])
        dist.all_reduce(flat)
        flat /= self.size
        with torch.no_grad():
            for tensor, mean in zip(kept, torch.split(flat, [t.numel() for t in kept]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def means(self, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the means of scalars over the processes, float64 where there are several."""
        if self.size == 1:
            return dict(numbers)
        wide = {name: value.detach().double() for name, value in numbers.items()}
        self.mean_(wide.values())
        return wide

    def total(self, count: Tensor) -> int:
        """Return the sum of counts over the processes; waits for the device."""
        if self.size > 1:
            dist.all_reduce(count)
        return int(count)


ALONE: Final = Team()


def looks_every(seconds: float) -> int:
    """Return the number of batches between two looks, of batches that take so many seconds.

    >>> looks_every(0.05), looks_every(2.0), looks_every(30.0), looks_every(float("inf"))
    (16, 2, 1, 1)
    """
    return max(1, min(_LOOKS, int(_PATIENCE / max(seconds, 1e-9))))


def check_shares(batch: int, processes: int, pieces: int, *, samples: int) -> None:
    """Refuse a batch, of so many samples in all, that cannot be shared out alike.

    Raises:
        InputError: the message says which batches can.
    """
    parts = processes * pieces
    if batch % parts:
        below, above = batch // parts * parts, (batch // parts + 1) * parts
        numbers = " or ".join(str(number) for number in (below, above) if 0 < number <= samples)
        advice = (
            f"train.batch={numbers} would do" if numbers else f"there are only {samples} samples to share"
        )
        raise InputError(
            f"Expected a batch that divides by {parts} ({processes} processes × train.accumulate={pieces}), "
            f"but got {batch}; {advice}"
        )


class _Passes(nn.Module):
    """The objective's loss as one module's forward pass, however many passes of the network it takes."""

    def __init__(self, model: nn.Module, loss: Learn) -> None:
        super().__init__()
        self.model, self._loss = model, loss
        # torch warns on every rank where the search for unused parameters finds none: let it find this one
        self.unused = nn.Parameter(next(model.parameters()).new_zeros(()))

    def forward(self, x: Images, x_adv: Images, y: Labels) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return total, terms and logits."""
        loss = self._loss(x, x_adv, y)
        return loss.total, loss.terms, loss.logits


def reduced(model: nn.Module, loss: Learn) -> tuple[Learn, Callable[[], AbstractContextManager[None]]]:
    """Return ``loss`` with gradients that become means over the processes, and a context in which they stay apart.

    Of the parameters that learn now: made anew when others do. All start from rank 0's weights.
    """
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)
    # unused parameters: a binary mask leaves some without a gradient. That search also keeps the buckets of the
    # reduction as they are, and with them the order of sums: a resumed run has the bits of an undisturbed one
    together = DistributedDataParallel(_Passes(model, loss), find_unused_parameters=True, **_BUFFERS_STAY)

    def learn(x: Images, x_adv: Images, y: Labels) -> Loss:
        total, terms, logits = together(x, x_adv, y)
        return Loss(total, dict(terms), logits)

    return learn, together.no_sync


def environment_rank() -> tuple[int, int]:
    """Return rank and number of the processes that torchrun started, (0, 1) where it did not."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ["RANK"]), size) if size > 1 and "RANK" in os.environ else (0, 1)


def refuse_several(command: str) -> None:
    """Refuse processes that would all do the same work into one place.

    Raises:
        InputError: torchrun started several.
    """
    _, size = environment_rank()
    if size > 1:
        raise InputError(
            f"Expected one process for {command}, but got {size} from torchrun; start it without torchrun"
        )


def own_device(device: torch.device) -> torch.device:
    """Return this process's own GPU where torchrun started several; else, the device.

    Raises:
        InputError: there are fewer GPUs than processes on this machine.
    """
    _, size = environment_rank()
    if size == 1 or device.type != "cuda":
        return device
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= there:
        raise InputError(
            f"Expected a GPU for each process of this machine, but process {local} (counted from 0) finds {there}; "
            f"start torchrun with --nproc-per-node {there}, or give --device cpu"
        )
    return torch.device("cuda", local)


@contextmanager
def team_on(device: torch.device) -> Iterator[Team]:
    """Yield the processes that torchrun started, or a team of one; all leave it together.

    Raises:
        TrainingError: another process was lost.
        SystemExit: another process was lost or has failed, and it is for others to say so.
    """
    rank, size = environment_rank()
    if size == 1:
        yield ALONE
        return
    _initialise(device)
    lifelines, control = Lifelines(rank, size), dist.new_group(backend="gloo")
    try:
        yield Team(rank, size, control)
    except BaseException as error:
        atexit.unregister(dist.destroy_process_group)  # it would wait for those who are gone
        # that is how a reduction fails when somebody leaves, and how a bug of all does
        theirs = isinstance(error, RuntimeError) and not isinstance(error, TrainingError)
        if theirs and lifelines.broken(wait=5.0):
            _give_up(lifelines, error)
        lifelines.leave(FAILED)
        raise
    lifelines.leave(DONE)
    if lifelines.lost is not None or lifelines.broken():
        atexit.unregister(dist.destroy_process_group)
        if rank != 0:  # rank 0 has written all: its run is complete
            _give_up(lifelines, None)


def _initialise(device: torch.device) -> None:
    if dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(dist.destroy_process_group)


def _give_up(lifelines: Lifelines, error: BaseException | None) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, which would cut the sentence off
    lifelines.leave(FAILED)
    if lifelines.speaks:
        raise TrainingError(lifelines.sentence()) from error
    if error is not None and lifelines.rank == 0 and not _of_a_connection(error):
        raise error  # all have met it, and rank 0 says so
    lifelines.await_end()
    raise SystemExit(1)


def _of_a_connection(error: BaseException) -> bool:
    """Return whether it is others that have gone: gloo has no class of errors, but says its name."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
