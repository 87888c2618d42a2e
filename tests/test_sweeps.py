"""Many runs in one program: each is the run that make_step makes, none disturbs another, bad input is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgrad import InputError, InputTypeError, LinearParams, loss, make_step
from jaxgrad.sweeps import engine, sweep

RANDOM = np.random.default_rng(9)
X = jnp.array([1.0, 2.0, 3.0])
DATA = (X, 4 * X + 1)
GUESS = LinearParams(jnp.array(2.0), jnp.array(6.0))
RATES = [0.001, 0.02, 0.1]

OPTIMIZERS = {
    "by hand": None,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
    "adam": optax.adam,
}


def network(params: Any, x: Any, y: Any) -> Any:
    hidden = jnp.tanh(x @ params[0]["w"] + params[0]["b"][None])
    return jnp.mean((hidden @ params[1]["w"] - y) ** 2)


def network_params(dtype: Any = jnp.float64, scale: float = 1.0) -> Any:
    draw = lambda *shape: jnp.asarray(scale * RANDOM.standard_normal(shape), dtype)  # noqa: E731
    return [{"w": draw(2, 5), "b": draw(5)}, {"w": draw(5, 1)}]


def one_run(loss_function, params, data, optimizer, rate, steps) -> tuple[Any, list[jax.Array]]:
    """The run that a sweep must equal: make_step, called step by step."""
    made = None if optimizer is None else optimizer(rate)
    step = make_step(loss_function, made, learning_rate=rate if made is None else None)
    state, losses = None if made is None else made.init(params), []
    for _ in range(steps):
        params, state, value = step(params, state, data)
        losses.append(value)
    return params, losses


@pytest.mark.parametrize("record", ["last", "all"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_run_of_the_grid_is_that_of_make_step(name, record, x64):
    starts = [network_params() for _ in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    data = (jnp.asarray(RANDOM.standard_normal((7, 2))), jnp.asarray(RANDOM.standard_normal((7, 1))))
    rates = np.array([0.01, 0.05, 0.1])
    result = sweep(
        network, starts[0], data, OPTIMIZERS[name], steps=6, learning_rates=rates, starts=stacked, record=record
    )
    assert result.losses.shape == ((3, 2) if record == "last" else (3, 2, 6))
    assert not result.diverged.any()
    for i, rate in enumerate(rates):
        for j, start in enumerate(starts):
            params, losses = one_run(network, start, data, OPTIMIZERS[name], rate, 6)
            expected = losses[-1] if record == "last" else jnp.stack(losses)
            np.testing.assert_allclose(result.losses[i, j], expected, rtol=1e-11)
            for ours, theirs in zip(jax.tree.leaves(result.params), jax.tree.leaves(params), strict=True):
                assert ours.dtype == theirs.dtype
                np.testing.assert_allclose(ours[i, j], theirs, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("runs", [1, 7, 16, 17, 513, 1025])
def test_every_number_of_runs_comes_out_in_order(runs):
    rates = np.geomspace(1e-4, 1e-1, runs)
    result = sweep(loss, GUESS, DATA, steps=3, learning_rates=rates)
    w, b = np.full(runs, 2.0), np.full(runs, 6.0)
    x, y = (np.asarray(leaf, np.float64)[:, None] for leaf in DATA)
    last = np.zeros(runs)
    for _ in range(3):
        off = w * x + b - y
        last = (off**2).mean(0)
        w, b = w - rates * 2 * (off * x).mean(0), b - rates * 2 * off.mean(0)
    np.testing.assert_allclose(result.losses[:, 0], last, rtol=2e-5)
    np.testing.assert_allclose(result.params.w[:, 0], w, rtol=2e-5)
    np.testing.assert_allclose(result.learning_rates, rates, rtol=1e-7)
    assert (result.params.b.shape, result.steps) == ((runs, 1), 3)


def test_pairs_are_the_diagonal_of_the_grid():
    starts = LinearParams(jnp.array([2.0, -1.0, 0.5]), jnp.array([6.0, 0.0, 1.0]))
    grid = sweep(loss, GUESS, DATA, steps=4, learning_rates=RATES, starts=starts)
    pairs = sweep(loss, GUESS, DATA, steps=4, learning_rates=RATES, starts=starts, paired=True)
    assert pairs.losses.shape == (3,)
    np.testing.assert_allclose(pairs.losses, jnp.diagonal(grid.losses), rtol=1e-6)
    np.testing.assert_allclose(pairs.params.w, jnp.diagonal(grid.params.w), rtol=1e-6)
    assert pairs.best.index == (int(jnp.argmin(pairs.losses)),)


def test_a_finished_optimizer_sweeps_over_starts():
    starts = LinearParams(jnp.array([2.0, -1.0]), jnp.array([6.0, 0.0]))
    result = sweep(loss, GUESS, DATA, optax.sgd(0.1), steps=4, starts=starts)
    by_hand = sweep(loss, GUESS, DATA, steps=4, learning_rates=[0.1], starts=starts)
    np.testing.assert_allclose(result.losses, by_hand.losses, rtol=1e-6)
    assert result.learning_rates is None
    assert result.best.learning_rate is None


def test_one_step_ends_with_the_lesson():
    result = sweep(loss, GUESS, DATA, steps=1, learning_rates=[0.1])
    assert round(result.losses.item(), 4) == 3.6667
    assert (round(result.params.w.item(), 4), round(result.params.b.item(), 4)) == (1.8667, 5.8)


def test_optimizers_that_need_the_loss_get_it():
    result = sweep(
        loss, GUESS, DATA, lambda rate: optax.chain(optax.scale_by_learning_rate(rate), optax.polyak_sgd(1.0)),
        steps=5, learning_rates=[0.5, 1.0],
    )  # fmt: skip
    assert not result.diverged.any()


# Runs that diverge.


@pytest.mark.parametrize("record", ["last", "all"])
def test_runs_that_diverge_are_told_and_disturb_no_other(record):
    good = sweep(loss, GUESS, DATA, steps=60, learning_rates=[0.1, 0.09, 0.05, 0.08], record=record)
    mixed = sweep(loss, GUESS, DATA, steps=60, learning_rates=[0.1, 30.0, 0.05, 1e30], record=record)
    assert mixed.diverged[:, 0].tolist() == [False, True, False, True]
    np.testing.assert_array_equal(np.asarray(mixed.losses)[[0, 2]], np.asarray(good.losses)[[0, 2]])
    assert mixed.best.index == (0, 0)
    assert mixed.best.loss == good.last_losses[0, 0].item()
    if record == "last":
        assert mixed.first_bad_step is None
        return
    _, losses = one_run(loss, GUESS, DATA, None, 30.0, 60)
    first = 1 + np.argmin(np.isfinite(np.stack(losses)))
    assert mixed.first_bad_step is not None
    assert mixed.first_bad_step[:2, 0].tolist() == [0, first]


def test_a_run_whose_last_update_overflows_is_not_the_best():
    steep = lambda p, x: jnp.sum(p * x)  # noqa: E731
    result = sweep(steep, jnp.ones(1), (jnp.full(1, 1e30),), steps=1, learning_rates=[1e-35, 1e30])
    assert result.diverged[:, 0].tolist() == [False, True]


def test_no_best_where_all_diverged():
    result = sweep(loss, GUESS, DATA, steps=100, learning_rates=[20.0, 30.0])
    with pytest.raises(InputError, match="all runs diverged"):
        _ = result.best


def test_the_best_run_is_the_one_to_continue_from():
    starts = LinearParams(jnp.array([2.0, 3.9]), jnp.array([6.0, 1.1]))
    result = sweep(loss, GUESS, DATA, steps=20, learning_rates=RATES, starts=starts)
    best = result.best
    assert best.index == np.unravel_index(np.argmin(result.losses), (3, 2))
    assert best.learning_rate == pytest.approx(RATES[best.index[0]])
    assert best.loss == result.losses[best.index].item()
    assert best.params.w == result.params.w[best.index]


# Where it runs.


def test_cores_change_nothing_but_rounding(monkeypatch):
    rates = np.geomspace(1e-4, 1e-1, 101)
    results = []
    for cores in (1, 2, 3):
        monkeypatch.setattr(engine, "cores", lambda _, cores=cores: cores)
        results.append(sweep(loss, GUESS, DATA, steps=20, learning_rates=rates))
    for other in results[1:]:
        np.testing.assert_allclose(other.losses, results[0].losses, rtol=1e-4)
        np.testing.assert_allclose(other.params.w, results[0].params.w, rtol=1e-5)


def test_an_equal_sweep_compiles_nothing():
    traces = []

    def counted(params: Any, x: Any, y: Any) -> Any:
        traces.append(1)
        return loss(params, x, y)

    sweep(counted, GUESS, DATA, steps=4, learning_rates=RATES)
    before = len(traces)
    sweep(counted, GUESS, DATA, steps=4, learning_rates=[0.3, 0.2, 0.1])
    assert len(traces) == before


MESH = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh
from jaxgrad import LinearParams, loss
from jaxgrad.sweeps import sweep
mesh = jax.make_mesh((jax.device_count(),), ("runs",))  # its axes are explicit
x = jnp.array([1.0, 2.0, 3.0])
guess = LinearParams(jnp.array(2.0), jnp.array(6.0))
for k in (3, 8, 41):
    rates = np.geomspace(1e-4, 1e-1, k)
    for record in ("last", "all"):
        options = dict(steps=10, learning_rates=rates, record=record)
        one, many = (sweep(loss, guess, (x, 4 * x + 1), **options, mesh=m) for m in (None, mesh))
        np.testing.assert_allclose(np.asarray(one.losses), np.asarray(many.losses), rtol=1e-5)
        np.testing.assert_allclose(np.asarray(one.params.w), np.asarray(many.params.w), rtol=1e-5)
        assert many.best.index == one.best.index
print(len(jax.devices()), "devices agree")
"""


