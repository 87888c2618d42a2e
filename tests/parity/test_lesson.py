from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgrad import LinearParams, Trace, Verdict, compare_lessons, run_lesson
from jaxgrad.frameworks import torch_autograd, torch_recorded, torch_sgd
from jaxgrad.parity.lesson import value_at
from jaxgrad.parity.lesson_rounding import expected
from jaxgrad.trace import AFTERWARDS, PER_STEP

F64 = np.float64


def f32(values: Any) -> np.ndarray:
    return np.asarray(values, np.float32)


def beside(trace: Trace, module=None) -> Trace:
    """Live torch from the same start, with the same update."""
    module = module or (torch_sgd if trace.update == "sgd" else torch_autograd)
    start = LinearParams(trace["guess.w"], trace["guess.b"])
    return module.run(start, trace["x"], trace["y"], trace.learning_rate, trace.steps)


def changed(trace: Trace, step: int, name: str, value) -> Trace:
    """A copy of the trace with one value replaced; ``step`` counts from 0."""
    values = dict(trace.values)
    if name in AFTERWARDS:
        values[name] = np.asarray(value, trace.dtype)
    else:
        values[name] = values[name].copy()
        values[name][step] = value
    return dataclasses.replace(trace, values=values)


def joined(first: Trace, rest: Trace) -> Trace:
    """One trace of the steps of both."""
    per_step = {name: np.concatenate([first[name], rest[name]]) for name in PER_STEP}
    return dataclasses.replace(first, values={**first.values, **per_step, **{name: rest[name] for name in AFTERWARDS}})


@pytest.fixture(scope="module")
def theirs() -> Trace:
    """torch's lesson, three steps; recorded, and held against live torch where that is tested."""
    return torch_recorded.run_like(run_lesson(steps=3, route="exact"))


@pytest.fixture(scope="module")
def ours() -> Trace:
    return run_lesson(steps=3, route="exact")


# What is the same.


@pytest.mark.parametrize("update", ["hand", "sgd"])
def test_identical_is_every_bit(torch, update):
    trace = run_lesson(steps=50, route="exact", update=update)
    compared = compare_lessons(trace, beside(trace))
    assert compared.verdict is Verdict.IDENTICAL
    assert compared.reason == "all 302 values have the same bits"  # 6 in each of 50 steps, 2 afterwards
    assert (compared.first, compared.differences, compared.steps_that_differ) == (None, (), ())
    assert compared.steps == 51
    assert 0 < compared.largest_units <= 1  # of torch itself, from float64


@pytest.mark.parametrize("route", ["functional", "jit", "optax"])
@pytest.mark.parametrize("n", [3, 100])
def test_rounding_is_what_the_other_routes_differ_by(torch, route, n):
    x, y = np.random.default_rng(n).standard_normal((2, n)).astype(np.float32)
    trace = run_lesson(x, y, steps=20, route=route)
    theirs = beside(trace)
    compared = compare_lessons(trace, theirs)
    assert compared.verdict is Verdict.ROUNDING
    assert compared.first == compared.differences[0]
    assert compared.first is not None
    assert compared.first.cause is not None
    assert not compared.first.carried
    assert f"{len(compared.differences)} of 122 values differ in bits" in compared.reason
    # The list is every value whose bits differ, in the order in which they were computed.
    places = [(t, name) for t in range(21) for name in (PER_STEP if t < 20 else AFTERWARDS)]
    differ = [
        (t, name) for t, name in places if value_at(trace, t, name).tobytes() != value_at(theirs, t, name).tobytes()
    ]
    assert [(one.step - 1, one.name) for one in compared.differences] == differ
    assert compared.steps_that_differ == tuple(sorted({t + 1 for t, _ in differ}))


