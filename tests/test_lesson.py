from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgrad import DivergenceError, InputError, InputTypeError, LinearParams, lesson, run_lesson
from jaxgrad.frameworks import torch_autograd, torch_sgd
from jaxgrad.stability import largest_stable_rate
from jaxgrad.trace import AFTERWARDS, GIVEN, PER_STEP, hexes

ROUTES = ("functional", "jit", "optax", "exact")
EVERY_WAY = [("functional", None), ("jit", None), ("optax", None), ("exact", "hand"), ("exact", "sgd")]
every_way = pytest.mark.parametrize(("route", "update"), EVERY_WAY, ids=lambda given: given or "")
TORCH = {"hand": torch_autograd, "sgd": torch_sgd}


def f32(values: Any) -> np.ndarray:
    return np.asarray(values, np.float32)


def start(trace):
    return LinearParams(trace["guess.w"], trace["guess.b"])


def differing(ours, theirs):
    """For each value whose bits differ between two traces: in how many entries."""
    words = {name: f"u{ours[name].dtype.itemsize}" for name in ours}
    counts = {name: int((ours[name].view(word) != theirs[name].view(word)).sum()) for name, word in words.items()}
    return {name: count for name, count in counts.items() if count}


# The lesson's own numbers.

FIRST_STEP = {
    "Q": [["0x1p+3", "0x1.4p+3", "0x1.8p+3"]],
    "y": ["0x1.4p+2", "0x1.2p+3", "0x1.ap+3"],
    "loss": ["0x1.d55556p+1"],
    "w.grad": ["0x1.555558p+0"],
    "b.grad": ["0x1p+1"],
    "w": ["0x1.dddddep+0"],
    "b": ["0x1.733334p+2"],
}
AGAIN = {"Q again": ["0x1.eaaaacp+2", "0x1.311112p+3", "0x1.6cccccp+3"], "loss again": "0x1.a8c54p+1"}
AGAIN_FUSED = {"Q again": ["0x1.eaaaacp+2", "0x1.311112p+3", "0x1.6ccccep+3"], "loss again": "0x1.a8c538p+1"}


@every_way
def test_lesson_has_its_bits(route, update):
    trace = run_lesson(route=route, update=update)
    expected = FIRST_STEP | (AGAIN_FUSED if route == "jit" else AGAIN)
    assert {name: hexes(trace[name]) for name in expected} == expected


@pytest.mark.parametrize("update", TORCH)
def test_live_torch_has_the_same_bits(torch, update):
    trace = TORCH[update].run(LinearParams(f32([2.0]), f32([6.0])), *X_AND_Y, 0.1, 1)
    shown = {name: hexes(np.reshape(trace[name], np.shape(v))) for name, v in (FIRST_STEP | AGAIN).items()}
    assert shown == FIRST_STEP | AGAIN


X_AND_Y = f32([1.0, 2.0, 3.0]), f32([5.0, 9.0, 13.0])


@every_way
def test_loss_falls_at_every_step(route, update):
    trace = run_lesson(route=route, update=update, learning_rate=0.05, steps=30)
    losses = np.append(trace["loss"], trace["loss again"])
    assert (np.diff(losses) < 0).all()


# The exact route is torch, bit for bit.


@pytest.mark.parametrize("update", TORCH)
def test_exact_route_is_torch_for_1000_steps_of_the_lesson(torch, update):
    ours = run_lesson(route="exact", update=update, steps=1000)
    theirs = TORCH[update].run(start(ours), ours["x"], ours["y"], 0.1, 1000)
    assert differing(ours, theirs) == {}


@pytest.fixture(scope="module")
def order(torch):
    return torch_autograd.sum_order()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 50, 100, 1_000, 10_000])
@pytest.mark.parametrize("update", TORCH)
def test_exact_route_is_torch_for_1000_steps_of_random_data(torch, order, update, n):
    random = np.random.default_rng(n)
    x = (3 * random.standard_normal(n)).astype(np.float32)
    y = (4 * x + 1 + random.standard_normal(n)).astype(np.float32)
    rate = random.uniform(0.1, 0.9) * largest_stable_rate(x, LinearParams(2.0, 6.0))
    ours = run_lesson(x, y, learning_rate=rate, steps=1000, route="exact", update=update, sum_order=order)
    theirs = TORCH[update].run(start(ours), x, y, rate, 1000)
    assert differing(ours, theirs) == {}


