"""Square against its authors' implementation, number by number and on average, and against a closed form."""

from collections.abc import Iterator

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from fsrobust.attacks import Linf, Square, make_ball, search
from fsrobust.seeding import Noise
from fsrobust.types import InputError
from tests.attacks.conftest import RADII
from tests.attacks.oracles import NORMS, Counting, fooled_by_theirs
from tests.helpers import HalfSpace, images

BOTH = pytest.mark.parametrize("norm", NORMS)
Trained = tuple[nn.Module, Tensor, Tensor]


def theirs(model: nn.Module, norm: str, eps: float, *, queries: int, seed: int = 0) -> SquareAttack:
    """Return the authors' attack as AutoAttack sets it."""
    return SquareAttack(
        model,
        norm=NORMS[norm],
        eps=eps,
        n_queries=queries,
        resc_schedule=False,
        seed=seed,
        device="cpu",
    )


def draws(norm: str, queries: int, x: Tensor) -> Iterator[Tensor]:
    """Yield our uniform numbers for one image in the order in which the authors' code asks for them."""
    noise = Noise.of(torch.tensor([5]), 0, "square").fold(0)
    channels, height, width = x.shape[1:]
    start = noise.fold("start")
    if norm == "linf":
        yield from start.uniform((channels, 1, width)).flatten()
    else:
        side = height // 5
        tiles = (height - (height - 5 * side) // 2) // side
        turns = start.fold("turn").uniform((tiles, 1, tiles, 1))
        signs = start.fold("sign").uniform((channels, tiles, 1, tiles, 1))
        for i in range(tiles):
            for j in range(tiles):
                yield from turns[:, i, 0, j, 0]
                yield from signs[0, :, i, 0, j, 0]
    for query in range(queries):
        yield from noise.fold(query).uniform(((2 if norm == "linf" else 5) + channels,)).flatten()


class _Tanh(nn.Module):
    """Four classes of which the first wins by far, whatever the image: no search is ever over."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(pixels, 4, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return torch.tanh((x - 0.5).flatten(1) @ self.weight) + torch.tensor([5.0, 0.0, 0.0, 0.0])


@BOTH
@pytest.mark.parametrize(("channels", "size"), [(3, 10), (1, 28), (3, 32)])
def test_given_the_same_numbers_it_asks_about_the_authors_images(
    norm: str, channels: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fed with our uniform numbers, pyautoattack asks about our images: start, squares, what is kept, sizes."""
    queries, eps = 260, {"linf": 0.05, "l2": 0.5}[norm]
    x, y = images(1, channels, size), torch.tensor([0])
    ours, other = Counting(_Tanh(x[0].numel())), Counting(_Tanh(x[0].numel()))
    search(Square(make_ball(norm, eps), queries=queries), ours, x, y, ids=torch.tensor([5]))
    stream = draws(norm, queries, x)

    def scripted(*shape: int | list[int]) -> Tensor:
        wanted = shape[0] if isinstance(shape[0], list) else list(shape)
        count = int(torch.tensor(wanted).prod())
        return torch.stack([next(stream) for _ in range(count)]).view(wanted)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "rand", scripted)
        theirs(other, norm, eps, queries=queries).perturb(x, y)
    assert next(stream, None) is None
    walked, expected = torch.cat(ours.asked[1 : queries + 2]), torch.cat(other.asked[1 : queries + 2])
    # float32's roundings of pixels near 1, carried along by the L2 moves
    torch.testing.assert_close(walked, expected, rtol=0, atol=1e-5)
    assert len(walked.unique(dim=0)) > queries / 2
    asked = ours.forwards - 1, other.forwards
    assert asked[0] == pytest.approx(asked[1], rel=0.05)


def test_squares_shrink_as_in_autoattack() -> None:
    """The share is halved after queries 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000, whatever the budget."""
    attack = Square(Linf(0.1), queries=100)
    for query, halvings in ((0, 0), (10, 0), (11, 1), (50, 1), (51, 2), (4000, 6), (4001, 7), (9999, 9)):
        assert attack.share(query) == 0.8 / 2**halvings