def test_jit_of_the_lesson_first_differs_in_the_second_prediction_by_a_fused_multiply_add(torch):
    trace = run_lesson(steps=10, route="jit")
    first = compare_lessons(trace, beside(trace)).first
    assert first is not None
    assert (first.step, first.name, first.entries, first.carried) == (2, "Q", 1, False)
    assert first.units == pytest.approx(8 / 11.4, rel=1e-6)  # one bit of 11.4 is 2**-20, one unit is 11.4 * 2**-23
    assert first.cause is not None
    assert first.cause.code == "fused multiply-add"
    assert "0x1.6cccccp+3 torch's way, 0x1.6ccccep+3" in first.cause.evidence


def test_jit_of_one_step_differs_in_what_comes_again(torch):
    trace = run_lesson(route="jit")
    compared = compare_lessons(trace, beside(trace))
    assert [(one.step, one.name, one.carried) for one in compared.differences] == [
        (2, "Q again", False),
        (2, "loss again", False),
    ]
    assert compared.first is not None
    assert compared.first.cause is not None
    assert compared.first.cause.code == "fused multiply-add"


@pytest.mark.parametrize(("route", "module"), [("exact", torch_sgd), ("optax", torch_autograd)])
def test_the_other_update_is_rounding_too(torch, route, module):
    trace = run_lesson(steps=200, route=route)
    compared = compare_lessons(trace, beside(trace, module))
    assert compared.verdict is Verdict.ROUNDING
    if route == "exact":
        assert compared.first is not None
        assert compared.first.cause is not None
        assert compared.first.cause.code == "rounding of the update"


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("route", ["functional", "jit", "optax"])
def test_narrow_dtypes_are_compared_without_a_cause(torch, route, dtype):
    x, y = (jnp.asarray(v, dtype) for v in np.random.default_rng(1).standard_normal((2, 8)))
    trace = run_lesson(x, y, -0.5, 1.5, steps=4, route=route, learning_rate=0.03)
    compared = compare_lessons(trace, beside(trace))
    assert compared.verdict is Verdict.ROUNDING
    assert compared.first is not None
    assert compared.first.cause is None  # nothing is proven in these dtypes, so nothing is said


def test_float64_is_compared_in_float64(torch, x64):
    trace = run_lesson(*np.random.default_rng(1).standard_normal((2, 33)), steps=10, route="jit")
    compared = compare_lessons(trace, beside(trace))
    assert compared.verdict is Verdict.ROUNDING
    wrong = changed(trace, 4, "loss", trace["loss"][4] * (1 + 1e-13))
    assert compare_lessons(wrong, beside(trace)).verdict is Verdict.DIFFERENT


def test_a_guess_of_another_shape_is_the_same_lesson(torch):
    trace = run_lesson(w=f32([2.0]), b=6.0, route="exact", steps=5)
    theirs = torch_autograd.run(LinearParams(f32(2.0), f32([6.0])), trace["x"], trace["y"], 0.1, 5)
    assert compare_lessons(trace, theirs).verdict is Verdict.IDENTICAL
    trace = run_lesson(w=f32([2.0]), b=6.0, route="jit", steps=5)
    compared = compare_lessons(trace, theirs)
    assert compared.verdict is Verdict.ROUNDING
    assert compared.first is not None
    assert compared.first.cause is not None


# The smallest faults that must be caught, each as a whole wrong lesson.