def test_exact_route_follows_torchs_threads_in_long_data(torch, order):
    random = np.random.default_rng(0)
    x, y = random.standard_normal((2, 40_000)).astype(np.float32)
    ours = run_lesson(x, y, route="exact", steps=5, sum_order=order)
    assert differing(ours, torch_autograd.run(start(ours), x, y, 0.1, 5)) == {}
    other = order._replace(threads=1 if order.threads > 1 else 2)
    assert "loss" in differing(ours, run_lesson(x, y, route="exact", steps=5, sum_order=other))


@pytest.mark.parametrize("update", TORCH)
def test_exact_route_is_torch_in_float64(torch, x64, update):
    x, y = np.random.default_rng(0).standard_normal((2, 100))
    ours = run_lesson(x, y, route="exact", update=update, steps=200)
    assert ours.dtype == np.float64
    assert differing(ours, TORCH[update].run(start(ours), x, y, 0.1, 200)) == {}


@pytest.mark.parametrize("update", TORCH)
@pytest.mark.parametrize("guess", [-0.0, np.full(1, -0.0, np.float32)], ids=["number", "array"])
def test_exact_route_keeps_torchs_zeros(torch, update, guess):
    ours = run_lesson([0.0, 0.0], [-0.0, 0.0], guess, guess, route="exact", update=update, steps=3)
    theirs = TORCH[update].run(start(ours), ours["x"], ours["y"], 0.1, 3)
    assert differing(ours, theirs) == {}


@pytest.mark.parametrize("route", ["functional", "jit", "optax"])
def test_other_routes_are_not_torch_bit_for_bit(torch, route):
    # The twin of the tests above: they must be able to fail.
    ours = run_lesson(route=route, steps=100)
    assert differing(ours, TORCH[ours.update].run(start(ours), *X_AND_Y, 0.1, 100))


# The routes are the same mathematics.


def test_routes_agree_in_float64(x64):
    x, y = np.random.default_rng(0).standard_normal((2, 3))
    plain, *others = (run_lesson(x, y, -1.0, 0.5, steps=20, route=route, update=update) for route, update in EVERY_WAY)
    for other in others:
        for name in plain:
            scale = np.abs(x).max() + np.abs(y).max() + 2  # the size of what is added on the way to any value
            np.testing.assert_allclose(other[name], plain[name], rtol=0, atol=1e-12 * scale**2, err_msg=name)


def test_a_wrong_rate_is_seen_in_float64(x64):
    # The twin of the test above: a rate that is off by 1e-10 of itself is outside its bound.
    one, other = (run_lesson(learning_rate=rate, steps=20) for rate in (0.1, 0.1 * (1 + 1e-10)))
    assert np.abs(one["w"] - other["w"]).max() > 1e-12 * (3 + 13 + 2) ** 2 / 100
    assert np.abs(one["w"] - other["w"]).max() > 1e-12


@pytest.mark.parametrize("update", TORCH)
def test_float64_is_torchs_float64(torch, x64, update):
    ours = run_lesson(route="optax" if update == "sgd" else "functional", steps=20)
    theirs = TORCH[update].run(start(ours), ours["x"], ours["y"], 0.1, 20)
    assert theirs.dtype == np.float64
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-12, atol=0, err_msg=name)


# What a trace of it holds.


@pytest.mark.parametrize("shape", [(3,), (2, 4)], ids=str)
@pytest.mark.parametrize("route", ROUTES)
def test_trace_has_the_shapes_of_the_data_and_the_step_first(route, shape):
    x, y = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    trace = run_lesson(x, y, f32([2.0]), 6.0, steps=4, route=route, learning_rate=0.01)
    shapes = {name: trace[name].shape for name in trace}
    assert shapes == {
        **{"x": shape, "y": shape, "guess.w": (1,), "guess.b": ()},
        **{"Q": (4, *shape), "loss": (4,), "w.grad": (4, 1), "b.grad": (4,), "w": (4, 1), "b": (4,)},
        **{"Q again": shape, "loss again": ()},
    }
    assert {trace[name].dtype for name in trace} == {np.dtype(np.float32)}
    assert (trace.steps, trace.route, trace.device) == (4, route, "cpu")
    assert trace.framework == f"jax {jax.__version__}"
    assert trace.learning_rate == 0.01


