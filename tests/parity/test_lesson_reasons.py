from __future__ import annotations

import dataclasses
from collections import Counter
from fractions import Fraction
from itertools import combinations
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgrad import LinearParams, Trace, compare_lessons, run_lesson
from jaxgrad.exact import SumOrder
from jaxgrad.frameworks import torch_autograd, torch_recorded, torch_sgd
from jaxgrad.parity.lesson import value_at
from jaxgrad.parity.lesson_reasons import DIVISION, EXPLANATIONS, FUSED, ORDER, UPDATE, explain
from jaxgrad.trace import hexes

F32 = np.float32


def beside(trace: Trace) -> Trace:
    """Live torch from the same start, with the same update."""
    module = torch_sgd if trace.update == "sgd" else torch_autograd
    start = LinearParams(trace["guess.w"], trace["guess.b"])
    return module.run(start, trace["x"], trace["y"], trace.learning_rate, trace.steps)


# Every value once more, with nothing of jaxgrad: torch's sum by torch, XLA's by jnp.sum, what is rounded once in
# whole numbers, and the rest in NumPy, which rounds each operation.


def rounded_once(a, b, c) -> np.float32:
    """``a * b + c`` in fractions, then the nearest float32 (of normal numbers), ties to even."""
    value = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if value == 0:
        return F32(0)
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    last = Fraction(2) ** (exponent - (Fraction(2) ** exponent > abs(value)) - 23)
    return F32(round(value / last) * float(last))


def chain(a, b, start: int) -> np.float32:
    """The sum of ``a * b``, each product fused into the sum so far; ``start`` is the product that is rounded first."""
    order = [start, *(k for k in range(len(a)) if k != start)]
    total = a[start] * b[start]
    for k in order[1:]:
        total = rounded_once(a[k], b[k], total)
    return total


def predictions(fused, w, b, x):
    yield np.array([rounded_once(w, each, b) for each in x]) if fused else w * x + b


def sums(torch, reasons, a, b):
    """The sum of products in every way that the reasons allow."""
    terms = a * b
    yield np.asarray(jnp.sum(jnp.asarray(terms))) if ORDER in reasons else torch.tensor(terms).sum().numpy()
    if FUSED in reasons:  # in one row of up to 32, XLA adds one after the other
        yield from (chain(a, b, start) for start in range(min(2, len(a))))


def recomputed(torch, reasons, trace: Trace, step: int, name: str):
    """What the value can be, from the operands of the trace, if each of the reasons applies and no other."""
    x, y = trace["x"], trace["y"]
    w, b = (np.reshape(value, ())[()] for value in trace.before(step))
    n, rate = F32(len(x)), F32(trace.learning_rate)
    plain = name.removesuffix(" again")
    if plain == "Q":
        yield from predictions(FUSED in reasons, w, b, x)
    elif plain in "wb":
        before, grad = {"w": w, "b": b}[plain], trace[f"{plain}.grad"][step]
        once = (UPDATE in reasons) != (trace.update == "sgd")
        yield rounded_once(-rate, grad, before) if once else before - rate * grad
    else:
        for fused in {False, FUSED in reasons}:
            for Q in predictions(fused, w, b, x):
                error = y - Q
                if plain == "loss":
                    for total in sums(torch, reasons, error, error):
                        yield total * (F32(1) / n) if DIVISION in reasons else total / n
                else:
                    share = np.full_like(x, F32(1) / n)
                    slopes = share * (F32(-2) * error)
                    yield from (
                        sums(torch, reasons, slopes, x)
                        if plain == "w.grad"
                        else sums(torch, reasons, share, F32(-2) * error)
                    )


def lessons(count, lengths):
    random = np.random.default_rng(3)
    for k in range(count):
        n = lengths[k % len(lengths)]
        x, y = random.standard_normal((2, n)).astype(F32)
        w, b = random.standard_normal(2)
        yield x, y, float(F32(w)), float(F32(b)), 10 ** random.uniform(-3, -1)


POSSIBLE = {
    "functional": {DIVISION, ORDER},
    "optax": {DIVISION, ORDER, UPDATE},
    "jit": {DIVISION, ORDER, UPDATE, FUSED},
}


