"""Look a model over before anything runs: most wrong evaluations are wrong before their first attack."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from fsrobust.attacks.probe import under_attack
from fsrobust.evaluate.checks import CHECKS, Finding, Status, raised
from fsrobust.evaluate.patient import Patient, Unjudged
from fsrobust.types import Labels


@dataclass(frozen=True)
class Sign:
    """What one check found; ``remedy`` is None where nothing is wrong."""

    name: str
    status: Status
    value: float | str
    explanation: str
    remedy: str | None


@dataclass(frozen=True)
class Checkup:
    """All signs, in order; ``unjudged`` says by name why a check could not be made."""

    signs: Sequence[Sign]
    unjudged: Mapping[str, str]

    @property
    def status(self) -> Status:
        """The worst status of any sign."""
        found = {sign.status for sign in self.signs}
        return "fail" if "fail" in found else "warn" if "warn" in found else "ok"

    @property
    def failed(self) -> list[str]:
        """Names of the signs that failed."""
        return [sign.name for sign in self.signs if sign.status == "fail"]

    def summary(self) -> dict[str, object]:
        """Return everything as plain values: for JSON."""
        return {"status": self.status, **asdict(self)}

    def __str__(self) -> str:
        """Return a line per sign, and what helps under those that are not ok."""
        width = max(len(name) for name in CHECKS)
        lines = []
        for sign in self.signs:
            lines.append(f"{sign.status:<5} {sign.name:<{width}}  {sign.explanation}")
            if sign.remedy:
                lines.append(f"{'':<{width + 8}}→ {sign.remedy}")
        lines += [f"{'–':<5} {name:<{width}}  not judged: {why}" for name, why in self.unjudged.items()]
        return "\n".join(lines)


def doctor(model: nn.Module, x: Tensor, y: Labels, *, classes: int | None = None) -> Checkup:
    """Examine any module on images [N, C, H, W] and labels; nothing is attacked, nothing of it is changed.

    An exception inside the model is a failed check with its message. A few hundred images of all classes are
    enough; ``classes`` is how many the data have.

    Raises:
        InputError: no module, or images and labels that do not fit together.
    """
    patient = Patient(model, x, y, classes)
    signs, unjudged = [], {}
    devices = sorted({tensor.device.index or 0 for tensor in patient.tensors if tensor.is_cuda})
    with torch.random.fork_rng(devices=devices):
        for name, check in CHECKS.items():
            try:
                with under_attack(model):
                    found = check.judge(patient)
            except Unjudged as reason:
                unjudged[name] = str(reason)
                continue
            except Exception as error:  # any module may be a patient
                found = raised(error)
            signs.append(_sign(name, found, check.remedy))
    return Checkup(signs, unjudged)


def _sign(name: str, found: Finding, remedy: str) -> Sign:
    status, value, explanation, own = found
    return Sign(name, status, value, explanation, None if status == "ok" else own or remedy)