@pytest.mark.parametrize("route", ROUTES)
def test_each_step_begins_where_the_last_one_ended(route):
    whole = run_lesson(steps=3, route=route)
    for t in (1, 2):
        rest = run_lesson(w=whole["w"][t - 1], b=whole["b"][t - 1], steps=3 - t, route=route)
        for name in PER_STEP:
            assert np.array_equal(rest[name], whole[name][t:])
        for name in AFTERWARDS:
            assert np.array_equal(rest[name], whole[name])


@pytest.mark.parametrize("route", ROUTES)
def test_trace_names_the_line_behind_each_value(route):
    lines = run_lesson(route=route).lines
    assert set(lines) == {*PER_STEP, *AFTERWARDS}
    assert "grad" in lines["w.grad"].code
    assert "x" in lines["Q"].code
    assert ("total" if route == "exact" else "mean") in lines["loss"].code
    assert ("apply_updates" if route == "optax" else "leaf - ") in lines["w"].code
    assert all((lines[name].file.split("/")[0], lines[name].line > 0) == ("jaxgrad", True) for name in lines)


@pytest.mark.parametrize(("w", "b"), [((), (1,)), ((1,), (3,)), ((3,), ()), ((3,), (3,))], ids=str)
def test_parameters_of_any_shape_follow_torch(torch, w, b):
    guess = np.full(w, 2.0, np.float32), np.full(b, 6.0, np.float32)
    ours = run_lesson(*X_AND_Y, *guess, route="exact", steps=20)
    assert differing(ours, torch_autograd.run(start(ours), *X_AND_Y, 0.1, 20)) == {}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("route", ["functional", "jit", "optax"])
def test_narrow_dtypes_stay_narrow(route, dtype):
    x, y = (jnp.asarray(value, dtype) for value in X_AND_Y)
    trace = run_lesson(x, y, route=route, steps=5)
    assert {trace[name].dtype for name in trace} == {np.dtype(dtype)}
    assert trace["loss again"] < trace["loss"][0]
    assert trace["Q"][0].tolist() == [8.0, 10.0, 12.0]  # exact in either


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_exact_route_refuses_narrow_dtypes(dtype):
    x, y = (jnp.asarray(value, dtype) for value in X_AND_Y)
    with pytest.raises(
        InputTypeError, match=r'exact\.linear: x is b?f16\[3\].*expected float32 or float64.*"functional"'
    ):
        run_lesson(x, y, route="exact")


def test_whole_numbers_are_taken_as_floats():
    plain = run_lesson()
    for x, y in (([1, 2, 3], [5, 9, 13]), (np.array([1, 2, 3]), np.array([5, 9, 13], np.int8))):
        assert differing(run_lesson(x, y, 2, 6), plain) == {}


def test_an_array_decides_the_dtype_of_numbers(x64):
    trace = run_lesson(f32([1.0, 2.0, 3.0]), [1, 2.5, 4], 0.1, np.float32(0.25), route="jit")
    assert {trace[name].dtype for name in trace} == {np.dtype(np.float32)}
    assert run_lesson([1.0, 2.0, 3.0], [1.0, 2.5, 4.0], 0.1, route="jit").dtype == np.float64


def test_a_second_lesson_of_the_same_shape_compiles_nothing(caplog):
    def run():
        for route in ("jit", "exact"):
            run_lesson(w=1.0, route=route, steps=2)

    run()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        run()
        assert [r.message for r in caplog.records if "ompil" in r.message] == []
        run_lesson(np.ones(19, np.float32), np.ones(19, np.float32), route="jit")  # a new shape: the count can fail
        assert any("ompil" in r.message for r in caplog.records)


def test_compile_ahead_leaves_less_to_compile(caplog):
    def compiled(points):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            run_lesson([1.0] * points, [2.0] * points)
        return sum("Finished XLA compilation" in record.message for record in caplog.records)

    compiled(20)  # what does not depend on the number of points
    alone = compiled(21)
    lesson.compile_ahead(22)
    assert compiled(22) < alone


