"""Untrusted checkpoints are read as tensors or refused; files of tensors are written atomically."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unspoken.compute.tensor_files import read_state_dict, write_tensors
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


def test_a_file_of_tensors_has_the_mode_of_other_new_files(tmp_path):
    (tmp_path / "config.json").touch()
    write_tensors(tmp_path / "weights.safetensors", {"a": torch.ones(2)})
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert len(modes) == 1
    assert load_file(tmp_path / "weights.safetensors")["a"].tolist() == [1, 1]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    def full_disk(*_arguments, **_named):
        raise OSError(errno.ENOSPC, "no space left")

    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"a": torch.ones(2)}, metadata={"format": "pt"})
    monkeypatch.setattr("unspoken.compute.tensor_files.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_tensors(path, {"a": torch.zeros(2)})
    assert list(tmp_path.iterdir()) == [path] and load_file(path)["a"].tolist() == [1, 1]
