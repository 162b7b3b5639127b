"""Checkpoints that survive anything: written whole, verified before use, the one before kept.

``checkpoints/STEP/`` holds ``weights.safetensors`` (its header says which model), ``state.pt`` (plain values
and tensors, no code) and ``sha256`` (as ``sha256sum -c`` reads it). The files ``last`` and ``best`` beside it
each hold the name of a STEP. What is damaged and in the way goes to ``damaged/`` beside them: nothing is lost.
"""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from fsrobust.attacks.compiled import first_line
from fsrobust.plugin import config_of
from fsrobust.records import FORMAT, Metrics, digest_of_file, is_damage, move_aside, sync_folder, write_bytes
from fsrobust.train.packing import safetensors_bytes
from fsrobust.types import InputError

WEIGHTS: Final = "weights.safetensors"
STATE: Final = "state.pt"
DIGESTS: Final = "sha256"
KEPT: Final = 2
_DAMAGED: Final = "damaged"


def save_checkpoint(
    run: Path, step: int, model: nn.Module, state: Mapping[str, object], *, best: bool
) -> Path:
    """Write a checkpoint, point ``last`` (and ``best``) at it, and drop those no longer needed.

    A sound checkpoint of the same step is kept as it is: the run began at it, and has learnt nothing since.
    """
    folder = run / "checkpoints"
    final = folder / f"{step:08d}"
    if why_unsound(final):
        _write(final, model, state)
    # best first: killed in between, the run goes back to the checkpoint before and comes here again
    for pointer in ("best", "last") if best else ("last",):
        write_bytes(folder / pointer, f"{final.name}\n".encode())
    _prune(folder)
    return final


def _write(final: Path, model: nn.Module, state: Mapping[str, object]) -> None:
    """Write a checkpoint beside its place and rename it there."""
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _fill(partial, model, state)
        if final.exists():  # damaged, or it would not be written again
            move_aside(final, final.parent / _DAMAGED)
        partial.replace(final)
        for folder in (final.parent, final.parent.parent):  # on disk before anything points at it
            sync_folder(folder)
    except OSError:  # on a full disk, half a checkpoint would only take room
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _fill(partial: Path, model: nn.Module, state: Mapping[str, object]) -> None:
    partial.mkdir(parents=True)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    files = {WEIGHTS: weights_bytes(model), STATE: buffer.getvalue()}
    for name, content in files.items():
        write_bytes(partial / name, content)
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()]
    write_bytes(partial / DIGESTS, "".join(lines).encode())


def weights_bytes(model: nn.Module) -> bytes:
    """Return a model's weights as safetensors, its configuration in the header."""
    config = config_of(model)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    return safetensors_bytes(tensors, {"model": json.dumps(asdict(config) if config else None)})


def rewind(run: Path, step: int, *, best: int | None) -> None:
    """Leave a run as it was at the checkpoint it goes on from: ``last`` there, ``best`` as its state says, none beyond.

    What a kill kept from counting is made anew, of other bits if by other processes or in other pieces. What is
    damaged is set aside: somebody may want to see what is in it. What it kept from being dropped is dropped: after
    the last epoch no other checkpoint would.
    """
    folder = run / "checkpoints"
    write_bytes(folder / "last", f"{step:08d}\n".encode())
    if best is None:
        (folder / "best").unlink(missing_ok=True)
    else:
        write_bytes(folder / "best", f"{best:08d}\n".encode())
    for path in _steps(folder):
        if path.name > f"{step:08d}":
            move_aside(path, folder / _DAMAGED) if why_unsound(path) else shutil.rmtree(path)
    _prune(folder)


def start_anew(run: Path) -> list[str]:
    """Set aside what is left of a run that has no checkpoint to go on from; return a sentence if there is anything.

    Its metrics go with its checkpoints: they are of a training that is lost.

    Raises:
        InputError: its weights are packed: what is trained anew would not be what they are.
    """
    if any((run / "weights").glob("*.sha256")):
        raise InputError(
            f'"{run}" has the weights of a finished run and no checkpoint to go on from; choose another --out, or '
            "start from them with --init"
        )
    folder, metrics = run / "checkpoints", run / "metrics.jsonl"
    if not _steps(folder) and not (folder / "last").exists() and len(Metrics(metrics).rows()) < 2:
        return []  # killed before its first checkpoint, which an epoch's metrics go before
    # "last" goes last: a kill in between must not make the rest look as if there had been no checkpoint
    for path in (*_steps(folder), metrics, folder / "best", folder / "last"):
        if path.exists():
            move_aside(path, folder / _DAMAGED)
    return [
        f'no checkpoint of "{run}" is sound; what is left of it, metrics too, is in "{folder / _DAMAGED}" now'
    ]


