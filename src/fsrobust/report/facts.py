"""What a run's own files say about it, as pairs of a word and its value."""

from collections.abc import Mapping, Sequence
from typing import Any

from fsrobust.evaluate.joined import precision_of
from fsrobust.report.evaluations import Evaluation
from fsrobust.report.figures import NORMS, learning_rate_drops
from fsrobust.report.results import RunResults
from fsrobust.report.tables import heading
from fsrobust.report.words import count, listed, sample_in_words

Facts = list[tuple[str, str]]


def training_facts(run: RunResults) -> Facts:
    """Return how a run was trained; what its configuration does not say is left out."""
    config = run.config
    if config is None:
        return []
    train, model = config.get("train") or {}, config.get("model") or {}
    facts = [
        ("Recipe", config.get("recipe")),
        ("Model", _model(model)),
        ("Started from", _init(config.get("init"), train)),
        ("Parameters", count(run.parameters) if run.parameters else None),
        ("Objective", _objective(config.get("objective") or {}, guarded=bool(model.get("fsr")))),
        ("Data", _data(config.get("data") or {}, train)),
        ("Epochs", _epochs(run.metrics, train)),
        ("Optimiser", _optimiser(run.metrics, train)),
        ("Seed", _text(train.get("seed"))),
        ("Engine", train.get("engine")),
        ("Time", _time(run.metrics)),
    ]
    return [(word, value) for word, value in facts if value]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _model(model: Mapping[str, Any]) -> str | None:
    if not model.get("name"):
        return None
    channels = "grey" if model.get("channels") == 1 else f"{model.get('channels')}-channel"
    width = f", width {model['width']}" if "width" in model else ""  # a foreign network has none
    text = f"{model['name']}{width}, {channels} images, {model.get('classes')} classes"
    if model.get("fsr"):
        return f"{text}; FSR after {listed(model['fsr'])} (tau {model.get('tau')}, {model.get('mask')} mask)"
    return f"{text}; no plug-in"


def _init(init: Mapping[str, Any] | None, train: Mapping[str, Any]) -> str | None:
    if not init:
        return None
    text = f"{init['source']}, sha256 {init['sha256'][:16]}…"
    frozen = train.get("frozen_epochs")
    if not frozen:
        return text
    return f"{text}; for {frozen} {'epoch' if frozen == 1 else 'epochs'} the plug-in alone learnt"


def _objective(objective: Mapping[str, Any] | str, *, guarded: bool) -> str | None:
    if isinstance(objective, str):  # the repr of one that was handed to ``fit``
        return objective
    if not objective.get("name"):
        return None
    get = objective.get
    if get("name") in ("at", "fast-at"):
        steps = f"{get('steps')} steps" if get("name") == "at" else "one step"
        text = f"adversarial training (PGD, {steps} of {get('step_size')}, "
        text += f"{NORMS.get(str(get('norm')), get('norm'))} ball of eps {get('eps')})"
    else:
        text = "natural training (clean images only)" if get("name") == "natural" else str(get("name"))
    if guarded and "lambda_sep" in objective:
        text += f"; λ_sep {get('lambda_sep')}, λ_rec {get('lambda_rec')}"
    if get("label_smoothing"):
        text += f"; labels smoothed by {get('label_smoothing')}"
    if get("awp"):
        text += f"; weights perturbed, γ {get('awp')}"
    return text


def _data(data: Mapping[str, Any], train: Mapping[str, Any]) -> str | None:
    if not data.get("name"):
        return None
    held_out = train.get("train_on") == "minus_validation"
    rest = "others held out to choose the best checkpoint" if held_out else "none held out for validation"
    known = {"none": "no augmentation", "crop_flip": "random crops and flips"}
    augment = known.get(str(train.get("augment")))
    return f"{data['name']}, {count(data['n'])} training images, {rest}" + (f", {augment}" if augment else "")


