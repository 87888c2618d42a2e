from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgrad import LinearParams, Verdict, compare_lessons, loss, run_lesson
from jaxgrad.exact import SumOrder
from jaxgrad.frameworks import torch_autograd, torch_sgd
from jaxgrad.lesson import lesson_step, operations
from jaxgrad.parity.lesson_rounding import Expected, expected
from jaxgrad.trace import AFTERWARDS, PER_STEP, Trace


def f32(values: Any) -> Any:
    return np.asarray(values, np.float32)


def f64(values: Any) -> Any:
    return np.asarray(values, np.float64)


def beside(trace: Trace) -> Trace:
    """Live torch from the same start, with the same update."""
    module = torch_sgd if trace.update == "sgd" else torch_autograd
    start = LinearParams(trace["guess.w"], trace["guess.b"])
    return module.run(start, trace["x"], trace["y"], trace.learning_rate, trace.steps)


# The value: what mathematics says.


@pytest.mark.parametrize("n", [1, 3, 100])
def test_expected_values_are_torchs_in_float64(torch, n):
    x, y, guess = (f32(v) for v in (*np.random.default_rng(n).standard_normal((2, n)), [2.5]))
    trace = run_lesson(x, y, guess, guess)
    wide = torch_autograd.run(LinearParams(*map(f64, (guess, guess))), f64(x), f64(y), float(np.float32(0.1)), 1)
    scale = 1 + (np.abs(x).max() + 1) * (np.abs(y).max() + 2.5 * np.abs(x).max() + 2.5) ** 2
    found = expected(trace, 0)
    for name in ("Q", "loss", "w.grad", "b.grad"):
        np.testing.assert_allclose(found[name].value, wide[name][0], rtol=0, atol=1e-12 * scale, err_msg=name)
    # An update is judged from the gradient that was recorded, so that the gradient's error is not counted twice.
    for name in "wb":
        grad = f64(trace[f"{name}.grad"][0])
        np.testing.assert_allclose(found[name].value, 2.5 - f64(np.float32(0.1)) * grad, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("w", [(), (1,), (4,), (2, 4), (2, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("b", [(), (4,)], ids=str)
def test_expected_gradients_are_those_of_jax_for_any_parameter(x64, w, b):
    random = np.random.default_rng(0)
    x, y, w, b = (random.standard_normal(shape) for shape in ((2, 4), (2, 4), w, b))
    trace = run_lesson(x, y, w, b)
    found, grads = expected(trace, 0), jax.grad(loss)(LinearParams(*map(jnp.asarray, (w, b))), x, y)
    for name, grad in (("w.grad", grads.w), ("b.grad", grads.b)):
        assert found[name].value.shape == found[name].unit.shape == grad.shape
        np.testing.assert_allclose(found[name].value, grad, rtol=0, atol=1e-12 * 10)


def test_names_are_those_of_the_step():
    trace = run_lesson(steps=2)
    assert set(expected(trace, 0)) == set(expected(trace, 1)) == set(PER_STEP)
    assert set(expected(trace, 2)) == set(AFTERWARDS)


def test_each_step_is_expected_from_the_parameters_before_it():
    trace = run_lesson(steps=3)
    for step in (1, 2):
        alone = run_lesson(w=trace["w"][step - 1], b=trace["b"][step - 1])
        for name, value in expected(alone, 0).items():
            assert np.array_equal(value.value, expected(trace, step)[name].value)


# The unit: what one rounding can do.


def test_a_unit_is_the_size_of_the_operands_not_of_the_result():
    # 1000 * 1 - 999.5 - 0.5 is zero; what is rounded on the way is not.
    trace = run_lesson([1.0], [0.5], 1000.0, -999.5)
    found = expected(trace, 0)
    eps = 2.0**-23
    assert found["Q"].value == 0.5
    assert found["Q"].unit == pytest.approx(eps * 1999.5, rel=1e-12)
    assert found["w.grad"].value == 0.0
    assert found["w.grad"].unit == pytest.approx(eps * 2 * 2000, rel=1e-12)


@pytest.mark.parametrize(("dtype", "eps"), [(jnp.float32, 2.0**-23), (jnp.bfloat16, 2.0**-7), (jnp.float16, 2.0**-10)])
def test_a_unit_follows_the_dtype(dtype, eps):
    x, y = (jnp.asarray(v, dtype) for v in ([1.0, 2.0, 3.0], [5.0, 9.0, 13.0]))
    tiny = float(jnp.finfo(dtype).tiny)
    np.testing.assert_allclose(expected(run_lesson(x, y), 0)["Q"].unit, eps * f64([8, 10, 12]) + tiny, rtol=1e-12)


def test_units_of_a_difference():
    one = Expected(value=f64([1.0, 2.0]), unit=f64([0.5, 0.25]), allowed=1)
    assert one.units(f64([0.0, 0.0])) == 0
    assert one.units(f64([-1.0, 0.25])) == 2  # the largest entry
    assert one.units(f64([0.25, -1.0])) == 4
    assert one.units(f64([np.nan, 0.0])) == one.units(f64([0.0, -np.inf])) == np.inf
    assert Expected(f64(0.0), f64(0.0), 1).units(f64(0.0)) == 0  # zero is no error, also without a scale
    assert Expected(f64(0.0), f64(0.0), 1).units(f64(1e-300)) > 1


# 1,000 lessons, one step each, beside live torch.
#
# Derived: Q is off by at most 1 unit on either side (a rounded product and a rounded sum), and so is an update seen
# from its own gradient; so two sides part by at most 2. For the loss and the gradients 2 units are what a sum of
# random terms keeps, whose rounding errors cancel on the average; how far the worst terms go is tested below.

LENGTHS = (1, 2, 3, 5, 8, 17, 33, 64, 100, 257, 1000)
BOUND = 2


def random_lessons(count: int, decades: float):
    random = np.random.default_rng(0)
    for k in range(count):
        n = LENGTHS[k % len(LENGTHS)]
        of_x, of_y, of_w, of_b = 10 ** random.uniform(-decades, decades, 4)
        x, y = (
            (of_x * random.standard_normal(n)).astype(np.float32),
            (of_y * random.standard_normal(n)).astype(np.float32),
        )
        start = LinearParams(*(f32(scale * random.standard_normal()) for scale in (of_w, of_b)))
        yield start, x, y, 10 ** random.uniform(-5, -1)


@pytest.fixture(scope="module")
def steps_of_each_route():
    steps = {route: partial(lesson_step, operations(route, "hand", SumOrder())) for route in ("functional", "jit")}
    return steps | {"jit": jax.jit(steps["jit"])}


def first_steps(steps, count, decades):
    """Each lesson's first step in torch, what was expected of it, and the same step in each route."""
    for start, x, y, rate in random_lessons(count, decades):
        theirs = torch_autograd.run(start, x, y, rate, 1)
        ours = {
            route: dict(zip(PER_STEP, jax.device_get(step(start, None, x, y, rate)[2]), strict=True))
            for route, step in steps.items()
        }
        yield theirs, expected(theirs, 0), ours


def apart(ours: Mapping[Any, Any], theirs: Trace, should: dict[str, Expected]) -> dict[str, float]:
    """How far the two sides part in the first step, in torch's rounding units."""
    return {name: should[name].units(f64(ours[name]) - f64(theirs[name][0])) for name in PER_STEP}


def parted_in_update(ours: Mapping[Any, Any], theirs: Trace, should: dict[str, Expected]) -> dict[str, float]:
    """The same for the update alone, each side's seen from the gradient that it had."""
    rate = f64(np.float32(theirs.learning_rate))
    brought = {name: rate * (f64(theirs[f"{name}.grad"][0]) - f64(ours[f"{name}.grad"])) for name in "wb"}
    return {name: should[name].units(f64(ours[name]) - f64(theirs[name][0]) - brought[name]) for name in "wb"}


def test_1000_random_lessons_part_from_torch_by_at_most_two_units(torch, steps_of_each_route):
    largest, differing = defaultdict(float), Counter()
    for theirs, should, ours in first_steps(steps_of_each_route, 1000, decades=0):
        for route, values in ours.items():
            units = apart(values, theirs, should)
            differing[route] += any(units.values())
            for name, parted in (units | parted_in_update(values, theirs, should)).items():
                largest[route, name] = max(largest[route, name], parted)
    assert len(largest) == 2 * len(PER_STEP)
    assert max(largest.values()) <= BOUND, dict(largest)
    assert min(differing.values()) > 500  # most of them do differ: the bound is about something


def test_lessons_from_a_thousandth_to_a_thousand_part_from_torch_by_rounding_only(torch, steps_of_each_route):
    # Terms of so many sizes leave one or few that count, and their errors need not cancel: the gradients keep to
    # what each side's additions explain, the rest keeps to its 2 units.
    largest = defaultdict(float)
    for theirs, should, ours in first_steps(steps_of_each_route, 165, decades=3):
        for values in ours.values():
            for name, parted in (apart(values, theirs, should) | parted_in_update(values, theirs, should)).items():
                bound = 2 * should[name].allowed if name.endswith("grad") else BOUND
                largest[name] = max(largest[name], parted / bound)
    assert max(largest.values()) <= 1, dict(largest)


@pytest.mark.parametrize("route", ["functional", "jit"])
def test_equal_terms_part_by_more_than_two_units_and_the_order_of_the_sum_is_why(torch, route):
    # 1,000 equal terms: the rounding errors of a sum all have one sign, so they add up, and not to the same in two
    # orders. Each side stays far within what its additions explain; with torch's order nothing is left of it.
    zeros = np.zeros(1000, np.float32)
    ours = run_lesson(zeros, zeros, 1.0, 1.7457628, route=route)
    theirs = beside(ours)
    should = expected(theirs, 0)
    assert (
        BOUND
        < should["b.grad"].units(f64(ours["b.grad"][0]) - f64(theirs["b.grad"][0]))
        < should["b.grad"].allowed / 10
    )
    compared = compare_lessons(ours, theirs)
    assert compared.verdict is Verdict.ROUNDING
    assert compared.first is not None
    assert compared.first.cause is not None
    assert "order of the sum" in compared.first.cause.code
    exact = run_lesson(zeros, zeros, 1.0, 1.7457628, route="exact")
    assert all(exact[name].tobytes() == theirs[name].tobytes() for name in exact)


def test_weights_part_by_many_units_where_the_gradient_brings_it(torch):
    # b is zero and so is its gradient, in mathematics; in float32 it is what rounding left of the sum of terms of
    # size 1. Seen from its gradient each side's b is right; the two gradients part by no more than rounding.
    x = np.arange(1, 10, dtype=np.float32) / np.float32(10) - np.float32(0.5)
    ours = run_lesson(x, np.zeros(9, np.float32), 1.0, 0.0)
    theirs = beside(ours)
    first, should = {name: ours[name][0] for name in PER_STEP}, expected(theirs, 0)
    assert apart(first, theirs, should)["b.grad"] <= BOUND
    assert apart(first, theirs, should)["b"] > 1e5
    assert parted_in_update(first, theirs, should)["b"] <= BOUND
    assert compare_lessons(ours, theirs).verdict is Verdict.ROUNDING


def test_near_the_minimum_a_correct_lesson_is_far_off_relatively_and_not_in_units(torch):
    ours = run_lesson(steps=1000, route="jit")
    theirs = beside(ours)
    one, other = f64(ours["w.grad"]), f64(theirs["w.grad"])
    last = int(np.argmax(np.abs(one - other) / (np.abs(other) + 1e-30)))
    assert abs(one[last] - other[last]) >= abs(other[last])  # not one digit of the gradient is the same
    assert expected(theirs, last)["w.grad"].units(one[last] - other[last]) < 10


@pytest.mark.parametrize(("route", "update"), [("functional", None), ("jit", None), ("optax", None), ("exact", "sgd")])
def test_no_step_of_a_long_run_leaves_what_rounding_explains(torch, route, update):
    x, y = np.random.default_rng(7).standard_normal((2, 8)).astype(np.float32)
    ours = run_lesson(x, y, 30.0, -20.0, steps=200, route=route, update=update)
    for trace in (ours, beside(ours)):
        for step in range(trace.steps + 1):
            for name, value in expected(trace, step).items():
                found = trace[name] if name in AFTERWARDS else trace[name][step]
                assert value.units(f64(found) - value.value) <= value.allowed


@pytest.mark.parametrize("n", [1, 3, 1000])
def test_what_is_allowed_is_half_a_unit_for_each_rounding(n):
    allowed = {name: value.allowed for name, value in expected(run_lesson(np.ones(n), np.ones(n)), 0).items()}
    assert allowed["Q"] == allowed["w"] == allowed["b"] == 1  # a product and a sum
    # n - 1 additions in the worst order, and up to 17 roundings before and after.
    assert allowed["loss"] == allowed["w.grad"] == allowed["b.grad"] == (n - 1 + 17) / 2


def test_what_is_allowed_is_not_too_much():
    # A relative error of 1e-4 in any value of the lesson's first step is outside.
    for name, value in expected(run_lesson(), 0).items():
        assert value.units(1e-4 * f64(value.value)) > value.allowed, name
