"""A batch that does not fit is said with the one that does, and weights stay as they were."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fsrobust.attacks import Linf
from fsrobust.train import TRADES, Objective, TrainConfig, TrainingError, fit
from fsrobust.train.distributed import Team
from fsrobust.train.learner import Learner
from fsrobust.train.step import Step
from fsrobust.types import InputError
from tests.helpers import fingerprint
from tests.runs import at, digits, net, short


class Hungry(nn.Module):
    """A network that needs more memory than there is for more than ``most`` images."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.net, self.most = net(), most

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, or ask for an exabyte."""
        if len(x) > self.most:
            torch.empty(2**60)
        logits: Tensor = self.net(x)
        return logits


def learner(model: nn.Module, **changes: Any) -> tuple[Learner, list[str]]:
    """Return a learner at its first epoch, and what it says."""
    said: list[str] = []
    train: TrainConfig = short(**changes)
    made = Learner(model, digits(64), at(), train, batch=train.batch, say=said.append)
    made.begin(1, lr=0.02)
    return made, said


@pytest.mark.parametrize("engine", ["reference", "fast"])
@pytest.mark.parametrize(("most", "advice"), [(9, "8 fits: --set train.batch=8"), (0, "not even one sample")])
def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(engine: str, most: int, advice: str) -> None:
    """The largest half, quarter … that fits is found by trying; the model is not changed by it."""
    model = Hungry(most)
    before = fingerprint(model)
    made, _ = learner(model, engine=engine)
    with pytest.raises(TrainingError, match=advice):
        made.learn(torch.arange(16), 0)
    assert fingerprint(model) == before


def test_a_batch_that_failed_is_forgotten_before_smaller_ones_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What an error's traceback holds on to would leave them no room."""
    seen: list[weakref.ref[Tensor]] = []
    alive: list[list[bool]] = []

    class Noted(Hungry):
        def forward(self, x: Tensor) -> Tensor:
            y = 2 * x
            seen.append(weakref.ref(y))
            return super().forward(y / 2)

    plain = Learner._fits

    def fits(made: Learner, indices: Tensor) -> bool:
        alive.append([ref() is not None for ref in seen])
        return plain(made, indices)

    monkeypatch.setattr(Learner, "_fits", fits)
    made, _ = learner(Noted(9), engine="reference")
    with pytest.raises(TrainingError, match="8 fits"):
        made.learn(torch.arange(16), 0)
    assert alive == [[False]]


def test_a_recording_that_does_not_fit_leaves_the_step_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The eager step was taken; training goes on with such."""

    def refuse(_work: object, _indices: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("fsrobust.train.learner.CapturedStep", refuse)
    made, said = learner(net(), engine="fast")
    plain, _ = learner(net(), engine="fast")
    made._capturing = True
    for step in range(3):
        assert float(made.learn(torch.arange(16), step)["loss"]) == float(
            plain.learn(torch.arange(16), step)["loss"]
        )
    assert fingerprint(made.model) == fingerprint(plain.model)
    assert said == ["steps are launched kernel by kernel (CUDA out of memory)"]


def test_a_recording_ends_with_its_epoch() -> None:
    """Validation and checkpoints come after, and have its memory."""
    made, _ = learner(net())
    made._work = lambda _indices: {}
    made.end_epoch()
    assert made._work == made._take


class Talkative(nn.Module):
    """A network that has further heads in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits, twice in train mode."""
        logits: Tensor = self.net(x)
        return (logits, logits) if self.training else logits


@pytest.mark.parametrize("objective", [at(), TRADES(Linf(0.1), steps=1, step_size=0.1)])
def test_further_heads_in_train_mode_are_refused(objective: Objective) -> None:
    """No attack sees them; the first loss says it in a sentence."""
    with pytest.raises(InputError, match="in train mode, but got a tuple"):
        fit(Talkative(), digits(40), objective=objective, train=short())


def test_what_learns_in_pieces_is_validated_in_pieces() -> None:
    """Where eight images fit, a batch of 16 in two pieces trains, and its 20 held-out samples are judged."""
    train: TrainConfig = short(accumulate=2, validation=20, epochs=1)
    history = fit(Hungry(8), digits(52), objective=at(), train=train)
    assert 0 <= history.rows[0]["validation_robust"] <= 1


def test_another_error_is_not_taken_for_memory() -> None:
    """A bug of the network comes through as it is."""

    class Broken(Hungry):
        def forward(self, x: Tensor) -> Tensor:
            raise ZeroDivisionError(f"a bug at {len(x)}")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        learner(Broken(99))[0].learn(torch.arange(16), 0)


def test_a_network_that_cannot_be_copied_trains_all_the_same_and_says_so() -> None:
    """Without a frozen copy the fast engine attacks the network itself."""

    class Loner(Hungry):
        def __deepcopy__(self, memo: object) -> "Loner":
            raise TypeError("one of a kind")

    made, said = learner(Loner(99), engine="fast")
    before = fingerprint(made.model)
    for step in range(2):
        made.learn(torch.arange(16), step)
    assert fingerprint(made.model) != before
    assert len(said) == 1
    assert "one of a kind" in said[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the compiler's own reading of it
@pytest.mark.usefixtures("unchecked")
def test_a_compiled_run_learns_the_same() -> None:
    """Five float32 steps, compiled and not: the same losses but for the mask's noise, which FSR alone has."""
    losses = []
    for compile_ in ("on", "off"):
        made, said = learner(net(), engine="fast", precision="fp32", compile=compile_)
        losses.append([float(made.learn(torch.arange(16) + 4 * k, k)["loss"]) for k in range(5)])
        assert said == []
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_processes_look_at_their_rows_of_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks' noise is that of the whole batch for both, other in the next one; each takes its own rows."""
    shares = []
    monkeypatch.setattr(Step, "join", lambda *_: None)
    monkeypatch.setattr(Step, "look", lambda _step, _x, _y, _noise, share: shares.append(share))
    for rank, indices in enumerate(torch.arange(16).chunk(2)):
        made = Learner(net(), digits(64), at(), short(), batch=16, say=print, team=Team(rank, 2))
        made.look(indices, 5, 0)
        made.look(indices, 5, 1)
    assert [share.first for share in shares] == [0, 0, 8, 8]
    assert shares[0].seed == shares[2].seed
    assert shares[1].seed == shares[3].seed
    assert shares[0].seed != shares[1].seed
