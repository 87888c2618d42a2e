"""What happens around the compiled pieces: callbacks, validation, early stopping, Ctrl-C, the bar."""

import os
import signal
import threading

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgrad import LinearParams, fit, loss

X = np.linspace(-1, 1, 30, dtype=np.float32)
DATA = (X, 4 * X + 1)
GUESS = LinearParams(2.0, 6.0)


def test_callbacks_see_every_step_once():
    seen = []
    found = fit(loss, GUESS, DATA, optax.adam(0.1), steps=25, chunk=10, callbacks=seen.append)
    assert [each.step for each in seen] == [10, 20, 25]
    assert np.array_equal(np.concatenate([each.losses for each in seen]), found.losses)
    assert np.array_equal(np.concatenate([each.learning_rates for each in seen]), found.learning_rates)
    assert all(each.steps == 25 and each.seconds > 0 and each.validation_loss is None for each in seen)
    assert float(loss(seen[0].params, *DATA)) == pytest.approx(found.losses[10], rel=1e-5)


def test_a_callback_that_returns_true_ends_the_run():
    found = fit(loss, GUESS, DATA, 0.1, steps=100, chunk=5, callbacks=[lambda p: p.step >= 15, lambda p: None])
    assert (found.stopped, found.step, found.losses.size) == ("callback", 15, 15)


def test_validation_is_the_loss_on_other_data():
    held_out = (X[::2] + 0.5, 4 * X[::2] + 3)
    seen = []
    found = fit(
        loss, GUESS, DATA, 0.1, steps=23, validation=held_out, validate_every=5, callbacks=lambda p: seen.append(p)
    )
    assert found.validation_steps.tolist() == [5, 10, 15, 20, 23]
    short = fit(loss, GUESS, DATA, 0.1, steps=10)
    assert found.validation_losses[1] == pytest.approx(float(loss(short.params, *held_out)), rel=1e-5)
    assert [p.validation_loss for p in seen if p.validation_loss is not None] == found.validation_losses.tolist()
    best = found.validation_losses.min()
    assert float(loss(found.best_params, *held_out)) == pytest.approx(best, rel=1e-5)


def test_validation_batches_count_by_their_rows():
    parts = [(X[:7], DATA[1][:7]), (X[7:], DATA[1][7:])]
    whole, in_parts = (fit(loss, GUESS, DATA, 0.1, steps=4, validation=v, validate_every=2) for v in (DATA, parts))
    np.testing.assert_allclose(in_parts.validation_losses, whole.validation_losses, rtol=1e-5)


def test_training_stops_early_where_validation_gets_worse():
    # The validation data are another line: getting nearer to DATA's leads away from it at some time.
    other = (X, 3.5 * X + 4)
    found = fit(loss, GUESS, DATA, 0.05, steps=500, validation=other, validate_every=2, patience=3)
    assert found.stopped == "early"
    lowest = int(np.argmin(found.validation_losses))
    assert len(found.validation_losses) == lowest + 1 + 4
    assert float(loss(found.best_params, *other)) == pytest.approx(found.validation_losses.min(), rel=1e-5)
    picky = fit(loss, GUESS, DATA, 0.05, steps=500, validation=other, validate_every=2, patience=3, min_improvement=1.0)
    assert picky.step < found.step


def test_an_epoch_is_the_time_between_validations():
    found = fit(loss, GUESS, DATA, 0.1, steps=20, batch_size=4, validation=DATA)
    assert found.validation_steps.tolist() == [8, 16, 20]


@pytest.mark.parametrize("donate", [False, True])
def test_ctrl_c_returns_what_was_reached(donate):
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread")

    def interrupt(progress):
        if progress.step >= 20:
            os.kill(os.getpid(), signal.SIGINT)

    found = fit(loss, GUESS, DATA, 0.1, steps=10**6, chunk=10, callbacks=interrupt, donate=donate)
    assert found.stopped == "interrupted"
    assert 20 <= found.step < 10**6
    assert found.losses.size == found.learning_rates.size == found.step
    again = fit(loss, GUESS, DATA, 0.1, steps=found.step)
    np.testing.assert_allclose(found.params.w, again.params.w, rtol=1e-6)


def test_the_bar_is_drawn_and_taken_away(capsys):
    found = fit(loss, GUESS, DATA, optax.sgd(0.1), steps=200, progress=True, validation=DATA)
    assert found.step == 200
    assert capsys.readouterr().out == ""


def test_a_loss_that_falls_by_a_callback_is_seen_in_the_result():
    found = fit(loss, GUESS, DATA, 0.1, steps=50)
    assert "step=50, stopped='finished', last loss" in repr(found)
    assert jnp.isfinite(found.params.w)


def test_a_callback_that_raises_leaves_a_checkpoint(tmp_path):
    pytest.importorskip("orbax.checkpoint", reason="needs orbax-checkpoint, which writes the arrays")

    def breaks(progress):
        if progress.step == 30:
            raise RuntimeError("out of paper")

    with pytest.raises(RuntimeError, match="out of paper"):
        fit(loss, GUESS, DATA, 0.1, steps=100, chunk=10, callbacks=breaks, checkpoint=tmp_path, checkpoint_every=50)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000030"]


def test_ctrl_c_while_a_checkpoint_is_written_waits_until_it_is_whole(tmp_path, monkeypatch):
    pytest.importorskip("orbax.checkpoint", reason="needs orbax-checkpoint, which writes the arrays")
    from jaxgrad import checkpoints

    save = checkpoints.save

    def interrupted(folder, state, *, step, **options):
        if step >= 30:
            os.kill(os.getpid(), signal.SIGINT)
        save(folder, state, step=step, **options)

    monkeypatch.setattr(checkpoints, "save", interrupted)
    options = {"chunk": 10, "checkpoint": tmp_path, "checkpoint_every": 10}
    found = fit(loss, GUESS, DATA, 0.1, steps=100, **options)
    assert (found.stopped, found.step, found.losses.size) == ("interrupted", 30, 30)
    last = fit(loss, GUESS, DATA, 0.1, steps=35, **options, resume=True)  # interrupted in the very last save
    assert last.step == 35
    monkeypatch.undo()
    whole = fit(loss, GUESS, DATA, 0.1, steps=60, **options, resume=True)
    assert np.array_equal(whole.losses, fit(loss, GUESS, DATA, 0.1, steps=60, chunk=10).losses)


def test_validation_that_does_not_fit_the_loss_is_found_before_training():
    seen = []
    with pytest.raises(TypeError, match="'y'"):
        fit(loss, GUESS, DATA, 0.1, steps=100, validation=(X,), callbacks=seen.append, chunk=2)
    assert not seen