@pytest.mark.parametrize(("route", "count"), [("functional", 60), ("jit", 90), ("optax", 60)])
def test_every_first_difference_has_a_cause_and_each_cause_is_true(torch, route, count):
    found, missing = Counter(), []
    for x, y, w, b, rate in lessons(count, (1, 2, 3, 5, 9, 32)):
        ours = run_lesson(x, y, w, b, learning_rate=rate, route=route)
        theirs = beside(ours)
        first = compare_lessons(ours, theirs).first
        if first is None:
            continue
        if first.cause is None:
            missing.append((len(x), first.name))
            continue
        reasons = set(first.cause.code.split(" + "))
        found[first.cause.code] += 1
        assert reasons <= POSSIBLE[route]
        step = first.step - 1

        def reached(some, value, step=step, name=first.name, theirs=theirs):
            made = recomputed(torch, set(some), theirs, step, name)
            return any(np.asarray(each, F32).tobytes() == value.tobytes() for each in made)

        assert reached((), first.torch), "torch's value is not torch's rounding"
        assert reached(reasons, first.jax), f"{first.cause} does not give JAX's value"
        fewer = [some for size in range(len(reasons)) for some in combinations(sorted(reasons), size)]
        if reasons != {ORDER, FUSED}:  # no program fuses products into a sum in torch's order
            assert not any(reached(some, first.jax) for some in fewer), f"{first.cause} says more than is needed"
    assert missing == []
    assert sum(found.values()) > count // 3
    named = {reason for code in found for reason in code.split(" + ")}
    assert named >= POSSIBLE[route] - {UPDATE}, found  # the update is seldom the first to differ; it has a test below


@pytest.mark.parametrize("route", ["functional", "jit"])
@pytest.mark.parametrize(
    ("of_x", "of_w", "of_b"),
    [
        ((33,), (), ()),
        ((1000,), (), (1,)),
        ((9,), (9,), (9,)),
        ((9,), (9,), ()),
        ((2, 2), (), ()),
        ((2, 3), (1,), (1,)),
    ],
)
def test_long_and_shaped_lessons_have_their_causes_too(torch, route, of_x, of_w, of_b):
    random, differing = np.random.default_rng(5), 0
    for _ in range(8):
        x, y = random.standard_normal((2, *of_x)).astype(F32)
        w, b = (random.standard_normal(shape).astype(F32) for shape in (of_w, of_b))
        ours = run_lesson(x, y, w, b, learning_rate=0.01, steps=3, route=route)
        first = compare_lessons(ours, beside(ours)).first
        if first is not None:
            assert first.cause is not None
            differing += 1
    assert differing > 0


def test_a_gradient_entry_by_entry_differs_by_the_fused_prediction_it_came_from(torch):
    x, y, w, b = np.random.default_rng(0).standard_normal((4, 9)).astype(F32)
    ours = run_lesson(x, y, w, b, route="jit")
    theirs = beside(ours)
    for name, factor in (("w.grad", x), ("b.grad", 1)):
        fused = np.array([rounded_once(*each) for each in zip(w, x, b, strict=True)])
        assert ours[name][0].tobytes() == (F32(1) / F32(9) * (F32(-2) * (y - fused)) * factor).tobytes()
        cause = explain(ours, theirs, 0, name, SumOrder())
        assert cause is not None
        assert cause.code == FUSED


def test_float64_has_its_causes_too(torch, x64):
    for route in ("functional", "jit"):
        for n in (3,):
            x, y = np.random.default_rng(n).standard_normal((2, n))
            ours = run_lesson(x, y, 0.7, -0.3, steps=5, route=route)
            first = compare_lessons(ours, beside(ours)).first
            assert first is not None
            assert first.cause is not None
            assert set(first.cause.code.split(" + ")) <= POSSIBLE[route]


# Squares, in a compiled loss.


def test_a_fused_sum_of_two_squares_has_its_cause(torch):
    # The sum of squares has no negative zero to keep, so XLA starts it from the second square and fuses the first.
    random, fused = np.random.default_rng(0), 0
    for _ in range(60):
        x, y = random.standard_normal((2, 2)).astype(F32)
        ours = run_lesson(x, y, 1.0, 0.0, route="jit")
        theirs = beside(ours)
        assert ours["Q"].tobytes() == theirs["Q"].tobytes()  # 1 * x + 0 is exact either way
        e = y - x
        if ours["loss"].tobytes() != theirs["loss"].tobytes():
            assert ours["loss"][0] == rounded_once(e[0], e[0], e[1] * e[1]) / 2
            cause = explain(ours, theirs, 0, "loss", SumOrder())
            assert cause is not None
            assert cause.code == FUSED
            fused += 1
    assert fused > 5


# What is said, and what is not.


@pytest.fixture(scope="module")
def pair():
    ours = run_lesson(steps=2, route="jit")
    return ours, torch_recorded.run_like(ours)


