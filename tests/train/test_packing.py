"""Packed weights: small files, verified, and as good as the ones they were made from."""

from pathlib import Path

import pytest
import torch

from fsrobust.plugin import create_model
from fsrobust.train import load, packing
from fsrobust.train.packing import find_packed, pack
from fsrobust.types import InputError
from tests.runs import net


def test_packed_weights_load_as_the_model_rounded_to_half(tmp_path: Path) -> None:
    """Every weight is within float16's half unit in the last place; statistics and biases are exact."""
    model = net(fsr="paper").eval()
    files = pack(model, tmp_path / "weights", "last")
    assert [file.name for file in files] == ["last-1-of-1.safetensors"]
    loaded = load(tmp_path)
    for (name, theirs), ours in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert ours.dtype == theirs.dtype, name
        if theirs.ndim < 2 or not theirs.is_floating_point():
            assert torch.equal(ours, theirs), name
        else:
            torch.testing.assert_close(ours, theirs, rtol=2**-11, atol=2**-25)
            assert torch.equal(ours, theirs.half().float()), name
    assert not loaded.training


def test_a_large_network_is_split_and_comes_back_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file is above the limit; the parts together are the model."""
    monkeypatch.setattr(packing, "LARGEST", 2**18)
    model = create_model("resnet18", classes=10, width=8, fsr="paper").eval()
    files = pack(model, tmp_path / "weights", "best")
    assert len(files) > 1
    assert all(file.stat().st_size <= 2**18 for file in files)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(load(tmp_path, checkpoint="best")(x), model(x), rtol=0.02, atol=0.02)


def test_the_limit_holds_for_the_paper_sized_network(tmp_path: Path) -> None:
    """ResNet-18 with the plug-in, 12.4 million weights: two files of at most 16 MiB."""
    model = create_model("resnet18", classes=10, fsr="paper")
    files = pack(model, tmp_path, "last")
    assert len(files) == 2
    assert all(file.stat().st_size <= 16 * 2**20 for file in files)


def test_weights_beyond_float16_stay_float32(tmp_path: Path) -> None:
    """An overflow would be infinite."""
    model = net()
    with torch.no_grad():
        model.get_parameter("linear.weight").mul_(1e7)
    pack(model, tmp_path / "weights", "last")
    assert torch.equal(load(tmp_path).get_parameter("linear.weight"), model.get_parameter("linear.weight"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [("flip", "does not match its checksum"), ("remove", "no such file"), ("index", "is damaged")],
)
def test_damaged_parts_are_refused(tmp_path: Path, damage: str, message: str) -> None:
    """The sentence names the file."""
    (file,) = pack(net(), tmp_path / "weights", "last")
    if damage == "flip":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "remove":
        file.unlink()
    else:
        (tmp_path / "weights" / "last.sha256").write_text("nonsense\n")
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_nothing_packed_is_no_error_of_packing(tmp_path: Path) -> None:
    """The run's own checkpoints are looked for then."""
    assert find_packed(tmp_path / "weights", "last") == []
    with pytest.raises(InputError, match='Expected a checkpoint "last"'):
        load(tmp_path)