def test_finds_the_corner_of_a_cube() -> None:
    """A plane that leaves out what no square reaches is crossed with 1.1 of its distance, not with 0.9."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(3, 6, 6, generator=generator)
    weight[:, -1] = weight[:, :, -1] = 0  # the authors' squares never touch the lower and right sides
    x, y = torch.full((4, 3, 6, 6), 0.5), torch.tensor([0, 1, 0, 1])
    away = 0.03 * weight.sign() * (2 * y - 1)[:, None, None, None]
    for factor, won in ((0.9, False), (1.1, True)):
        attack = Square(Linf(factor * 0.03), queries=2500)
        found = search(attack, HalfSpace(weight), x + away, y, ids=torch.arange(4))
        assert found.fooled_any.tolist() == [won] * 4
        assert found.backwards == 0


@BOTH
def test_what_is_kept_never_loses_margin(norm: str, robust_net: Trained) -> None:
    """The image that comes back is the one of the widest margin that was asked about, in the ball."""
    net, x, y = robust_net
    model, ball, ids = Counting(net), make_ball(norm, 0.3 * RADII[norm]), torch.arange(8)
    x, y = x[net(x).argmax(1) == y][:8], y[net(x).argmax(1) == y][:8]
    found = search(Square(ball, queries=60), model, x, y, ids=ids)
    assert not found.fooled_any.any()
    asked = torch.stack(model.asked[1:62])
    logits = net(asked.flatten(0, 1)).view(61, 8, 10)
    gap = logits.scatter(2, y.expand(61, 8)[..., None], -torch.inf).amax(2) - logits[:, ids, y]
    torch.testing.assert_close(found.last, asked[gap.argmax(0), ids], rtol=0, atol=0)
    assert (ball.distance(found.last, x) <= ball.eps * (1 + 1e-6) + 1e-6).all()
    assert gap.argmax(0).max() > 20  # it goes on finding better ones


@BOTH
def test_order_and_neighbours_do_not_matter(norm: str, robust_net: Trained) -> None:
    """Who is fooled, and by what, follows seed, id and restart alone; who is won leaves the batch."""
    net, x, y = robust_net
    model, ball, ids = Counting(net), make_ball(norm, 1.3 * RADII[norm]), torch.arange(40)
    attack = Square(ball, queries=40)
    whole = search(attack, model, x[:40], y[:40], ids=ids, seed=2)
    sizes = [len(batch) for batch in model.asked[1:-2]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]
    for part in (torch.arange(39, -1, -1), torch.arange(7, 19)):
        again = search(attack, net, x[part], y[part], ids=part, seed=2)
        # a margin may be rounded otherwise in another batch, and a square be kept that was not
        same = (again.last - whole.last[part]).flatten(1).abs().amax(1) < 1e-6
        assert same.float().mean() > 0.9
    for other in (search(Square(ball, 40, restart=1), net, x[:40], y[:40], ids=ids, seed=2),
                  search(attack, net, x[:40], y[:40], ids=ids, seed=3)):  # fmt: skip
        assert not torch.allclose(other.last, whole.last, atol=1e-3)
    assert torch.equal(search(attack, net, x[:40], y[:40], ids=ids, seed=2).last, whole.last)


@BOTH
def test_eps_zero_changes_nothing(norm: str, robust_net: Trained) -> None:
    """In a ball of radius 0 whoever is fooled was so before, and images stay."""
    net, x, y = robust_net
    found = search(Square(make_ball(norm, 0.0), queries=15), net, x, y, ids=torch.arange(200))
    assert torch.equal(found.last, x)
    assert torch.equal(found.fooled_any, net(x).argmax(1) != y)


@pytest.mark.slow
@BOTH
def test_fools_as_many_as_the_authors_attack(norm: str, robust_net: Trained) -> None:
    """Over four seeds of 300 queries the means differ by chance at most, and samples cost the same.

    Runs differ in about 3 of 200 samples either way, theirs more, as one draw serves a whole batch: the mean
    of four has a standard error of about one point.
    """
    net, x, y = robust_net
    counting, eps, ids = Counting(net), RADII[norm], torch.arange(200)
    attack = Square(make_ball(norm, eps), queries=300)
    ours = [search(attack, net, x, y, ids=ids, seed=seed) for seed in range(4)]
    mean = torch.stack([each.fooled_any for each in ours]).float().mean()
    other = [
        fooled_by_theirs(theirs(counting, norm, eps, queries=300, seed=seed).perturb, net, x, y)
        for seed in range(4)
    ]
    assert abs(mean - torch.stack(other).float().mean()) < 0.02
    assert sum(each.forwards for each in ours) == pytest.approx(counting.forwards, rel=0.05)


@pytest.mark.parametrize(
    "wrong", [{"queries": 0}, {"restart": -1}, {"p_init": 0.0}, {"p_init": 1.5}], ids=str
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    """No queries, a negative restart and a share that is none are refused with the whole attack."""
    with pytest.raises(InputError, match=r"p_init in \(0, 1\], but got Square\(ball=Linf"):
        Square(Linf(0.1), **wrong)  # type: ignore[arg-type]