def test_the_learning_rate_may_be_any_scalar():
    plain = run_lesson(learning_rate=0.25)
    rates: list[Any] = [np.float32(0.25), np.float64(0.25), jnp.float32(0.25), np.array(0.25)]
    for rate in rates:
        trace = run_lesson(learning_rate=rate)
        assert differing(trace, plain) == {}
        assert type(trace.learning_rate) is float
    count: Any = np.int64(2)
    assert run_lesson(steps=count).steps == 2


@pytest.mark.parametrize(
    ("route", "update", "recorded"),
    [
        *[("functional", None, "hand"), ("functional", "hand", "hand"), ("jit", None, "hand"), ("jit", "hand", "hand")],
        *[("optax", None, "sgd"), ("optax", "sgd", "sgd"), ("exact", None, "hand"), ("exact", "sgd", "sgd")],
    ],
)
def test_each_route_records_the_update_it_made(route, update, recorded):
    assert run_lesson(route=route, update=update).update == recorded


# What cannot be run.


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"learning_rate": 0},
            InputError,
            r"run_lesson: learning_rate is 0, expected a positive and finite.*such as 0\.1",
        ),
        ({"learning_rate": -0.1}, InputError, r"learning_rate is -0\.1, expected a positive"),
        ({"learning_rate": float("nan")}, InputError, "learning_rate is nan, expected a positive and finite"),
        ({"learning_rate": float("inf")}, InputError, "learning_rate is inf, expected a positive and finite"),
        (
            {"learning_rate": "0.1"},
            InputTypeError,
            r"learning_rate is '0\.1', expected a positive number\. Pass a float",
        ),
        ({"learning_rate": True}, InputTypeError, "learning_rate is True, expected a positive number"),
        ({"learning_rate": np.full(2, 0.1)}, InputError, r"learning_rate is array.*, expected one positive number"),
        ({"steps": 0}, InputError, r"run_lesson: steps is 0, expected at least 1\. Pass steps=1"),
        ({"steps": -3}, InputError, "steps is -3, expected at least 1"),
        ({"steps": 2.0}, InputTypeError, r"steps is 2\.0, expected a whole number\. Pass steps=1 or more"),
        ({"steps": True}, InputTypeError, "steps is True, expected a whole number"),
        ({"steps": "2"}, InputTypeError, "steps is '2', expected a whole number"),
        ({"route": "eager"}, InputError, r"route is 'eager', expected one of functional, jit, optax, exact\."),
        ({"route": None}, InputError, "route is None, expected one of functional"),
        ({"update": "sgd"}, InputError, r"update is 'sgd' and route 'functional' has hand.*Leave.*route=\"exact\""),
        ({"update": "sgd", "route": "jit"}, InputError, "update is 'sgd' and route 'jit' has hand"),
        ({"update": "hand", "route": "optax"}, InputError, "update is 'hand' and route 'optax' has sgd"),
        ({"update": "adam", "route": "exact"}, InputError, "update is 'adam' and route 'exact' has hand and sgd"),
    ],
)
def test_bad_options_are_named(options, kind, message):
    with pytest.raises(kind, match=message):
        run_lesson(**options)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ({"x": [1.0]}, InputError, r"run_lesson: got one of x and y, expected both or neither\. Pass the truth y"),
        ({"y": [1.0]}, InputError, "got one of x and y"),
        ({"x": [], "y": []}, InputError, r"x is f32\[0\] and y is f32\[0\], expected equal shapes with at least one"),
        ({"x": [1.0, 2.0], "y": [1.0]}, InputError, r"x is f32\[2\] and y is f32\[1\], expected equal.*Pass one truth"),
        ({"x": [[1.0], [2.0]], "y": [1.0, 2.0]}, InputError, r"x is f32\[2,1\] and y is f32\[2\]"),
        ({"x": [1.0, np.nan], "y": [1.0, 2.0]}, InputError, r"x\[1\] is nan, expected finite.*float32.*Remove or mend"),
        ({"x": [[1.0, 2.0]], "y": [[1.0, -np.inf]]}, InputError, r"y\[0, 1\] is -inf, expected finite numbers"),
        ({"w": np.inf}, InputError, "run_lesson: w is inf, expected finite numbers in float32"),
        ({"b": f32([np.nan])}, InputError, r"b\[0\] is nan, expected finite"),
        ({"x": [1e39], "y": [1.0]}, InputError, r"x\[0\] is 1e\+39, expected finite numbers in float32"),
        (
            {"x": f32([1, 2]), "y": np.array([1, 2], np.float16)},
            InputTypeError,
            r"x is f32\[2\], y is f16\[2\]; expected one dtype.*ast",
        ),
        (
            {"w": jnp.float32(1), "b": jnp.bfloat16(1)},
            InputTypeError,
            r"w is f32\[\], b is bf16\[\]; expected one dtype",
        ),
        (
            {"w": np.array([2])},
            InputTypeError,
            r"w is i32\[1\], expected floating, since.*Pass w\.astype\(jnp\.float32\)",
        ),
        ({"b": np.int64(6)}, InputTypeError, r"b is i32\[\], expected floating"),
        ({"x": [1j], "y": [1.0]}, InputTypeError, r"x is complex\d+, expected real numbers\. Pass floats"),
        ({"x": [True], "y": [1.0]}, InputTypeError, "x is bool, expected real numbers"),
        (
            {"x": ["one"], "y": [1.0]},
            InputTypeError,
            r"x is \['one'\], expected numbers or an array.*Pass a list of floats",
        ),
        (
            {"x": [[1.0], [1.0, 2.0]], "y": [1.0]},
            InputTypeError,
            r"x is \[\[1\.0\], \[1\.0, 2\.0\]\], expected numbers",
        ),
        ({"w": object()}, InputTypeError, "w is <object.*expected numbers or an array"),
        (
            {"w": f32([1, 2])},
            InputError,
            r"params\.w is f32\[2\] and x is f32\[3\], expected one entry in w or the shape of x",
        ),
    ],
)
def test_bad_data_is_named(data, kind, message):
    with pytest.raises(kind, match=message):
        run_lesson(**data)


