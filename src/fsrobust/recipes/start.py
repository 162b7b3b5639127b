"""What a training starts from: the recipe with one's own data, weights and layers put in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import nn

from fsrobust.config import Init, Run
from fsrobust.data import Source, open_dataset
from fsrobust.evaluate.identity import weights_sha256
from fsrobust.models import MODELS, ModelConfig
from fsrobust.plugin import Guarded, build
from fsrobust.recipes.networks import Network, attach_configured, check_answers, find_network
from fsrobust.seeding import derive
from fsrobust.settings import depart
from fsrobust.train.pairs import refuse_pairs
from fsrobust.types import InputError

_OF_THE_PLUG_IN: Final = ("model.tau", "model.mask", "model.separation")
"""Settings of the model that a network with weights of its own leaves open."""


@dataclass(frozen=True, eq=False)
class Start:
    """A run with all that was put in, its training data, and its network with the first weights."""

    run: Run
    data: Source
    model: nn.Module


def refuse_clashes(
    settings: Sequence[str], *, init: str | None, attach: Sequence[str], engine: str | None
) -> None:
    """Refuse two options that say the same thing, or of which one undoes the other.

    Raises:
        InputError: the message names both.
    """
    for key in (setting.partition("=")[0].strip() for setting in settings):
        other = None
        if engine and key == "train.engine":
            other = "--engine"
        elif attach and key == "model.fsr":
            other = "--attach"
        elif init and key.startswith("model.") and key not in _OF_THE_PLUG_IN:
            other = "--init, which brings a network of its own"
        if other:
            raise InputError(f"Expected one of two, but got --set {key} and {other}; leave one of them out")


def prepare(  # noqa: PLR0913 - what can be put in
    run: Run,
    *,
    data: str | None = None,
    root: Path | None = None,
    image_size: int | None = None,
    keep: str = "auto",
    init: str | None = None,
    attach: Sequence[str] = (),
    device: torch.device | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Start:
    """Return the run on its own data or ``data``, from its own first weights or those of ``init``.

    ``init`` is RUN, FILE or pkg.module:factory; the plug-in goes to the layers ``attach``, else where that network
    has it, else where the recipe has it, and starts as the identity. Only the recipe's own network and data
    have published numbers.

    Raises:
        InputError: what is needed is missing, cannot be used, or does not fit together.
    """
    layers = tuple(name.strip() for part in attach for name in part.split(",") if name.strip())
    if not run.data and not (init and data):
        missing = (
            "--init RUN, FILE or pkg.module:factory" if not init else "--data folder:PATH, npz:FILE or a name"
        )
        raise InputError(f"Expected {missing}: {run.recipe} fine-tunes a trained network on data of your own")
    network, replaced = find_network(init) if init else None, bool(run.data)
    samples = open_dataset(
        data or run.data, "train", root=root, image_size=image_size, keep=keep, device=device, say=say
    )
    run = replace(run, image_size=image_size)
    run = adapt(run, samples) if data else run
    if network is not None and init is not None:
        return _from_network(run, samples, network, init=init, layers=layers, replaced=replaced)
    if layers and layers != run.model.fsr:
        changed = replace(run, model=replace(run.model, fsr=layers))
        run = depart(changed, [f"model.fsr={','.join(layers)}"])
    _refuse_idle(run)
    return Start(run, samples, initial_model(run))


def adapt(run: Run, data: Source) -> Run:
    """Return the run on another data set: its name, and a model of its channels and classes.

    The title says so, unless the recipe is one for data of one's own; no published number speaks of such a run.
    """
    model = replace(run.model, channels=data.channels, classes=data.classes)
    other = [f"data={data.name}"] if run.data not in ("", data.name) else []
    return depart(replace(run, data=data.name, model=model), other)


def initial_model(run: Run) -> nn.Module:
    """Return the run's network with its first weights: a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(run.train.seed, "weights"))
        return build(run.model)


def _from_network(
    run: Run, data: Source, network: Network, *, init: str, layers: tuple[str, ...], replaced: bool
) -> Start:
    """Return the run with this network; the title says so where it is ``replaced``, that is, the recipe has its own."""
    shape = (data.channels, *data.image_size)
    config = network.config or ModelConfig(init, classes=data.classes, channels=data.channels)
    check_answers(network.model, shape, data.classes, who=init, where=data.name)
    before = Init(init, weights_sha256(network.model), shape)
    model = network.model
    if isinstance(model, Guarded):
        if layers:
            raise InputError(
                f"Expected one of two, but got --attach {','.join(layers)} and --init {init}, which has the plug-in "
                f"after {', '.join(model.at)} already; leave --attach out"
            )
        _refuse_other_plug_in(run.model, config, init)
        config = replace(config, fsr=model.at)
    elif layers or run.model.fsr:
        config = _guarded(config, run.model, layers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(run.train.seed, "weights"))
            model = _attach(network, config, shape, given=bool(layers))
    tuned = replace(run, data=data.name, model=config, init=before)
    changes = [f"init={init}"] if replaced else []
    changes += [f"model.fsr={','.join(config.fsr)}"] if config.fsr and not run.model.fsr else []
    run = depart(tuned, changes)
    _refuse_idle(run)
    return Start(run, data, model)


def _refuse_other_plug_in(wanted: ModelConfig, there: ModelConfig, init: str) -> None:
    """Refuse settings of a plug-in that is trained already, with those that it has."""
    for setting in _OF_THE_PLUG_IN:
        name = setting.removeprefix("model.")
        value, own = getattr(wanted, name), getattr(there, name)
        if value not in (own, getattr(ModelConfig, name)):
            raise InputError(
                f"Expected one of two, but got --set {setting}={value} and --init {init}, whose plug-in was trained "
                f"with {own}; leave the setting out"
            )


def _refuse_idle(run: Run) -> None:
    """Refuse settings of a plug-in where there is none."""
    parts = {"model": run.model, "objective": run.objective}
    refuse_pairs({f"{part}.{name}": value for part, of in parts.items() for name, value in vars(of).items()})


def _guarded(config: ModelConfig, recipe: ModelConfig, layers: tuple[str, ...]) -> ModelConfig:
    """Return the configuration with the recipe's plug-in, at ``layers`` or where it belongs in that network."""
    known = config.name in MODELS and config.name != recipe.name
    at = layers or ((MODELS[config.name].fsr_at,) if known else recipe.fsr)
    return replace(
        config,
        fsr=at,
        tau=recipe.tau,
        mask=recipe.mask,
        separation=recipe.separation,
        fsr_init="identity",
    )


def _attach(network: Network, config: ModelConfig, shape: tuple[int, ...], *, given: bool) -> nn.Module:
    """Return the network with a fresh plug-in; its own weights are unchanged."""
    try:
        if config.name not in MODELS:
            return attach_configured(network.model, config, shape)
        model = build(config)
    except InputError as error:
        hint = "" if given else "; choose a layer with --attach"
        raise InputError(f"{error}{hint}") from error
    assert isinstance(model, Guarded)
    model.net.load_state_dict(network.model.state_dict())
    return model
