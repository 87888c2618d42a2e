"""What float64 cannot tell either: chaos, matrices of lower rank, large numbers that cancel. And what it still can."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict

DRAW = np.random.default_rng(0)
REGULAR = DRAW.normal(size=(4, 4)).astype(np.float32)
RANK_TWO = (REGULAR[:, :2] @ DRAW.normal(size=(2, 4)).astype(np.float32)).astype(np.float32)
X = np.asarray([1.0, 2.0, 3.0], np.float32)


def verdict(torch, given, ours, theirs):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(given))

    report = compare(
        TorchProgram(Net(), lambda m, x: ours(m.w, x)),
        JaxProgram({"w": jnp.asarray(given)}, lambda p, x: theirs(p["w"], x)),
        [(X,)],
    )
    return report.verdict, str(report)


def logistic_map(sigmoid, steps, start=0.0):
    def loss(w, x):
        v = sigmoid(w) + start
        for _ in range(steps):
            v = 3.99 * v * (1 - v)
        return (v * x).sum()

    return loss


@pytest.mark.parametrize(
    ("steps", "start", "expected"),
    [
        (10, 0.0, Verdict.ROUNDING),
        (10, 1e-6, Verdict.DIFFERENT),
        (25, 1e-6, Verdict.DIFFERENT),
        (60, 0.0, Verdict.INCONCLUSIVE),
        (60, 1e-6, Verdict.INCONCLUSIVE),
    ],
)
def test_a_chaotic_map(torch, steps, start, expected):
    def other_order(w, x):
        v = jax.nn.sigmoid(w) + start
        for _ in range(steps):
            v = (3.99 * (1 - v)) * v
        return (v * x).sum()

    given = np.asarray([0.1, 0.2, 0.3], np.float32)
    found, said = verdict(torch, given, logistic_map(torch.sigmoid, steps), other_order)
    assert found is expected, said


@pytest.mark.parametrize(
    ("given", "factor", "expected"),
    [
        (REGULAR, 1.0, Verdict.ROUNDING),
        (REGULAR, 1.00001, Verdict.DIFFERENT),
        (RANK_TWO, 1.0, Verdict.INCONCLUSIVE),
    ],
)
def test_a_condition_number(torch, given, factor, expected):
    found, said = verdict(torch, given, lambda w, x: torch.linalg.cond(w), lambda w, x: factor * jnp.linalg.cond(w))
    assert found is expected, said


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.0, {Verdict.ROUNDING, Verdict.IDENTICAL}), (1.001, {Verdict.DIFFERENT})]
)
def test_numbers_above_what_stands_for_infinity_that_cancel(torch, factor, expected):
    """What they lose by cancelling is measured for them as for any."""
    given = np.asarray([0.1, 0.2, 0.3], np.float32)

    def cancelled(w, x, exp, order):
        big = 3e8 * exp(w)
        steps = (big, x, w) if order else (w, x, big)
        total = (steps[0] + steps[1]) + steps[2]
        return ((total - big) * w).sum() * (1.0 if order else factor)

    found, said = verdict(
        torch,
        given,
        lambda w, x: cancelled(w, x, torch.exp, True),
        lambda w, x: cancelled(w, x, jnp.exp, False),
    )
    assert found in expected, said
