"""Files of tensors beside other files."""

import errno

import pytest
import torch
from safetensors.torch import load_file

from unspoken.compute.tensor_file import write_tensors


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
    monkeypatch.setattr("unspoken.compute.tensor_file.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_tensors(path, {"a": torch.zeros(2)})
    assert list(tmp_path.iterdir()) == [path] and load_file(path)["a"].tolist() == [1, 1]