def _prune(folder: Path) -> None:
    """Keep the newest up to ``last``, and the best of each: gone back to one, a run needs it."""
    last = _pointed(folder, "last") or ""
    counted = [path for path in _steps(folder) if path.name <= last][:KEPT]
    keep = {_pointed(folder, "best"), *(path.name for path in counted), *map(_best_of, counted)}
    for path in _steps(folder):
        if path.name not in keep:
            shutil.rmtree(path)
    for path in folder.glob(".*.partial"):  # of processes that are gone: this one holds the lock
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _best_of(checkpoint: Path) -> str | None:
    """Return the name of the checkpoint that was the best when this one was written, None if there was none."""
    try:
        # mapped: of gigabytes of tensors none is read
        state = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True, mmap=True)
        return f"{state['position']['best_step']:08d}"
    except OSError as error:
        if not is_damage(error):
            raise  # rather than delete what may be needed
    except Exception:  # damaged, of another version, or without a best one: nothing to keep for it
        pass
    return None


def _steps(folder: Path) -> list[Path]:
    """Return the complete checkpoints, newest first."""
    return sorted((p for p in folder.glob("[0-9]*") if p.is_dir()), reverse=True)


def _pointed(folder: Path, pointer: str) -> str | None:
    """Return the checkpoint that a pointer names, None if it is not there or names none."""
    try:
        name = (folder / pointer).read_text().strip()
    except UnicodeDecodeError:
        return None
    except OSError as error:
        if not is_damage(error):
            raise
        return None
    return name if re.fullmatch(r"[0-9]{8,}", name) else None


def why_unsound(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint's files, None if they are as they were written.

    Raises:
        OSError: they cannot be read, which says nothing of what is in them.
    """
    file = checkpoint / DIGESTS
    try:
        lines = file.read_text().splitlines()
        expected = {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}
        for file in (checkpoint / WEIGHTS, checkpoint / STATE):
            if digest_of_file(file) != expected.get(file.name):
                return f"{file.name} does not match its checksum"
    except ValueError as error:
        return f"a file is unreadable ({error})"
    except OSError as error:
        if not is_damage(error):
            error.filename = error.filename or str(file)  # a failing read names none
            raise
        return f"a file is missing ({error})"
    return None


def find_checkpoint(run: Path, which: str = "last") -> Path:
    """Return the checkpoint that ``last`` or ``best`` points at, verified.

    Raises:
        InputError: there is none, or its files are not what was written.
    """
    folder = run / "checkpoints"
    name = _pointed(folder, which)
    if name is None and which in ("last", "best") and (folder / which).is_file():
        raise InputError(
            f'"{folder / which}" is damaged: it names no checkpoint; write the name of one into it, '
            f"of: {_there(folder)}"
        )
    if name is None:
        hint = "; it was trained without a validation split" if which == "best" else ""
        raise InputError(f'Expected a checkpoint "{which}" in "{run}", but there is none{hint}')
    checkpoint = folder / name
    if which == "best" and not checkpoint.is_dir():
        raise InputError(
            f'Expected the best checkpoint as "{checkpoint}", but it is damaged or gone: lost since it was the best; '
            f"take another with --checkpoint last, or write its name into {folder / which}, of: {_there(folder)}"
        )
    reason = why_unsound(checkpoint)
    if reason:
        raise InputError(f'"{checkpoint}" is damaged or was tampered with: {reason}')
    return checkpoint


def _there(folder: Path) -> str:
    return ", ".join(path.name for path in _steps(folder)) or "none"


def find_resumable(run: Path) -> tuple[Path | None, list[str]]:
    """Return the newest sound checkpoint at or before ``last``, and a sentence for each one passed over.

    A ``last`` that names none says nothing: the newest sound one is taken, and that is said. One beyond ``last`` is
    complete, but the run was killed before it counted: it is better than none.
    """
    folder = run / "checkpoints"
    last = _pointed(folder, "last")
    remarks: list[str] = []
    if last is None and (folder / "last").exists():
        remarks.append(f'"{folder / "last"}" is damaged; using the newest checkpoint')
    if last is not None and not (folder / last).is_dir():
        remarks.append(
            f'"{folder / "last"}" names {last}, which is not there; using the newest sound checkpoint'
        )
        last = None
    for checkpoint in sorted(_steps(folder), key=lambda path: last is not None and path.name > last):
        reason = why_unsound(checkpoint)
        if reason is None:
            return checkpoint, remarks
        remarks.append(f'"{checkpoint}" is damaged: {reason}; using the one before')
    return None, remarks


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Return the training state; nothing but tensors and plain values is unpickled.

    Raises:
        InputError: it holds anything else, or is of another format.
    """
    try:
        state = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes make the unpickler raise nearly anything
        raise InputError(f'"{checkpoint / STATE}" is no training state: {first_line(error)}') from error
    if not isinstance(state, dict) or "format" not in state:
        raise InputError(f'"{checkpoint / STATE}" is no training state')
    if state.get("format") != FORMAT:
        raise InputError(f'Expected "{checkpoint}" to be of format {FORMAT}, but got {state.get("format")}')
    return dict(state)
