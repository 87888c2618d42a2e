"""A run that was stopped, in whatever way, goes on as if it had not been."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import pytest

from jaxgrad import DivergenceError, InputError, LinearParams, fit, loss, torch_optim

pytest.importorskip("orbax.checkpoint", reason="needs orbax-checkpoint, which writes the arrays")

X = np.random.default_rng(0).standard_normal(40).astype(np.float32)
DATA = (X, 4 * X + 1)
GUESS = LinearParams(np.float32(2), np.float32(6))
KILLS = int(os.environ.get("JAXGRAD_KILLS", "3"))


def optimizer():
    adam = optax.chain(torch_optim.scale_by_torch_adam(0.9, 0.999, 1e-8), torch_optim.scale_by_given_rate())
    return torch_optim.reduce_on_plateau(adam, torch_optim.plateau_rates(0.05, 0.5, 0.0, 1e-8), patience=5)


def run(folder=None, steps=60, **options):
    given = {"batch_size": 7, "key": 3, "validation": DATA, "validate_every": 4, "checkpoint": folder}
    if folder is not None:
        given["checkpoint_every"] = 6
    return fit(loss, GUESS, DATA, optimizer(), steps=steps, **{**given, **options})


def assert_same(one, other):
    assert one.step == other.step
    for name in ("losses", "learning_rates", "validation_losses", "validation_steps"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for name in ("params", "opt_state", "best_params"):
        jax.tree.map(np.testing.assert_array_equal, getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("at", [1, 6, 23])
def test_it_goes_on_bit_for_bit(tmp_path, at):
    whole = run()
    stopped = run(tmp_path, callbacks=lambda p: p.step >= at, chunk=at)
    assert stopped.stopped == "callback"
    assert stopped.step < 60
    assert_same(run(tmp_path, resume=True), whole)
    assert_same(run(tmp_path, resume=True), whole)  # nothing is left to do


def test_from_an_iterator_too(tmp_path):
    batches = [(X[i : i + 8], DATA[1][i : i + 8]) for i in range(0, 40, 8)]
    whole = fit(loss, GUESS, batches, optax.adam(0.05), steps=33)
    fit(loss, GUESS, batches, optax.adam(0.05), steps=13, checkpoint=tmp_path)
    again = fit(loss, GUESS, batches, optax.adam(0.05), steps=33, checkpoint=tmp_path, resume=True)
    assert_same(again, whole)


def test_a_run_can_be_made_longer(tmp_path):
    run(tmp_path, steps=20)
    assert_same(run(tmp_path, steps=60, resume=True), run(steps=60, validate_every=4))


def test_resume_with_nothing_there_begins(tmp_path):
    assert_same(run(tmp_path / "new", resume=True), run())


def test_what_is_there_is_not_overwritten(tmp_path):
    run(tmp_path, steps=12)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match="holds checkpoints already, the newest of step 12"):
        run(tmp_path)
    for options, said in (
        ({"key": 4}, "belongs to another run: seed"),
        ({"batch_size": 6}, "belongs to another run: batch_size is 6, saved was 7"),
        ({"steps": 11}, "the newest checkpoint is that of step 12, of steps=11"),
    ):
        with pytest.raises(InputError, match=said):
            run(tmp_path, resume=True, **options)
    other = (X, X)
    with pytest.raises(InputError, match="belongs to another run: data"):
        fit(loss, GUESS, other, optimizer(), steps=60, batch_size=7, key=3, checkpoint=tmp_path, resume=True)
    options = {"batch_size": 7, "key": 3, "validation": DATA, "validate_every": 4, "checkpoint": tmp_path}
    with pytest.raises(InputError, match="does not fit"):
        fit(loss, GUESS, DATA, 0.1, steps=60, resume=True, **options)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_damaged_checkpoint_is_refused_and_a_good_one_named(tmp_path):
    run(tmp_path, steps=18)
    newest = tmp_path / "step-00000018"
    victim = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(InputError, match=r"step-00000018 is damaged .*newest good one is that of step 12"):
        run(tmp_path, resume=True)


def test_a_file_in_the_folders_place_is_refused_before_training(tmp_path):
    (tmp_path / "taken").write_text("mine")
    calls = []
    with pytest.raises(InputError, match="is not a folder"):
        run(tmp_path / "taken", callbacks=calls.append)
    assert not calls
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_run_that_diverges_keeps_its_checkpoints(tmp_path):
    rate = optax.sgd(optax.linear_schedule(0.01, 3.0, 300))
    noisy = (X, DATA[1] + np.sin(50 * X))
    found = []
    for resume in (False, True):
        with pytest.raises(DivergenceError) as caught:
            fit(loss, GUESS, noisy, rate, steps=300, checkpoint=tmp_path, checkpoint_every=10, resume=resume)
        found.append(caught.value.step)
        assert any(tmp_path.iterdir())
    assert found[0] == found[1] > 100


CHILD = """
import json, sys
sys.path.insert(0, {here!r})
import test_resume
found = test_resume.run(sys.argv[1], steps=400, checkpoint_every=5, chunk=5, resume=True)
print(json.dumps([found.step, *map(float, found.params), float(found.losses.sum())]), flush=True)
"""


def test_killed_at_any_moment_it_resumes_to_the_same_end(tmp_path):
    expected = run(steps=400)
    expected = [400, *map(float, expected.params), float(expected.losses.sum())]
    code = CHILD.format(here=os.path.dirname(__file__))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAXGRAD_KILLS": "0"}
    draw = random.Random(int(os.environ.get("JAXGRAD_KILLS_SEED", "1")))
    folder, killed, ends = tmp_path / "run", 0, 0
    while killed < KILLS:
        child = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, env=environment)
        while not any(folder.glob("step-*")) and child.poll() is None and killed % 2:
            time.sleep(0.01)  # every other kill is within the loop and its saves
        time.sleep(draw.uniform(0, 1.0) if killed % 2 else draw.uniform(0, 4.0))
        child.send_signal(signal.SIGKILL)
        out, _ = child.communicate()
        killed += 1
        if out:  # it was at its end already: the next one begins anew
            assert json.loads(out) == expected
            ends += 1
            folder = tmp_path / f"run{ends}"
    last = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, env=environment)
    assert last.returncode == 0, last.stderr
    assert json.loads(last.stdout) == expected
