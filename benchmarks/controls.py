"""Run diagnose on networks whose truth is known: how many masked gradients it finds, and how often it cries wolf.

    python -m benchmarks.controls --samples 100 --json FILE

Positive controls are naturally trained networks behind a defence that only spoils gradients; three of them (marked
held out) were not looked at while thresholds were chosen. The distilled one was trained a second time: at its
first temperature, 100, it had learnt next to nothing. Negative ones are small networks trained by AT, TRADES
and MART, with and without FSR. All on digits, L∞ 0.1.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import common
from fsrobust import diagnose, fit
from fsrobust.attacks import Linf
from fsrobust.config import ObjectiveConfig
from fsrobust.data import Dataset, load_dataset
from fsrobust.data.batches import pixels
from fsrobust.plugin import create_model
from fsrobust.train import TrainConfig

BALL: Final = Linf(0.1)
HELD_OUT: Final = ("distilled", "random shift", "saturated pixels")


class Wrapped(nn.Module):
    """A network with something before and after it."""

    def __init__(
        self,
        net: nn.Module,
        *,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda z: z,
    ) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        """Return what comes out at the end."""
        return self.after(self.net(self.before(x)))


class KeepLargest(nn.Module):
    """k winners take all (Xiao et al., 2020): all but the largest share of a map's units are 0."""

    def forward(self, f: Tensor) -> Tensor:
        """Return the map with its winners alone."""
        flat = f.flatten(1)
        least = flat.topk(max(1, flat.shape[1] // 10), dim=1).values[:, -1:]
        return torch.where(flat >= least, flat, 0.0).view_as(f)


class Decoy(nn.Module):
    """Says its class and nothing else, but for a slight linear score that has nothing to do with it.

    Gradients exist, are smooth and keep what they promise; they lead nowhere that matters.
    """

    def __init__(self, net: nn.Module, pixels: int, classes: int = 10) -> None:
        super().__init__()
        self.net = net
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(pixels, classes, generator=generator) / pixels**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return 8 for the class and 0 for others, and a thousandth of the linear score."""
        with torch.no_grad():
            said: Tensor = self.net(x)
        return 8 * F.one_hot(said.argmax(1), said.shape[1]) + 1e-3 * x.flatten(1) @ self.weight


def quantise(x: Tensor, levels: int) -> Tensor:
    """Return pixels rounded to multiples of 1/levels; rounding has no gradient."""
    return (x * levels).round() / levels


def one_hot_levels(x: Tensor) -> Tensor:
    """Return each pixel's nearest of five levels, by argmax."""
    levels = torch.linspace(0, 1, 5, device=x.device)
    return levels[(-(x[..., None] - levels).abs()).argmax(-1)] + 0 * x


def random_shift(x: Tensor) -> Tensor:
    """Return images moved by up to a pixel, at random."""
    down, right = torch.randint(-1, 2, (2,)).tolist()
    return x.roll((down, right), dims=(2, 3))


def train(
    objective: ObjectiveConfig, *, fsr: bool = False, seed: int = 0, temperature: float = 1.0
) -> nn.Module:
    """Return a small network trained on digits; a temperature divides logits while it learns."""
    torch.manual_seed(seed)
    net = create_model("resnet_small", classes=10, channels=1, width=8, fsr="paper" if fsr else None)
    learner = Wrapped(net, after=lambda z: z / temperature) if temperature != 1 else net
    settings = TrainConfig(
        epochs=10,
        batch=64,
        lr=0.1 * temperature,  # a temperature divides gradients, too
        augment="none",
        engine="reference",
        train_on="all",
        seed=seed,
    )
    fit(learner, load_dataset("digits", "train"), objective=objective.make(), train=settings)
    return net.eval()


def positives() -> Iterator[tuple[str, nn.Module]]:
    """Yield naturally trained networks whose gradients are spoilt."""
    natural = ObjectiveConfig("natural")
    net = train(natural)
    yield "gradient killer", Wrapped(net, before=lambda x: x.detach() + 0 * x)
    yield "8-bit rounding", Wrapped(net, before=lambda x: quantise(x, 255))
    yield "softmax head", Wrapped(net, after=lambda z: z.softmax(1))
    yield "dropout left on", Wrapped(net, before=lambda x: F.dropout(x, 0.2, training=True))
    yield "logits × 1000", Wrapped(net, after=lambda z: 1000 * z)
    yield "argmax levels", Wrapped(net, before=one_hot_levels)
    yield "k-WTA", winners_take_all()
    yield "decoy", Decoy(net, 64)
    yield "distilled", Wrapped(train(natural, temperature=20.0))
    yield "random shift", Wrapped(net, before=random_shift)
    yield "saturated pixels", Wrapped(net, before=lambda x: torch.sigmoid(300 * (x - 0.5)))


def winners_take_all() -> nn.Module:
    """Return a network trained with k-WTA in place of its ReLUs."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for wide, wider in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(wide, wider, 3, padding=1), nn.BatchNorm2d(wider), KeepLargest()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 64, 10))
    settings = TrainConfig(epochs=10, batch=64, augment="none", engine="reference", train_on="all")
    fit(net, load_dataset("digits", "train"), objective=ObjectiveConfig("natural").make(), train=settings)
    return net.eval()


def negatives() -> Iterator[tuple[str, nn.Module]]:
    """Yield honestly trained networks: three objectives, with and without FSR, two seeds."""
    names: tuple[Literal["at", "trades", "mart"], ...] = ("at", "trades", "mart")
    for name in names:
        for fsr in (False, True):
            for seed in (0, 1):
                objective = ObjectiveConfig(name, eps=BALL.eps, steps=5, step_size=BALL.eps / 3)
                yield f"{name}{'+fsr' if fsr else ''}, seed {seed}", train(objective, fsr=fsr, seed=seed)


def main() -> None:
    """Diagnose all, print a line each, count."""
    parser = common.parser(__doc__)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--only", choices=["positive", "negative"])
    options = parser.parse_args()
    test, more = load_dataset("digits", "test"), load_dataset("digits", "train")
    data = _first(test, more, options.samples)
    x, y = pixels(data.images), data.labels
    rows = []
    sides = {"positive": positives, "negative": negatives}
    for kind, controls in sides.items():
        if options.only not in (None, kind):
            continue
        for name, model in controls():
            found = diagnose(model, x, y, ball=BALL, ids=data.ids)
            signs = [sign.name for sign in found.found]
            rows.append({"kind": kind, "name": name, "held_out": name in HELD_OUT, **found.summary()})
            print(f"{kind:<9}{name:<20}n {found.n:<5}{found.state:<20}{'; '.join(signs)}", flush=True)
    for kind in sides:
        of = [row for row in rows if row["kind"] == kind]
        hits = sum(row["state"] == "not to be trusted" for row in of)
        print(f"{kind}: {hits} of {len(of)} not to be trusted")
    common.save(options, "controls", torch.device("cpu"), samples=len(x), rows=rows)


def _first(test: Dataset, more: Dataset, count: int) -> Dataset:
    """Return test samples, and training samples where more are wanted: honest networks are honest on them, too."""
    if count <= len(test):
        return test.select(range(count))
    extra = more.select(range(count - len(test)))
    return replace(
        test,
        images=torch.cat([test.images, extra.images]),
        labels=torch.cat([test.labels, extra.labels]),
        ids=torch.cat([test.ids, extra.ids + 10**6]),
    )


if __name__ == "__main__":
    main()