@pytest.mark.parametrize("route", ROUTES)
def test_a_run_that_gets_away_names_the_step_and_the_largest_stable_rate(torch, route):
    stable = largest_stable_rate([1.0, 2.0, 3.0], LinearParams(2.0, 6.0))
    with pytest.raises(
        DivergenceError, match=r"diverges at step \d+: a value is no longer finite; learning rate 10 "
    ) as e:
        run_lesson(learning_rate=10.0, steps=100, route=route)
    assert e.value.largest_stable_rate == stable
    assert f"the largest stable one is {stable:.6g}. Pass a smaller one" in str(e.value)
    # torch, which goes on, is finite in all steps before it and in none from it on.
    theirs = torch_autograd.run(LinearParams(f32(2.0), f32(6.0)), *X_AND_Y, 10.0, 20)
    finite = [all(np.isfinite(theirs[name][t]).all() for name in PER_STEP) for t in range(20)]
    assert finite == [t + 1 < e.value.step for t in range(20)]


@pytest.mark.parametrize("route", ROUTES)
def test_a_run_that_gets_away_in_its_last_update_is_refused(route):
    with pytest.raises(
        DivergenceError, match="at step 1: the loss after it is no longer finite; learning rate 1e"
    ) as e:
        run_lesson([1.0], [0.0], 1e10, 0.0, learning_rate=1e10, route=route)
    assert e.value.step == 1
    stays = run_lesson([1.0], [0.0], 1e10, 0.0, learning_rate=1e5, route=route)
    assert np.isfinite(stays["loss again"])


def test_a_value_that_overflows_below_the_stable_rate_is_told_apart():
    message = (
        r"at step 1: .*learning rate 1e-42 is below the largest stable one, .*overflowed its dtype\. Scale the data"
    )
    with pytest.raises(DivergenceError, match=message) as e:
        run_lesson([1e20], [1.0], learning_rate=1e-42)
    assert e.value.largest_stable_rate == pytest.approx(1e-40, rel=1e-12)


def test_nothing_of_the_given_is_changed():
    x, y = (value.copy() for value in X_AND_Y)
    trace = run_lesson(x, y, steps=2)
    assert np.array_equal(x, X_AND_Y[0])
    assert np.array_equal(y, X_AND_Y[1])
    x[0] = 7
    assert [trace[name].tolist() for name in GIVEN] == [[1.0, 2.0, 3.0], [5.0, 9.0, 13.0], 2.0, 6.0]