def _epochs(metrics: Sequence[Mapping[str, Any]], train: Mapping[str, Any]) -> str | None:
    if "epochs" not in train:
        return None
    batch = f", batches of {train['batch']}" if "batch" in train else ""
    if not metrics:
        return f"{train['epochs']} planned, none on record{batch}"
    done = metrics[-1]["epoch"]
    return f"{done} of {train['epochs']}" + ("" if done == train["epochs"] else " (not finished)") + batch


def _optimiser(metrics: Sequence[Mapping[str, Any]], train: Mapping[str, Any]) -> str | None:
    if "lr" not in train:
        return None
    text = f"SGD, learning rate {train['lr']}"
    if train.get("schedule", "steps") != "steps":
        text += f", {train['schedule']} schedule"
    drops = learning_rate_drops(metrics)
    if drops:
        text += f", lowered from {'epoch' if len(drops) == 1 else 'epochs'} {listed([str(d) for d in drops])}"
    text += f"; momentum {train.get('momentum')}, weight decay {train.get('weight_decay')}"
    average = {
        "ema": f"an average with a decay of {train.get('ema_decay')} a step",
        "swa": f"the mean of the epochs beyond {train.get('swa_start')} of the run",
    }.get(train.get("averaging", "none"))
    return text + (f"; the weights are {average}" if average else "")


def _time(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    seconds = sum(row.get("seconds", 0.0) for row in metrics)
    if not seconds:
        return None
    hours, minutes = divmod(round(seconds / 60), 60)
    text = f"{seconds:.0f} s" if seconds < 180 else f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return f"{text} of training steps"


def provenance_facts(run: RunResults) -> Facts:
    """Return what trained a run: code, versions, device."""
    return _made_by("Trained", (run.config or {}).get("provenance") or {})


def evaluation_facts(evaluation: Evaluation) -> Facts:
    """Return what an evaluation rests on: samples, weights, code, device, date and cost."""
    record = evaluation.record
    dates = sorted({r["created"][:10] for r in evaluation.records.values()})
    gradients = sum(r.get("backwards", 0) for r in evaluation.records.values())
    return [
        ("Evaluated", f"{record['source']}, {evaluation.checkpoint or 'given'} weights"),
        ("Samples", sample_in_words(record)),
        ("Ball", f"{NORMS.get(evaluation.norm, evaluation.norm)}, eps {evaluation.eps}"),
        ("Date", " to ".join([dates[0]] if len(dates) == 1 else [dates[0], dates[-1]])),
        ("Cost", f"{count(gradients)} gradients of one image"),
        ("Search", _search(evaluation)),
        ("Weights", f"sha256 {record['weights_sha256'][:16]}…"),
        *([("Code", f"sha256 {record['code_sha256'][:16]}…")] if "code_sha256" in record else []),
        ("Sample set", f"sha256 {record['data']['sha256'][:16]}…"),
        *_made_by("Evaluated", record.get("provenance") or {}),
    ]


def _search(evaluation: Evaluation) -> str:
    """Return in which precision attacks searched, and which ones in another; no verdict rests on it."""
    low = {precision_of(record) for record in evaluation.records.values()} - {"fp32"}
    if not low:
        return "in IEEE float32, as every verdict is"
    names = {kind: _in(evaluation, kind) for kind in sorted(low)}
    return f"{'; '.join(f'in {kind}: {listed(found)}' for kind, found in names.items())}; verdicts in IEEE float32"


def _in(evaluation: Evaluation, precision: str) -> list[str]:
    return [heading(name) for name, one in evaluation.records.items() if precision_of(one) == precision]


def _made_by(what: str, made: Mapping[str, Any]) -> Facts:
    if not made:
        return []
    commit = f"commit {made['commit'][:12]}" if made.get("commit") else "commit unknown"
    dirty = ", dirty: with uncommitted changes" if made.get("dirty") else ""
    versions = f"torch {made.get('torch')}, Python {made.get('python')}"
    tf32 = ", TF32 on" if made.get("tf32") else ""
    return [
        (f"{what} by", f"fsrobust {made.get('fsrobust')}, {commit}{dirty}"),
        (f"{what} on", f"{made.get('device')}, {versions}{tf32}"),
    ]
