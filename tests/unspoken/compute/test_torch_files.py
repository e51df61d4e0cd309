"""Loading of untrusted checkpoints gives tensors or a clear error."""

from pathlib import Path

import pytest
import torch

from unspoken.compute.torch_files import read_state_dict
from unspoken.errors import InvalidConfig

STATE = {"a.weight": torch.arange(3.0)}


@pytest.mark.parametrize("wrapped", [STATE, {"model": STATE}, {"state_dict": STATE, "epoch": 3}])
@pytest.mark.parametrize("mmap", [False, True])
def test_a_state_dict_is_found_also_where_it_is_wrapped(tmp_path, wrapped, mmap):
    torch.save(wrapped, tmp_path / "x.pth")
    assert read_state_dict(tmp_path / "x.pth", mmap=mmap)["a.weight"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"<!DOCTYPE html><title>Not found</title>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 375042383\n",
        b"PK\x03\x04 cut short",
        b"\x80\x02}q\x00.",
        bytes(range(256)),
    ],
)
@pytest.mark.parametrize("mmap", [False, True])
def test_a_file_that_is_no_checkpoint_is_refused_with_its_path(tmp_path, content, mmap):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InvalidConfig, match=r"x\.pth"):
        read_state_dict(tmp_path / "x.pth", mmap=mmap)


@pytest.mark.parametrize("held", [[1], {1: 2}, torch.zeros(1)])
def test_a_checkpoint_without_names_is_refused(tmp_path, held):
    torch.save(held, tmp_path / "x.pth")
    with pytest.raises(InvalidConfig, match="no state dict"):
        read_state_dict(tmp_path / "x.pth")


def test_nothing_in_a_checkpoint_is_run(tmp_path):
    class Mine:
        def __reduce__(self):
            return (Path(tmp_path / "was-run").touch, ())

    torch.save({"model": Mine()}, tmp_path / "evil.pth")
    with pytest.raises(InvalidConfig, match="more than tensors"):
        read_state_dict(tmp_path / "evil.pth")
    assert not (tmp_path / "was-run").exists()
