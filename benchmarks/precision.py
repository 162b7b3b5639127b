"""Train pairs that differ in precision alone, bf16 against float32, and compare what came out.

    python -m benchmarks.precision --seed 0 --seed 1 --seed 2 --data-root DIR --json FILE

Each pair shares seed, data, first weights and all noise. A pair whose numbers FILE already holds is not run again.
Verdicts are in IEEE float32, by a float32 search. Where bf16 is not native it is emulated: slow, the same roundings.
"""

import argparse
import statistics
from pathlib import Path

import torch
from scipy import stats

from benchmarks import common
from fsrobust import evaluate, fit
from fsrobust.config import Run
from fsrobust.data import Dataset, load_dataset
from fsrobust.data.batches import pixels
from fsrobust.recipes import recipe
from fsrobust.recipes.execute import pick_device
from fsrobust.recipes.start import initial_model
from fsrobust.records import read_json
from fsrobust.settings import override

Numbers = dict[str, float]
SIDES = ("fp32", "bf16")


def main() -> None:
    """Train and attack what is missing, then print the paired differences."""
    parser = common.parser(__doc__)
    parser.add_argument("--recipe", default="cifar10-resnet18-at-fsr")
    parser.add_argument("--seed", type=int, action="append", required=True)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--data-root", type=Path)
    options = parser.parse_args()
    device = pick_device(options.device)
    base = override(recipe(options.recipe), [f"model.width={options.width}", "train.train_on=all"])
    train = load_dataset(base.data, "train", root=options.data_root).select(range(options.images))
    test = load_dataset(base.data, "test", root=options.data_root).select(range(options.samples))
    pairs: dict[str, dict[str, Numbers]] = {}
    if options.json and options.json.exists():
        pairs = read_json(options.json)["pairs"]
    for seed in options.seed:
        pair = pairs.setdefault(str(seed), {})
        for side in SIDES:
            if side not in pair:
                settings = [*options.settings, f"train.seed={seed}", f"train.precision={side}"]
                pair[side] = _measure(override(base, settings), train, test, device)
                print(seed, side, pair[side], flush=True)
                _save(options, device, pairs)
    for name, line in _differences(pairs).items():
        print(f"{name}: {line}")


def _measure(run: Run, train: Dataset, test: Dataset, device: torch.device) -> Numbers:
    """Return accuracies in % and the last epoch's loss."""
    model = initial_model(run).to(device)
    history = fit(model, train, objective=run.objective.make(), train=run.train)
    if history.stopped:  # half a run is no number
        raise SystemExit(history.stopped)
    test = test.to(device)
    outcome = evaluate(
        model, pixels(test.images), test.labels, ids=test.ids, ball=run.evaluation.make(), attacks=["pgd20"]
    )
    return {
        "natural": 100 * outcome.accuracy("natural"),
        "pgd20": 100 * outcome.strict("pgd20"),
        "loss": history.rows[-1]["loss"],
    }


def _differences(pairs: dict[str, dict[str, Numbers]]) -> dict[str, str]:
    """Return bf16 − float32 as mean ± sd over complete pairs, with the p of a paired t-test."""
    whole = [pair for pair in pairs.values() if set(pair) == set(SIDES)]
    lines = {}
    for name in ("natural", "pgd20", "loss") if len(whole) > 1 else ():
        gaps = [pair["bf16"][name] - pair["fp32"][name] for pair in whole]
        p = float(stats.ttest_1samp(gaps, 0.0).pvalue)
        lines[name] = (
            f"{statistics.mean(gaps):+.3f} ± {statistics.stdev(gaps):.3f} ({len(whole)} pairs, p {p:.2f})"
        )
    return lines


def _save(options: argparse.Namespace, device: torch.device, pairs: dict[str, dict[str, Numbers]]) -> None:
    asked = {name: str(value) for name, value in vars(options).items() if value is not None}
    common.save(options, "precision", device, asked=asked, pairs=pairs, differences=_differences(pairs))


if __name__ == "__main__":
    main()
