"""Time AutoAttack against pyautoattack on the same network and samples, member by member, both sides frozen.

    python -m benchmarks.autoattack --target runs/at --data-root DIR --samples 100 --eps 8/255 --json FILE

Each member attacks the samples that are right when clean, both sides in turn, so that drift of the machine hits
both; the whole of AutoAttack then attacks survivors only, as it does in an evaluation. A network on which less than
30 % survive says little about speed: fooled samples leave our batches at once, and that is not what users wait for.

Each side runs once to warm up, which is reported apart as "cold", then --repeats times; medians are reported. Our
seconds include what we build before we search: the frozen, folded copy of the network and its trial on pilots.
"""

import argparse
import functools
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks import common
from fsrobust.attacks import Attack, Ball, Cascade, make_attack
from fsrobust.attacks.view import multiplies_bf16
from fsrobust.data.batches import pixels
from fsrobust.evaluate.engine import predict_all, run_attack
from fsrobust.evaluate.searching import choose_precision
from fsrobust.evaluate.store import device_of
from fsrobust.recipes.execute import find_target, pick_device, plan_study

MEMBERS: Final = ("apgd-ce", "apgd-t", "fab-t", "square")
REPEATS: Final = 3
"""Fewer than other benchmarks take: a run is minutes long, not milliseconds."""
Row = dict[str, Any]
Finish = Callable[[], Row]
"""Says what a run found: called after the clock has stopped."""


def main() -> None:
    """Attack with both, print a table, keep the numbers."""
    parser = common.parser(__doc__)
    parser.add_argument("--target", required=True, help="a run, a weights file or pkg.module:factory")
    parser.add_argument("--data")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--eps")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--attacks", default=",".join((*MEMBERS, "autoattack")))
    parser.set_defaults(repeats=REPEATS)
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"expected --repeats of at least 1, but got {options.repeats}")
    device = pick_device(options.device)
    study = plan_study(
        find_target(options.target),
        data=options.data,
        root=options.data_root,
        eps=options.eps,
        limit=options.samples,
        device=device,
    )
    model = study.subject.model.requires_grad_(requires_grad=False)
    x, y = pixels(study.data.images).to(device), study.data.labels.to(device)
    right = torch.from_numpy(predict_all(model, x)).to(device) == y
    rows = {}
    print(_repeats_in_words(options.repeats), flush=True)
    for name in options.attacks.split(","):
        # the members attack what is right when clean; the whole of AutoAttack sees to that itself
        mine = torch.ones_like(right) if name == "autoattack" else right
        rows[name] = compare(name, model, x[mine], y[mine], study.ball, options)
        _print(name, rows[name])
    common.save(
        options,
        "autoattack",
        device_of(model),
        target=study.subject.source,
        data={"name": study.data.name, "n": len(x), "right": int(right.sum())},
        ball={"norm": study.ball.norm, "eps": study.ball.eps},
        repeats=options.repeats,
        rows=rows,
    )


def compare(
    name: str, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, options: argparse.Namespace
) -> Row:
    """Return seconds and verdicts of the reference and of ours, in each precision that the device has."""
    attack = make_attack(name, ball)
    sides: dict[str, Callable[[], Finish]] = {
        "reference": lambda: _reference(name, model, x, y, ball, options.batch),
        "fp32": lambda: _ours(attack, model, x, y, options.batch, "fp32"),
    }
    if multiplies_bf16(x.device):
        sides["bf16"] = lambda: _ours(attack, model, x, y, options.batch, "bf16")
    return timed(sides, repeats=options.repeats, device=x.device)


def timed(sides: Mapping[str, Callable[[], Finish]], *, repeats: int, device: torch.device) -> dict[str, Row]:
    """Return each side's median seconds, all its times, its cold time, and what its last run found."""
    last: dict[str, Finish] = {}

    def keep(side: str) -> None:
        last[side] = sides[side]()

    times, cold = common.alternate(
        {side: functools.partial(keep, side) for side in sides}, repeats=repeats, device=device
    )
    middle = common.medians(times)
    return {
        side: {"seconds": middle[side], "times": times[side], "cold": cold[side], **last[side]()}
        for side in sides
    }


def _repeats_in_words(repeats: int) -> str:
    if repeats == 1:
        return (
            "seconds of a single run a side after its cold one: no median, so they carry the machine's noise"
        )
    return f"median seconds of {repeats} runs a side, in turn, after a cold one each"


def _ours(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, batch: int, precision: Any) -> Finish:
    # whoever evaluates pays for the view too
    view = choose_precision(model, x[:32], y[:32], precision).view
    ids = torch.arange(len(x), device=x.device)
    found = run_attack(attack, model, x, y, ids=ids, batch=batch, view=view)

    def finish() -> Row:
        row: Row = {
            "standing": int((~found.fooled_any).sum()),
            "forwards": found.forwards,
            "backwards": found.backwards,
        }
        if isinstance(attack, Cascade) and found.standing is not None:
            row["stages"] = {cost.name: cost.seconds for cost in found.standing.costs}
        return row

    return finish


def _reference(name: str, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, batch: int) -> Finish:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    # what Square does to the logits it is given must not reach the network's own tensor
    counting = _Counting(model)
    norm = {"linf": "Linf", "l2": "L2"}[ball.norm]
    made = AutoAttack(counting, norm=norm, eps=ball.eps, device=str(x.device), seed=0)
    if name != "autoattack":
        made.attacks_to_run = [name]
    adversarial, _ = made.run_standard_evaluation(x, y, batch_size=batch)

    def finish() -> Row:
        # the verdict in IEEE float32 is our question, not part of the reference
        standing = int((torch.from_numpy(predict_all(model, adversarial)).to(y.device) == y).sum())
        return {"standing": standing, "forwards": counting.forwards}

    return finish


class _Counting(nn.Module):
    """Counts samples, and gives logits that may be written into."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.forwards = net, 0

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        self.forwards += len(x)
        logits: Tensor = self.net(x)
        return logits.clone()


def _print(name: str, row: Row) -> None:
    base = row["reference"]
    parts = [f"{name:<11}reference {base['seconds']:8.1f} s, {base['standing']} standing"]
    cold = ", ".join(f"{side} {one['cold']:.1f} s" for side, one in row.items())
    for side in ("fp32", "bf16"):
        if side in row:
            ratio = base["seconds"] / row[side]["seconds"]
            parts.append(
                f"{side} {row[side]['seconds']:8.1f} s, {row[side]['standing']} standing, ratio {ratio:.2f}"
            )
    print("; ".join([*parts, f"cold: {cold}"]), flush=True)


if __name__ == "__main__":
    main()