def wrong_lesson(fault, steps=3):
    """The lesson in float32, rounded as torch rounds it, with one fault in every step."""
    trace = run_lesson(steps=steps, route="exact")
    x, y, third, rate = trace["x"], trace["y"], np.float32(1) / np.float32(3), np.float32(0.1)
    w, b = trace["guess.w"], trace["guess.b"]
    Q = loss = x
    seen, summed = [], (np.float32(0), np.float32(0))
    for t in range(steps + 1):
        Q = w * x if fault == "no intercept" else w * x + b
        if fault == "Q off by 4 units":
            Q = Q + np.float32(4 * 2.0**-23) * (np.abs(w * x) + np.abs(b))
        error = y - Q
        total = np.cumsum(error * error)[-1]  # one after the other, as torch adds three
        loss = total / np.float32({"sum for mean": 1, "mean over n - 1": 2, "half the loss": 6}.get(fault, 3))
        if t == steps:
            break
        slopes = third * (2 * error)
        factor = {"gradient of half the loss": 0.5, "gradient of the sum": 3.0, "gradient of the wrong sign": -1.0}
        grads = [np.float32(-factor.get(fault, 1.0)) * np.cumsum(terms)[-1] for terms in (slopes * x, slopes)]
        if fault == "gradients exchanged":
            grads = grads[::-1]
        summed = grads[0] + summed[0], grads[1] + summed[1]
        if fault == "gradients not reset":
            grads = summed
        by = {"rate off by 1e-3": rate * np.float32(1.001), "wrong sign": -rate}.get(fault, rate)
        if fault == "rate halved at the second step" and t:
            by = rate / 2
        decayed = w * np.float32(1 - 1e-4) if fault == "weight decay" else w
        w = decayed - by * grads[0]
        b = b if fault == "intercept not updated" else b - by * grads[1]
        seen.append((Q, loss, *grads, w, b))
    per_step = {name: np.stack(column) for name, column in zip(PER_STEP, zip(*seen, strict=True), strict=True)}
    return dataclasses.replace(trace, values={**trace.values, **per_step, "Q again": Q, "loss again": loss})


def test_the_lesson_without_a_fault_is_torchs(theirs):
    assert compare_lessons(wrong_lesson(None), theirs).verdict is Verdict.IDENTICAL


@pytest.mark.parametrize(
    ("fault", "name", "step"),
    [
        ("half the loss", "loss", 1),
        ("sum for mean", "loss", 1),
        ("mean over n - 1", "loss", 1),
        ("no intercept", "Q", 1),
        ("Q off by 4 units", "Q", 1),
        ("gradient of half the loss", "w.grad", 1),
        ("gradient of the sum", "w.grad", 1),
        ("gradient of the wrong sign", "w.grad", 1),
        ("gradients exchanged", "w.grad", 1),
        ("gradients not reset", "w.grad", 2),
        ("rate off by 1e-3", "w", 1),
        ("rate halved at the second step", "w", 2),
        ("wrong sign", "w", 1),
        ("weight decay", "w", 1),
        ("intercept not updated", "b", 1),
    ],
)
def test_a_planted_fault_is_caught_where_it_is(theirs, fault, name, step):
    compared = compare_lessons(wrong_lesson(fault), theirs)
    assert compared.verdict is Verdict.DIFFERENT
    assert compared.reason.startswith(f"JAX's {name} at step {step} is ")
    assert "rounding units from what its own parameters give in float64; rounding explains" in compared.reason
    assert compared.first is not None
    assert (compared.first.step, compared.first.name) == (step, name)


def test_a_fault_on_torchs_side_is_named_as_torchs(ours):
    compared = compare_lessons(ours, wrong_lesson("half the loss"))
    assert compared.verdict is Verdict.DIFFERENT
    assert compared.reason.startswith("torch's loss at step 1 is ")


def test_a_fault_on_both_sides_is_not_the_lesson(ours):
    compared = compare_lessons(wrong_lesson("half the loss"), wrong_lesson("half the loss"))
    assert compared.verdict is Verdict.DIFFERENT
    assert compared.differences == ()  # they agree with each other, and not with what they should compute


# One value, just inside and just outside of what rounding explains.

PLACES = [(step, name) for step in range(3) for name in PER_STEP] + [(3, name) for name in AFTERWARDS]