def test_over_a_mesh_of_devices():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", MESH], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "4 devices agree\n", done.stderr


# Refusals.

TWO_STARTS = LinearParams(jnp.ones(2), jnp.ones(2))


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"learning_rates": None}, InputError, "got no learning_rates"),
        ({"learning_rates": []}, InputError, r"learning_rates has shape \[0\], expected \[k\]"),
        ({"learning_rates": 0.1}, InputError, r"learning_rates has shape \[\]"),
        ({"learning_rates": [0.1, -0.5]}, InputError, r"learning_rates\[1\] is -0.5, expected positive and finite"),
        ({"learning_rates": [0.1, 0.1, 0.0]}, InputError, r"learning_rates\[2\] is 0.0"),
        ({"learning_rates": [np.nan]}, InputError, r"learning_rates\[0\] is nan"),
        ({"learning_rates": [1.0, np.inf]}, InputError, r"learning_rates\[1\] is inf"),
        ({"learning_rates": [1e-60]}, InputError, r"learning_rates\[0\] is 1e-60"),  # zero in float32
        ({"learning_rates": ["a"]}, InputTypeError, "learning_rates is"),
        ({"steps": 0}, InputError, "steps is 0, expected a whole number from 1 on"),
        ({"steps": 1.5}, InputError, "steps is 1.5"),
        ({"record": "some"}, InputError, "record is 'some'"),
        ({"mesh": 2}, InputTypeError, "mesh is a int"),
        ({"optimizer": 0.1}, InputTypeError, "optimizer is 0.1, expected a function from a rate"),
        ({"optimizer": optax.sgd(0.1)}, InputError, "optimizer has its rate already"),
        ({"optimizer": lambda rate: rate}, InputTypeError, "expected an optax GradientTransformation"),
        ({"loss": 3}, InputTypeError, "loss is a int"),
        ({"loss": lambda p, x, y: p.w * x}, InputError, r"loss returned f32\[3\]"),
        ({"params": LinearParams(1, 2)}, InputTypeError, r"params\.w is i32\[\]"),
        ({"data": X}, InputTypeError, "batch is one array"),
        ({"starts": {"w": jnp.ones(2)}}, InputError, "expected|no leaf"),
        ({"starts": LinearParams(jnp.ones(2), jnp.ones(3))}, InputError, r"starts differs: starts\.w has 2, starts\.b"),
        ({"starts": LinearParams(jnp.ones((2, 1)), jnp.ones(2))}, InputError, r"a start\.w is f32\[1\], params\.w is"),
        ({"starts": GUESS}, InputError, r"starts\.w is f32\[\]; .*expected an axis of starts"),
        ({"starts": LinearParams(jnp.ones(0), jnp.ones(0))}, InputError, "0 starts"),
        ({"starts": LinearParams(jnp.arange(2), jnp.ones(2))}, InputTypeError, r"starts\.w is i32\[2\]"),
        ({"starts": TWO_STARTS, "paired": True}, InputError, "3 rates and 2 starts"),
        ({"paired": True}, InputError, "3 rates and no starts"),
    ],
)
def test_bad_input_is_refused_before_work(changes, kind, said):
    given: dict[str, Any] = {"loss": loss, "params": GUESS, "data": DATA, "steps": 2, "learning_rates": RATES}
    given |= changes
    with pytest.raises(kind, match=said) as caught:
        sweep(given.pop("loss"), given.pop("params"), given.pop("data"), **given)
    assert str(caught.value).startswith("sweep: ")
