"""No reader lets anything but its documented error out, whatever the bytes."""

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

Edit = tuple[float, bytes, int]


def edited(seed: bytes, edits: list[Edit]) -> bytes:
    """Return bytes with runs of them, at shares of their length, replaced by others."""
    for share, patch, removed in edits:
        at = int(share * len(seed))
        seed = seed[:at] + patch + seed[at + removed :]
    return seed


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", TARGETS)
def test_whole_inputs(name: str) -> None:
    """The inputs to begin from, hostile ones among them, are read or refused."""
    for seed in TARGETS[name].seeds:
        TARGETS[name].read(seed)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40)
@given(data=st.data())
def test_edited_inputs(name: str, data: st.DataObject) -> None:
    """Whole inputs with runs of bytes replaced, cut or put in are read or refused."""
    seed = data.draw(st.sampled_from(TARGETS[name].seeds))
    edits = data.draw(
        st.lists(
            st.tuples(st.floats(0, 1), st.binary(max_size=6), st.integers(0, 40)), min_size=1, max_size=4
        )
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what libraries say of odd bytes is no failure of a reader
        TARGETS[name].read(edited(seed, edits))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=20)
@given(content=st.binary(max_size=300))
def test_any_bytes(name: str, content: bytes) -> None:
    """Bytes that are nothing at all are read or refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TARGETS[name].read(content)


KEYS = st.sampled_from(["train.", "model.", "objective.", "evaluation."]).flatmap(
    lambda part: st.sampled_from(
        [
            "lr",
            "epochs",
            "batch",
            "milestones",
            "seed",
            "fsr",
            "width",
            "tau",
            "normalize",
            "classes",
            "eps",
            "beta",
            "norm",
            "steps",
            "step_size",
            "awp",
            "share_noise",
            "lambda_sep",
            "name",
            "momentum",
            "swa_start",
        ]
    ).map(lambda name: part + name)
)
VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(repr),
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), st.lists, max_leaves=5).map(
        repr
    ),
    st.sampled_from(
        ["none", "true", "null", "1e400", "8/255", "[]", "{}", '""', "-0", "Infinity", "0x1", "١"]
    ),
)


@pytest.mark.usefixtures("unchecked")
@settings(max_examples=150)
@given(key=KEYS, value=VALUES)
def test_any_setting(key: str, value: str) -> None:
    """A known key with whatever value gives a run that can be written down, or is refused."""
    TARGETS["setting"].read(f"{key}={value}".encode())