def gone_on(trace: Trace, step: int, name: str, value) -> Trace:
    """A copy of the trace with one value replaced, and what follows from it computed anew."""
    planted = changed(trace, step, name, value)
    if name.endswith("grad"):
        plain = name.removesuffix(".grad")
        before = trace.before(step)["wb".index(plain)]
        planted = changed(planted, step, plain, before - np.float32(trace.learning_rate) * planted[name][step])
    if step + 1 < trace.steps and name not in AFTERWARDS:
        cut = {one: planted[one][: step + 1] for one in PER_STEP}
        rest = run_lesson(w=planted["w"][step], b=planted["b"][step], steps=trace.steps - step - 1, route="exact")
        return joined(dataclasses.replace(planted, values={**planted.values, **cut}), rest)
    if name.split(".")[0] in ("w", "b"):
        rest = run_lesson(w=planted["w"][step], b=planted["b"][step], route="exact")
        again = {f"{one} again": rest[one][0] for one in ("Q", "loss")}
        return dataclasses.replace(planted, values={**planted.values, **again})
    return planted


@pytest.mark.parametrize("side", ["JAX", "torch"])
@pytest.mark.parametrize(("step", "name"), PLACES)
def test_the_bound_is_between_rounding_and_different(ours, theirs, side, step, name):
    traces = {"JAX": ours, "torch": theirs}
    should = expected(traces[side], step)[name]
    value = np.array(value_at(traces[side], step, name))
    exact, unit, last = (np.ravel(v)[-1] for v in (should.value, should.unit, value))
    away = -1 if last > exact else 1  # the side on which the bound is at least a unit off
    bound = exact + away * should.allowed * unit
    for beyond, verdict in ((-away, Verdict.ROUNDING), (away, Verdict.DIFFERENT)):
        # The float32 next to the bound, inside or outside of it, in the last entry.
        near = np.float32(bound)
        if (F64(near) > bound) != (beyond > 0):
            near = np.nextafter(near, np.float32(beyond * np.inf))
        value.reshape(-1)[-1] = near
        planted = traces | {side: gone_on(traces[side], step, name, value)}
        compared = compare_lessons(planted["JAX"], planted["torch"])
        assert compared.verdict is verdict
        assert compared.first is not None
        assert (compared.first.step, compared.first.name) == (step + 1, name)
        if verdict is Verdict.DIFFERENT:
            assert compared.reason.startswith(f"{side}'s {name} at step {step + 1} is ")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_on_one_side_is_different(ours, theirs, bad):
    compared = compare_lessons(changed(ours, 1, "Q", [1.0, bad, 2.0]), theirs)
    assert compared.verdict is Verdict.DIFFERENT
    assert compared.reason.startswith("JAX's Q at step 2 is inf rounding units from")
    assert compared.largest_units == np.inf


# Made and carried.


def test_an_error_that_is_carried_is_told_from_one_that_is_made(ours, theirs):
    # After the first step w is moved to its neighbour, which rounding explains; the rest follows from there.
    w = np.nextafter(ours["w"][0], np.float32(np.inf))
    moved = changed(run_lesson(route="exact"), 0, "w", w)
    other = joined(moved, run_lesson(w=w, b=ours["b"][0], steps=2, route="exact"))
    compared = compare_lessons(other, theirs)
    assert compared.verdict is Verdict.ROUNDING
    first, *rest = compared.differences
    assert (first.step, first.name, first.carried) == (1, "w", False)
    assert rest
    assert {one.carried for one in rest} == {True}
    assert compared.largest_units < 2
    assert {one.cause for one in rest} == {None}  # only the first is asked for


def test_an_error_far_off_that_is_carried_is_found_where_it_was_made(theirs):
    # The second step begins from other weights than the first one left: the first step's w is at fault.
    other = joined(run_lesson(route="exact"), run_lesson(w=1.0, b=5.0, steps=2, route="exact"))
    compared = compare_lessons(other, theirs)
    assert compared.verdict is Verdict.DIFFERENT
    assert compared.reason.startswith("JAX's Q at step 2 is ")
    assert compared.first is not None
    assert (compared.first.step, compared.first.name, compared.first.carried) == (2, "Q", False)


