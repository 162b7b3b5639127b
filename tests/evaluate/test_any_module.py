"""Any nn.Module is evaluated and diagnosed, or refused in a sentence; twice it is the same one."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fsrobust.attacks import Linf, make_attack, perturb
from fsrobust.attacks.probe import Probe
from fsrobust.cli import run
from fsrobust.evaluate import diagnose, evaluate
from fsrobust.evaluate.identity import identify
from fsrobust.evaluate.searching import pass_bytes
from tests import oddities
from tests.helpers import images

pytestmark = pytest.mark.filterwarnings("ignore")  # torch has much to say of what it will not keep
SERVED = ("extra", "in_place", "double", "unset", "scripted", "frozen", "inside")
REFUSED = {"quantised": "depend on the pixels by gradient", "half": "failed with"}
ON_DIGITS = ["--data", "digits", "--eps", "0.1", "--limit", "20"]


def made(name: str) -> nn.Module:
    """Return one of the networks, the same each time, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = getattr(oddities, name)()
    return model.eval()


@pytest.mark.parametrize("name", SERVED)
def test_any_module_is_evaluated(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Attacks run, their records are found again, and it can be diagnosed."""
    line = ["evaluate", f"tests.oddities:{name}", *ON_DIGITS, "--curve-samples", "0", "--out", str(tmp_path)]
    assert run([*line, "--attacks", "fgsm,pgd20"]) == 0
    capsys.readouterr()
    assert run([*line, "--attacks", "fgsm"]) == 0
    assert "fgsm: already on record" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*SERVED, "quantised"])
def test_any_module_is_diagnosed(name: str) -> None:
    """Of one without gradients that is said to be a sign."""
    model, x = made(name), images(6, channels=1)
    y = Probe(model).logits(x).argmax(1)
    found = diagnose(model, x, y, ball=Linf(0.1))
    assert found.n == 6
    assert (found.state == "not to be trusted") >= (name == "quantised")


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_attacked_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and a sentence."""
    line = [
        "evaluate",
        f"tests.oddities:{name}",
        *ON_DIGITS,
        "--attacks",
        "fgsm,pgd20",
        "--out",
        str(tmp_path),
    ]
    assert run(line) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("fsrobust: Expected")
    assert REFUSED[name] in said


@pytest.mark.parametrize("name", [*SERVED, *REFUSED])
def test_a_twin_has_the_same_identity(name: str) -> None:
    """Made twice it is one network; with other weights it is another."""
    assert identify(made(name)) == identify(made(name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        other = getattr(oddities, name)().eval()
    assert identify(other) != identify(made(name))


def test_what_torchscript_runs_is_part_of_it() -> None:
    """Two of the same weights that compute other things are two."""

    def scripted(slope: float) -> nn.Module:
        net: nn.Module = torch.jit.script(nn.Sequential(nn.LeakyReLU(slope), nn.Flatten()))
        return net

    assert identify(scripted(0.1)) == identify(scripted(0.1))
    assert identify(scripted(0.1)) != identify(scripted(0.2))


def test_images_are_not_written_to() -> None:
    """A network that normalises in place gives the logits and gradients of one that does not, and spoils nothing."""
    writing, x = made("in_place"), images(3, channels=1)
    plain = made("extra")
    before, y = x.clone(), torch.arange(3)
    probe, other = Probe(writing), Probe(plain)

    def total(logits: torch.Tensor) -> torch.Tensor:
        return logits.gather(1, y[:, None]).squeeze(1)

    torch.testing.assert_close(probe.logits(x), other.logits((x - 0.5) * 2))
    gradient, _ = probe.gradient(x, total)
    expected, _ = other.gradient((x - 0.5) * 2, total)
    torch.testing.assert_close(gradient, 2 * expected)
    y = writing(x.clone()).argmax(1)
    evaluate(writing, x, y, ball=Linf(0.1), attacks=["fgsm", "square"])
    perturb(make_attack("pgd20", Linf(0.1)), writing, x, y)
    assert torch.equal(x, before)


def test_float64_is_judged_in_float64() -> None:
    """Logits of a network in float64 are those of its own precision, whatever the images'."""
    model, x = made("double"), images(3, channels=1)
    with torch.no_grad():
        assert torch.equal(Probe(model).logits(x), model(x.double()))
    assert Probe(model).gradient(x, lambda z: z[:, 0])[0].dtype == x.dtype


def test_torchscript_has_a_size() -> None:
    """Its pass is as long as that of the same network outside TorchScript, within a factor that a batch bears."""
    x = images(2, channels=1)
    plain, scripted = (pass_bytes(made(name), x) for name in ("extra", "scripted"))
    assert plain / 4 < scripted < 4 * plain
