"""Checkpoints: damage, misfits and unusable folders are refused by name, and nothing is overwritten."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.checkpointing import RUN, all_bytes, bits, place, refusal, saved, state_of

from jaxgrad import InputError
from jaxgrad.checkpoints import check_folder, newest, restore, save, store

ocp = pytest.importorskip("orbax.checkpoint", reason="needs orbax-checkpoint, which writes the arrays")

RANDOM = np.random.default_rng(11)


# Damage.


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    """A folder with the checkpoints of steps 1, 2 and 3, to be copied."""
    return saved(tmp_path_factory.mktemp("three"), 1, 2, 3)


def damaged_by(damage, three: Path, folder: Path) -> str:
    """What is said after a damage to the newest of three checkpoints."""
    shutil.copytree(three, folder)
    damage(place(folder, 3))
    before = all_bytes(folder)
    message = refusal(folder, state_of(3), run=RUN)
    assert f"the checkpoint {place(folder, 3)} is damaged (" in message
    assert f"The newest good one is that of step 2: to go on from it, remove {place(folder, 3)}." in message
    assert all_bytes(folder) == before
    return message


def test_a_flipped_bit_a_truncated_a_longer_and_a_missing_file_are_found(three, tmp_path):
    def flip(content):
        changed = bytearray(content)
        changed[int(RANDOM.integers(len(content)))] ^= 1 << int(RANDOM.integers(8))
        return changed

    def cut(content):
        return content[: int(RANDOM.integers(len(content)))]

    names = sorted(all_bytes(place(three, 3)))
    assert len(names) > 10
    for i, name in enumerate(names):
        for j, change in enumerate([flip, cut, lambda content: content + b"\n"]):

            def damage(path, name=name, change=change):
                (path / name).write_bytes(change((path / name).read_bytes()))

            assert f"({name} is not what was written)" in damaged_by(damage, three, tmp_path / f"{i}.{j}")
        message = damaged_by(lambda path, name=name: (path / name).unlink(), three, tmp_path / f"{i}.missing")
        assert f"({name} is missing)" in message or f"({name}: No such file or directory)" in message


def test_what_is_said_of_a_damaged_one_helps(three, tmp_path):
    folder = tmp_path / "run"
    damaged_by(lambda path: (path / "checkpoint.json").unlink(), three, folder)
    restored, step = restore(folder, state_of(2), run=RUN, step=2)
    assert (step, bits(restored)) == (2, bits(state_of(2)))
    shutil.rmtree(place(folder, 3))  # as the message says
    assert restore(folder, state_of(2), run=RUN)[1] == 2
    saved(folder, 3)
    assert bits(restore(folder, state_of(3), run=RUN)[0]) == bits(state_of(3))


def test_every_byte_of_the_description_is_vouched_for(tmp_path):
    file = place(saved(tmp_path, 3), 3) / "checkpoint.json"
    content = file.read_bytes()
    for i in [*RANDOM.integers(0, len(content), 60), *range(len(content) - 67, len(content))]:
        changed = bytearray(content)
        changed[i] ^= 1 << int(RANDOM.integers(8))
        file.write_bytes(changed)
        assert "(checkpoint.json is not what was written)" in refusal(tmp_path, state_of(3), run=RUN)


def test_other_damage(three, tmp_path):
    def empty(path):
        shutil.rmtree(path)
        path.mkdir()

    def a_file(path):
        shutil.rmtree(path)
        path.write_text("text")

    def of_another_step(path):
        shutil.rmtree(path)
        shutil.copytree(path.parent / "step-00000001", path)

    def no_arrays(path):
        shutil.rmtree(path / "arrays")

    assert "(checkpoint.json: No such file" in damaged_by(empty, three, tmp_path / "empty")
    assert "(checkpoint.json: Not a directory" in damaged_by(a_file, three, tmp_path / "file")
    assert "(it was saved as that of step 1)" in damaged_by(of_another_step, three, tmp_path / "copy")
    assert "is missing)" in damaged_by(no_arrays, three, tmp_path / "arrays")


def test_the_good_one_that_is_named_is_good(tmp_path):
    saved(tmp_path, 1, 2, 3, 4)
    for step in (3, 4):
        (place(tmp_path, step) / "arrays" / "0" / ".zarray").write_text("{}")
    message = refusal(tmp_path, state_of(4), run=RUN)
    assert f"step 2: to go on from it, remove {place(tmp_path, 3)} and {place(tmp_path, 4)}." in message
    (place(tmp_path, 2) / "checkpoint.json").unlink()
    (place(tmp_path, 1) / "arrays" / "_METADATA").unlink()
    message = refusal(tmp_path, state_of(4), run=RUN)
    assert f"No other one there can be used: remove {tmp_path}, and begin again." in message
    saved(tmp_path / "b", 1, 2)
    (place(tmp_path / "b", 1) / "checkpoint.json").unlink()
    assert refusal(tmp_path / "b", state_of(1), run=RUN, step=1).endswith("that of step 2: restore it with step=2.")


def test_bytes_that_differ_though_all_files_are_right_are_found(tmp_path):
    """As if orbax had written or read something else than it was given."""
    saved(tmp_path, 2, 3)
    path, other = place(tmp_path, 3), place(tmp_path, 2)
    about = store.files.read_about(path)
    shutil.rmtree(path / "arrays")
    shutil.copytree(other / "arrays", path / "arrays")
    hashes = store.files.read_about(other)["files"]
    body = store.files.json.dumps({**about, "files": hashes}, indent=1).encode() + b"\n"
    (path / "checkpoint.json").write_bytes(body + store.files.hashlib.sha256(body).hexdigest().encode() + b"\n")
    message = refusal(tmp_path, state_of(3), run=RUN)
    assert re.search(r"is damaged \(array \d is not what was written\)|cannot be read by orbax-checkpoint", message)


def test_a_format_of_another_version_is_named(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    monkeypatch.setattr(store.files, "FORMAT", "jaxgrad checkpoint 2")
    saved(tmp_path, 2)
    monkeypatch.undo()
    message = refusal(tmp_path, state_of(2), run=RUN)
    assert (
        "is in the format 'jaxgrad checkpoint 2', not 'jaxgrad checkpoint 1', of another version of jaxgrad" in message
    )
    assert "The newest good one is that of step 1" in message


# What belongs together.


def test_another_run_is_refused_with_all_that_differs(tmp_path):
    saved(tmp_path, 1)
    restore(tmp_path, state_of(1), run=dict(reversed(RUN.items())) | {"batch_size": (32, 1)})
    other = {"seed": 4, "batch_size": [32, 1], "data": {"hash": "ac", "rows": 100}, "steps": 3}
    message = refusal(tmp_path, state_of(1), run=other)
    assert f"the checkpoint {place(tmp_path, 1)} belongs to another run: seed is 4, saved was 3; " in message
    assert 'data is {"hash": "ac", "rows": 100}, saved was {"hash": "ab", "rows": 100}; ' in message
    assert "steps is 3, saved was nothing. " in message
    assert "batch_size" not in message
    assert "No other one there can be used: go on with the settings that were saved, or pass another folder." in message
    assert "seed is not given, saved was 3" in refusal(tmp_path, state_of(1), run={})


def test_a_state_that_differs_is_refused_with_all_that_differs(tmp_path):
    save(
        tmp_path, {"w": np.zeros(3), "b": jnp.zeros((), jnp.bfloat16), "k": jax.random.key(0), "n": 1}, step=1, run=RUN
    )
    like = {"w": np.zeros((3, 1)), "b": jnp.zeros(()), "k": jax.random.split(jax.random.key(0)), "m": np.zeros(2)}
    message = refusal(tmp_path, like, run=RUN)
    for part in (
        "like['w'] is f64[3,1], saved was f64[3]",
        "like['b'] is f32[], saved was bf16[]",
        "like['k'] is key<fry>[2], saved was key<fry>[]",
        "like['m'] is f64[2], saved was nothing",
        "like['n'] is not there, saved was i64[]",
    ):
        assert part in message
    assert "like['w'] is f32[3], saved was f64[3]" in refusal(tmp_path, {"w": np.zeros(3, np.float32)}, run=RUN)
    rbg = {"w": np.zeros(3), "b": jnp.zeros((), jnp.bfloat16), "k": jax.random.key(0, impl="rbg"), "n": 1}
    assert "like['k'] is key<rbg>[], saved was key<fry>[]. No" in refusal(tmp_path, rbg, run=RUN)


def test_one_that_fits_is_named_where_the_newest_does_not(three, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(three, folder)
    message = refusal(folder, state_of(2), run=RUN)
    assert "like['losses'] is f64[2], saved was f64[3]. The newest good one is that of step 2: to go" in message
    save(tmp_path / "other", state_of(4), step=4, run={**RUN, "seed": 4})
    shutil.copytree(place(tmp_path / "other", 4), place(folder, 4))
    message = refusal(folder, state_of(4), run=RUN)
    assert "seed is 3, saved was 4. The newest good one is that of step 3: to go on from it, remove " in message
    message = refusal(folder, state_of(4), run={**RUN, "seed": 5})
    assert "No other one there can be used" in message


def test_nothing_is_written_beside_another_run(three, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(three, folder)
    (place(folder, 3) / "checkpoint.json").unlink()  # what cannot be read says nothing
    before = all_bytes(folder)
    with pytest.raises(InputError, match=r"0002 belongs to another run: seed is 4, saved was 3\. Nothing was written"):
        save(folder, state_of(4), step=4, run={**RUN, "seed": 4}, keep=1)
    assert all_bytes(folder) == before


# Folders that cannot be used.


@pytest.mark.parametrize("use", [check_folder, newest, lambda folder: saved(Path(folder), 1)])
def test_what_is_no_folder_is_refused(use, tmp_path):
    (tmp_path / "file").write_text("text")
    for folder in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(InputError, match=re.escape(f"{folder} is not a folder. Pass a folder")):
            use(folder)
    for address in ("gs://bucket/run", "s3://bucket"):
        if use in (check_folder, newest):
            with pytest.raises(InputError, match="is an address, expected a folder of the file system"):
                use(address)
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc, where nobody makes a folder")
def test_a_folder_that_cannot_be_made_is_refused():
    for use in (check_folder, lambda folder: saved(folder, 1)):
        with pytest.raises(InputError, match=r"/proc/jaxgrad/run cannot be written to \(No such file or directory\)"):
            use(Path("/proc/jaxgrad/run"))


@pytest.mark.skipif(os.name != "posix", reason="needs permissions as POSIX has them")
def test_a_folder_without_permission_is_refused():
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    (base / "kept").mkdir(mode=0o755)
    (base / "hidden").mkdir(mode=0o755)
    (base / "kept").chmod(0o555)
    (base / "hidden").chmod(0o000)
    root = os.geteuid() == 0
    try:
        if root:  # whom no permission stops
            os.seteuid(65534)
        for folder in (base / "kept", base / "kept" / "new"):
            with pytest.raises(
                InputError, match=re.escape(f"check_folder: {folder} cannot be written to (Permission denied)")
            ):
                check_folder(folder)
            with pytest.raises(InputError, match=r"fit: .* cannot be written to"):
                save(folder, state_of(1), step=1, run=RUN, function="fit")
        with pytest.raises(InputError, match=r"newest: .*hidden cannot be read \(Permission denied\)"):
            newest(base / "hidden")
    finally:
        if root:
            os.seteuid(0)
        (base / "kept").chmod(0o755)
        shutil.rmtree(base)


def test_a_new_folder_is_made_and_one_in_use_is_refused_only_to_a_new_run(tmp_path):
    check_folder(tmp_path / "a" / "b", resume=False)
    assert os.listdir(tmp_path / "a" / "b") == []
    saved(tmp_path / "c", 4)
    check_folder(tmp_path / "c")
    with pytest.raises(InputError, match=r"holds checkpoints already, the newest of step 4\. Pass resume=True"):
        check_folder(tmp_path / "c", resume=False)


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    with ocp.CheckpointManager(tmp_path / "orbax") as manager:
        manager.save(7, args=ocp.args.StandardSave({"w": np.ones(3)}))
    (tmp_path / "mixed" / "step-7").mkdir(parents=True)  # not as we would name it
    (tmp_path / "mixed" / ".hidden").write_text("a hidden file is nobody's business")
    for folder, name in ((tmp_path / "orbax", "7"), (tmp_path / "mixed", "step-7")):
        before = all_bytes(tmp_path)
        with pytest.raises(
            InputError, match=f"holds {name}, expected nothing but checkpoints of jaxgrad. Pass a folder"
        ):
            check_folder(folder)
        with pytest.raises(InputError, match=f"holds {name}, expected nothing but"):
            saved(folder, 1)
        assert f"holds {name}, expected checkpoints of jaxgrad" in refusal(folder, state_of(1), run=RUN)
        assert all_bytes(tmp_path) == before
    shutil.rmtree(tmp_path / "mixed" / "step-7")
    saved(tmp_path / "mixed", 1)
    many = tmp_path / "many"
    many.mkdir()
    for i in range(9):
        (many / str(i)).touch()
    with pytest.raises(InputError, match="holds 0, 1, 2 and 6 more, expected"):
        check_folder(many)
    assert "holds nothing, expected checkpoints" in refusal(tmp_path / "none", state_of(1), run=RUN)


def test_a_folder_in_our_names_but_not_ours_is_not_removed(tmp_path):
    (tmp_path / "step-00000001").mkdir()
    (tmp_path / "step-00000001" / "thesis.txt").write_text("of someone else")
    saved(tmp_path, 2, 3, 4, keep=1)
    assert sorted(os.listdir(tmp_path)) == ["step-00000001", "step-00000004"]