def test_difference_counts_entries_and_units_of_torch(ours, theirs):
    value = ours["Q"][0].copy()
    value[1:] = np.nextafter(value[1:], np.float32(np.inf))
    (one,) = compare_lessons(changed(ours, 0, "Q", value), theirs).differences
    assert (one.entries, one.jax.tolist(), one.torch.tolist()) == (2, value.tolist(), [8.0, 10.0, 12.0])
    assert one.units == pytest.approx(8 / 10, rel=1e-12)  # one bit of 10 is 2**-20, one unit 10 * 2**-23


def test_a_zero_of_the_other_sign_differs_in_bits(theirs):
    ours = run_lesson([1.0], [0.0], 0.0, 0.0, route="exact")
    torchs = changed(dataclasses.replace(ours, framework="torch"), 0, "w.grad", -0.0)
    compared = compare_lessons(ours, torchs)
    assert compared.verdict is Verdict.ROUNDING
    assert [(one.name, one.units) for one in compared.differences] == [("w.grad", 0.0)]


# What cannot be compared.


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (lambda: run_lesson(w=2.5, steps=3), r"the two lessons start from different guess\.w"),
        (lambda: run_lesson(b=[7.0], steps=3), r"the two lessons start from different guess\.b"),
        (lambda: run_lesson([1.0, 2.0, 4.0], [5.0, 9.0, 13.0], steps=3), "start from different x"),
        (lambda: run_lesson([1.0, 2.0, 3.0], [5.0, 9.0, 12.0], steps=3), "start from different y"),
        (lambda: run_lesson([1.0, 2.0], [5.0, 9.0], steps=3), "start from different x"),
        (lambda: run_lesson(w=[2.0, 2.0, 2.0], steps=3), r"start from different guess\.w"),
        (lambda: run_lesson(learning_rate=0.2 / 3, steps=3), r"JAX's learning rate is 0\.0666\d+, torch's 0\.1"),
        (lambda: run_lesson(steps=2), "JAX made 2 steps, torch 3"),
        (
            lambda: run_lesson(*(jnp.asarray(v, jnp.bfloat16) for v in ([1.0, 2.0, 3.0], [5.0, 9.0, 13.0])), steps=3),
            "JAX computed in bfloat16, torch in float32",
        ),
    ],
)
def test_another_start_is_different_by_what_differs(theirs, other, reason):
    compared = compare_lessons(other(), theirs)
    assert compared.verdict is Verdict.DIFFERENT
    assert re.search(reason, compared.reason)
    assert (compared.first, compared.differences, compared.steps) == (None, (), 0)


def test_values_that_are_not_finite_on_either_side_end_the_comparison(torch):
    x, y = f32([1.0, 2.0, 3.0]), f32([5.0, 9.0, 13.0])
    theirs = torch_autograd.run(LinearParams(f32(2.0), f32(6.0)), x, y, 10.0, 20)
    step = int(np.argmin(np.isfinite(theirs["loss"])))
    compared = compare_lessons(dataclasses.replace(theirs, framework="jax"), theirs)
    assert compared.verdict is Verdict.INCONCLUSIVE
    assert compared.reason.startswith(f"on both sides loss is not finite at step {step + 1}; what comes after it")
    assert compared.steps == step
    # A fault before that is still a fault.
    wrong = changed(dataclasses.replace(theirs, framework="jax"), 2, "loss", theirs["loss"][2] / 2)
    compared = compare_lessons(wrong, theirs)
    assert compared.verdict is Verdict.DIFFERENT
    assert compared.reason.startswith("JAX's loss at step 3 is ")


def test_value_at_takes_what_comes_again_without_a_step(ours):
    assert value_at(ours, 1, "loss") == ours["loss"][1]
    assert value_at(ours, 3, "loss again") == ours["loss again"]


@pytest.mark.parametrize(
    ("verdict", "code"),
    [(Verdict.IDENTICAL, 0), (Verdict.ROUNDING, 0), (Verdict.DIFFERENT, 1), (Verdict.INCONCLUSIVE, 3)],
)
def test_exit_codes_of_the_verdicts(verdict, code):
    assert verdict.exit_code == code
    assert "same computation" in verdict.value or code == 3
