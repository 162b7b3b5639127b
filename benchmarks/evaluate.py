"""Time white-box evaluation with a float32 and with a bf16 search; both give verdicts in IEEE float32.

    python -m benchmarks.evaluate runs/NAME --data-root DIR --limit 1000 --json results/benchmarks/evaluate_cpu.json

Also prints by how many samples the two differ: the price of the faster search. The target is a trained run:
on an untrained network every attack succeeds at once and nothing is learnt.
"""

import time
from pathlib import Path

from benchmarks import common
from fsrobust.data.batches import pixels
from fsrobust.evaluate import Outcome, evaluate
from fsrobust.evaluate.searching import choose_batch
from fsrobust.recipes.execute import find_target, pick_device, plan_study


def main() -> None:
    """Evaluate one run both ways, in turn."""
    parser = common.parser(__doc__)
    parser.add_argument("run")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--attacks", default="fgsm,pgd20,cw")
    options = parser.parse_args()
    device = pick_device(options.device)
    study = plan_study(find_target(options.run), root=options.data_root, limit=options.limit, device=device)
    model, data, names = study.subject.model, study.data.to(device), options.attacks.split(",")
    x, y = pixels(data.images), data.labels
    seconds: dict[str, dict[str, list[float]]] = {}
    outcomes: dict[str, Outcome] = {}
    for _ in range(options.repeats):
        for precision in ("fp32", "bf16"):
            for name in names:
                started = time.perf_counter()
                outcome = evaluate(
                    model,
                    x,
                    y,
                    ball=study.ball,
                    attacks=[name],
                    ids=data.ids,
                    precision=precision,
                )
                took = time.perf_counter() - started
                seconds.setdefault(name, {}).setdefault(precision, []).append(took)
                outcomes[f"{name} {precision}"] = outcome
    rows = []
    for name in names:
        medians = common.medians(seconds[name])
        exact, near = outcomes[f"{name} fp32"], outcomes[f"{name} bf16"]
        row = {
            "attack": name,
            "n": len(x),
            "seconds": seconds[name],
            "median": medians,
            "ratio": medians["fp32"] / medians["bf16"],
            "accuracy": {"fp32": exact.accuracy(name), "bf16": near.accuracy(name)},
            "strict": {"fp32": exact.strict(name), "bf16": near.strict(name)},
        }
        rows.append(row)
        print(
            f"{name}: {medians}, ratio {row['ratio']:.2f}, accuracy {row['accuracy']}, strict {row['strict']}"
        )
    common.save(options, "evaluate", device, batch=choose_batch(model, x), rows=rows)


if __name__ == "__main__":
    main()
