"""What can be wrong with a model before anything runs: one function per check, one table of them all."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fsrobust.evaluate.inputs import usual_inputs
from fsrobust.evaluate.patient import BATCH, ROUNDING, Patient, Unjudged, centred, find_scores
from fsrobust.evaluate.stats import Paired, wilson

Status = Literal["ok", "warn", "fail"]

_STEADY: Final = 1e-4
"""Share of the largest score by which two equal passes may differ: the order of sums on a GPU."""
_SAME: Final = 1e-2
"""… by which an image alone and in a batch may differ: other kernels, TF32 among them."""
_COMMON: Final = 1000.0
"""Times their spread that all scores of an image may be away from 0."""
_SUM: Final = 1e-3
"""How near to 1 probabilities must sum to be taken for such: half precision rounds to that."""
_GAIN: Final = 0.05
_ALONE: Final = 8
_FEW: Final = 20


class Finding(NamedTuple):
    """What a check found: its status, the value that decided, what that means, and what helps if not the usual."""

    status: Status
    value: float | str
    explanation: str
    remedy: str | None = None


@dataclass(frozen=True)
class Check:
    """A question to a patient in eval mode with frozen parameters, and what helps if the answer is bad."""

    judge: Callable[[Patient], Finding]
    remedy: str


def check_mode(patient: Patient) -> Finding:
    """Look for modules in train mode, before and after ``eval()``."""
    stuck = [name or "the model" for name, module in patient.model.named_modules() if module.training]
    if stuck:
        return Finding("fail", stuck[0], f"{len(stuck)} modules stay in train mode when told eval()")
    if patient.training:
        count, first = len(patient.training), patient.training[0] or "the model itself"
        return Finding(
            "warn", count, f"{count} modules came in train mode ({first} …); evaluation switches to eval mode"
        )
    return Finding("ok", 0, "every module is in eval mode")


def check_devices(patient: Patient) -> Finding:
    """Look where parameters, buffers and images are."""
    places = sorted({str(tensor.device) for tensor in patient.tensors})
    images = str(patient.given.device)
    if len(places) > 1:
        return Finding("fail", ", ".join(places), "parameters and buffers are on several devices")
    if places and images not in places:
        return Finding("fail", f"{places[0]}, {images}", "the images are not where the model is")
    return Finding("ok", images, "model and images are on one device")


def check_dtype(patient: Patient) -> Finding:
    """Look whether the weights are of one float type that verdicts can rest on."""
    kinds = sorted({str(t.dtype).removeprefix("torch.") for t in patient.tensors if t.is_floating_point()})
    value = ", ".join(kinds) or "no weights"
    if len(kinds) > 1:
        return Finding("fail", value, "the weights are of several float types")
    if kinds and kinds[0] not in ("float32", "float64"):
        return Finding("fail", value, "verdicts need float32: pixels near 1 are 1/256 apart in bfloat16")
    return Finding("ok", value, "the weights are of one type, precise enough for verdicts")


def check_pixels(patient: Patient) -> Finding:
    """Look whether the images are float in [0, 1]."""
    x = patient.given
    low, high = float(x.min()), float(x.max())
    value = f"{low:.3g} to {high:.3g}"
    if not x.is_floating_point():
        return Finding(
            "fail", str(x.dtype).removeprefix("torch."), "the images are no floating-point numbers"
        )
    if not (low >= 0 and high <= 1):  # written so that NaN fails
        return Finding("fail", value, "the pixels are not in [0, 1], where eps is measured")
    if high < 0.02:
        return Finding("warn", value, "the images are all but black, as if divided by 255 twice")
    return Finding("ok", value, "the pixels are in [0, 1]")


def check_forward(patient: Patient) -> Finding:
    """Look whether the model takes the images at all."""
    if isinstance(patient.output, Exception):
        return raised(patient.output)
    return Finding("ok", "runs", "the model takes these images")


def raised(error: Exception) -> Finding:
    """Return what an exception inside the model comes to."""
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    return Finding("fail", name, f"the model raised {name}: {lines[0] if lines else 'no message'}")


def check_output(patient: Patient) -> Finding:
    """Look whether the output is one tensor [B, K] of two or more scores."""
    output = patient.output
    if isinstance(output, Exception):
        raise Unjudged("the forward pass fails")
    kind = f"tensor {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    count = len(patient.x[:BATCH])
    found = find_scores(output, count)
    if found is None or found is not output:
        inside = "; logits were found inside it for the other checks" if found is not None else ""
        return Finding("fail", kind, f"expected one tensor [B, K] of logits{inside}")
    if found.shape[1] < 2:
        return Finding("fail", kind, "a single score per image: no classes to tell apart")
    return Finding("ok", kind, "one tensor [B, K]")


def check_finite(patient: Patient) -> Finding:
    """Look for NaN and infinity in the scores."""
    bad = int((~torch.isfinite(patient.scores)).any(1).sum())
    if bad:
        return Finding("fail", bad, f"NaN or infinity in the scores of {bad} of {len(patient.scores)} images")
    return Finding("ok", 0, "all scores are finite")


def check_classes(patient: Patient) -> Finding:
    """Compare the number of scores with the labels."""
    k, low, high = patient.scores.shape[1], int(patient.y.min()), int(patient.y.max())
    if low < 0 or high >= k:
        return Finding("fail", k, f"labels from {low} to {high} do not fit {k} scores")
    if patient.classes is not None and k != patient.classes:
        return Finding("warn", k, f"the data have {patient.classes} classes, the model gives {k} scores")
    return Finding("ok", k, "as many scores as the labels need")


def check_scores(patient: Patient) -> Finding:
    """Look whether the scores are probabilities or their logarithms."""
    scores = patient.logits
    ones = torch.ones(len(scores), dtype=scores.dtype)
    if bool((scores >= 0).all()) and torch.allclose(scores.sum(1), ones, rtol=0, atol=_SUM):
        return Finding(
            "fail",
            "probabilities",
            "every row sums to 1: a softmax, whose gradients vanish and mislead attacks",
        )
    if bool((scores <= 0).all()) and torch.allclose(scores.logsumexp(1), ones - 1, rtol=0, atol=_SUM):
        return Finding(
            "warn",
            "log-probabilities",
            "every row is a log-softmax: attacks on margins still work, scales differ",
        )
    common = float(scores.mean(1).abs().max())
    if common > _COMMON * patient.spread > _COMMON * ROUNDING * common:  # else they are constant
        return Finding(
            "warn",
            common,
            f"all scores of an image are near {common:.3g}: subtract it, or float32 rounds off what tells them apart",
        )
    return Finding("ok", "logits", "no row is a softmax or log-softmax")


def check_determinism(patient: Patient) -> Finding:
    """Compare two passes over the same batch in eval mode."""
    value = patient.unsteadiness
    if value > _STEADY:
        return Finding(
            "fail", value, f"two passes over the same images differ by {value:.1%} of the scores' spread"
        )
    return Finding("ok", value, "two passes over the same images agree")


def check_batch(patient: Patient) -> Finding:
    """Compare images alone with the same images in a batch."""
    if patient.unsteadiness > _STEADY:
        raise Unjudged("two passes over the same batch differ already")
    few = patient.x[:_ALONE]
    try:
        with torch.no_grad():
            alone = torch.cat([patient.ask(x[None]).cpu() for x in few])
    except Unjudged:
        return Finding("fail", "shape", "an image alone gets no scores [1, K]: squeezed away?")
    value = patient.apart(alone, patient.logits[:_ALONE])
    if not value <= _SAME:
        return Finding("fail", value, f"alone and in a batch, scores differ by {value:.1%} of their spread")
    return Finding("ok", value, "an image's scores do not depend on the others in its batch")


def check_constant(patient: Patient) -> Finding:
    """Look whether the scores depend on the image at all."""
    logits = patient.logits
    predicted = len(set(logits.argmax(1).tolist()))
    if len(logits) < 2:
        raise Unjudged("one image cannot show it")
    if float((centred(logits) - centred(logits[:1])).abs().max()) <= 1e-6 * patient.spread:
        return Finding("fail", predicted, "every image gets the same scores")
    if predicted == 1 and len(set(patient.y.tolist())) > 1:
        return Finding("warn", predicted, f"every image is taken for class {int(logits[0].argmax())}")
    return Finding("ok", predicted, f"{predicted} classes are predicted")


def check_gradient(patient: Patient) -> Finding:
    """Look for input gradients of the cross-entropy that are missing, zero or not finite."""
    x, y = patient.x[:BATCH], patient.y[:BATCH].to(patient.x.device)
    fits = (y >= 0) & (y < patient.logits.shape[1])
    if not bool(fits.any()):
        raise Unjudged("no label fits the scores")
    x = x[fits].requires_grad_(True)
    total = F.cross_entropy(patient.ask(x), y[fits], reduction="sum")
    found = torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None
    if found is None:
        return Finding(
            "fail", "none", "scores do not depend on the pixels by gradient: no_grad, detach or rounding"
        )
    if not bool(torch.isfinite(found).all()):
        return Finding("fail", "NaN", "input gradients are NaN or infinite, and an attack's steps with them")
    zero = float((found.flatten(1).abs().amax(1) == 0).double().mean())
    if zero > 0.5:
        return Finding("fail", zero, f"the input gradient is exactly 0 for {zero:.0%} of the images")
    if zero > 0:
        return Finding(
            "warn", zero, f"the input gradient is exactly 0 for {zero:.0%} of the images: saturated?"
        )
    return Finding("ok", zero, "every image has a finite input gradient that is not 0")


def check_normalisation(patient: Patient) -> Finding:
    """Try the inputs that networks are commonly trained on: another one should not be far better."""
    if check_pixels(patient).status == "fail":
        raise Unjudged("the pixels are not in [0, 1]")
    y = patient.y.cpu()
    right = {"as given": patient.logits.argmax(1) == y}
    right |= {name: patient.ask_all(x).argmax(1) == y for name, x in usual_inputs(patient.x).items()}
    share = {name: float(bits.double().mean()) for name, bits in right.items()}
    best = max(share, key=lambda name: share[name])
    p = Paired.of(right["as given"].numpy(), right[best].numpy()).p * (len(right) - 1)  # Bonferroni
    given = share["as given"]
    if share[best] - given >= _GAIN and p <= 0.01:
        return Finding(
            "fail",
            best,
            f"{share[best]:.1%} are classified right with inputs as {best}, {given:.1%} with pixels in [0, 1]",
        )
    return Finding("ok", "as given", f"of {len(right)} usual inputs, pixels in [0, 1] serve as well as any")


def check_accuracy(patient: Patient) -> Finding:
    """Compare natural accuracy with always naming the most frequent label."""
    y, n = patient.y.cpu(), len(patient.y)
    successes = int((patient.logits.argmax(1) == y).sum())
    chance, accuracy = max(Counter(y.tolist()).values()) / n, successes / n
    low, high = wilson(successes, n)
    measured = (
        f"{accuracy:.1%} of {n} (95 % interval {low:.1%} to {high:.1%}) against {chance:.1%} by guessing"
    )
    if n < _FEW:
        return Finding("warn", accuracy, f"{measured}: too few images to judge by", "take more (--limit)")
    if low <= chance:
        return Finding("fail", accuracy, f"{measured}: there is nothing for an attack to take away")
    return Finding("ok", accuracy, measured)


CHECKS: Final[dict[str, Check]] = {
    "train mode": Check(check_mode, "call model.eval(); do not override train() to keep parts in train mode"),
    "devices": Check(check_devices, "model.to(device), x.to(device): all on one device"),
    "dtype": Check(check_dtype, "model.float(); attacks can search in bf16 by themselves (--precision)"),
    "pixels": Check(check_pixels, "give float pixels in [0, 1] and normalise inside the model"),
    "forward": Check(check_forward, "make model(x) run on a batch [B, C, H, W] in eval mode"),
    "output": Check(check_output, "return logits [B, K] alone from forward; wrap the model otherwise"),
    "finite scores": Check(check_finite, "look for a division, log or overflow; check the weights"),
    "classes": Check(check_classes, "use data and labels that the model was trained for"),
    "logits": Check(check_scores, "leave the softmax out; losses and attacks apply it themselves"),
    "determinism": Check(
        check_determinism, "switch the noise off in eval mode, or evaluate with autoattack-rand"
    ),
    "batch": Check(check_batch, "use running statistics in eval mode; no normalisation across samples"),
    "constant": Check(check_constant, "check that the weights were loaded and that the input is used"),
    "gradient": Check(check_gradient, "remove no_grad, detach and rounding; else attack without gradients"),
    "normalisation": Check(
        check_normalisation, "put that transformation in front, as the model's first layer"
    ),
    "accuracy": Check(check_accuracy, "check weights, labels and their order, and the input's normalisation"),
}
"""All checks, in the order in which they are reported."""