def with_value(trace: Trace, step: int, name: str, value) -> Trace:
    values = {**trace.values, name: trace[name].copy()}
    values[name][step] = value
    return dataclasses.replace(trace, values=values)


def test_a_cause_shows_both_values_at_the_first_entry_that_differs(pair):
    ours, theirs = pair
    cause = explain(ours, theirs, 1, "Q", SumOrder())
    assert cause is not None
    assert (cause.code, cause.explanation) == (FUSED, EXPLANATIONS[FUSED])
    assert cause.evidence == (
        f"Q computed again from the same operands: {hexes(theirs['Q'][1, 2])} torch's way, "
        f"{hexes(ours['Q'][1, 2])} with this changed"
    )


def test_several_causes_are_all_explained(torch):
    random = np.random.default_rng(0)
    for _ in range(50):
        x, y = random.standard_normal((2, 5)).astype(F32)
        ours = run_lesson(x, y, 1.0, 0.0)
        cause = explain(ours, beside(ours), 0, "loss", SumOrder())
        if cause is not None and cause.code == f"{DIVISION} + {ORDER}":
            assert cause.explanation == f"{EXPLANATIONS[DIVISION]}; {EXPLANATIONS[ORDER]}"
            return
    pytest.fail("no lesson of 50 needed both")


@pytest.mark.parametrize(("name", "step"), [("Q", 0), ("loss", 0), ("w.grad", 1), ("b.grad", 1), ("w", 1), ("b", 0)])
def test_no_cause_is_invented_for_a_value_that_is_wrong(pair, name, step):
    ours, theirs = pair
    wrong = with_value(ours, step, name, value_at(theirs, step, name) * F32(1.001))
    assert explain(wrong, theirs, step, name, SumOrder()) is None


@pytest.mark.parametrize(("name", "step"), [("Q", 1), ("loss", 1), ("w.grad", 1), ("b.grad", 1), ("w", 1), ("b", 1)])
def test_no_cause_is_named_where_torch_does_not_round_as_it_is_known_to(pair, name, step):
    ours, theirs = pair
    other = with_value(theirs, step, name, np.nextafter(value_at(theirs, step, name), F32(np.inf)))
    assert explain(ours, theirs, step, "Q", SumOrder()) is not None
    assert explain(ours, other, step, name, SumOrder()) is None


def test_op_by_op_nothing_is_said_to_be_fused(pair):
    # The very values that a compiled lesson has, in a trace that says that it ran op by op.
    ours, theirs = pair
    assert explain(ours, theirs, 1, "Q", SumOrder()) is not None
    assert explain(dataclasses.replace(ours, route="functional"), theirs, 1, "Q", SumOrder()) is None


def test_the_order_of_the_sum_decides_what_torchs_way_is(torch):
    x, y = np.random.default_rng(0).standard_normal((2, 1000)).astype(F32)
    ours = run_lesson(x, y)
    theirs = beside(ours)
    assert explain(ours, theirs, 0, "w.grad", SumOrder()) is not None
    assert explain(ours, theirs, 0, "w.grad", SumOrder(vector_bytes=16)) is None  # not this torch


def test_the_other_update_is_proven_in_both_directions(torch):
    random = np.random.default_rng(0)
    x, y = random.standard_normal((2, 3)).astype(F32)
    others: list[tuple[Any, Any]] = [("hand", torch_sgd), ("sgd", torch_autograd)]
    for ours, module in others:
        trace = run_lesson(x, y, steps=40, route="exact", update=ours)
        theirs = module.run(LinearParams(trace["guess.w"], trace["guess.b"]), x, y, 0.1, 40)
        first = compare_lessons(trace, theirs).first
        assert first is not None
        assert first.name in ("w", "b")
        assert first.cause is not None
        assert first.cause.code == UPDATE


def test_nothing_is_proven_for_narrow_dtypes():
    x, y = (jnp.asarray(value, jnp.bfloat16) for value in ([1.0, 2.0, 3.0], [5.0, 9.0, 13.0]))
    trace = run_lesson(x, y)
    assert explain(trace, trace, 0, "Q", SumOrder()) is None


def test_a_parameter_for_each_row_is_not_explained_by_guessing(torch):
    x, y = np.random.default_rng(1).standard_normal((2, 4, 3)).astype(F32)
    ours = run_lesson(x, y, np.ones((4, 1), F32), 0.5, steps=2, learning_rate=0.01)
    theirs = beside(ours)
    # The gradient of such a parameter is a sum over part of the axes, whose order in torch is not reproduced.
    assert explain(ours, theirs, 0, "w.grad", SumOrder()) is None
