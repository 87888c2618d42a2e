"""Losses that close over data: the same on both sides, or others, which is a difference of input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict

pytestmark = pytest.mark.usefixtures("torch")

SAME = (Verdict.IDENTICAL, Verdict.ROUNDING)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 5)).astype(np.float32)
Y = RNG.normal(size=(6, 3)).astype(np.float32)
LABELS = np.asarray([0, 2, 1, 1, 0, 2])


@pytest.fixture
def module(torch):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.GELU(), torch.nn.Linear(8, 3))


@pytest.fixture
def params(module):
    return {name: jnp.asarray(p.detach().numpy().copy()) for name, p in module.named_parameters()}


def outputs(p, x, approximate=False):
    h = jax.nn.gelu(x @ p["0.weight"].T + p["0.bias"][None], approximate=approximate)
    return h @ p["2.weight"].T + p["2.bias"][None]


def other(array, by):
    changed = array.copy()
    changed[4, 2] += by
    return changed


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("by", [0.0, 1e-4, 1.0])
def test_data_that_both_close_over(torch, module, params, by, turned):
    data = other(X, by).T.copy() if turned else other(X, by)

    def loss(p, y):
        return jnp.mean((outputs(p, data.T if turned else data) - y) ** 2)

    report = compare(
        TorchProgram(module, lambda m, y: ((m(torch.from_numpy(X)) - y) ** 2).mean()), JaxProgram(params, loss), [(Y,)]
    )
    if not by:
        assert report.verdict in SAME, str(report)
        return
    assert report.verdict is Verdict.DIFFERENT, str(report)
    first = report.first
    assert first.stage == "input"
    assert "1 of 30 differ" in first.message
    assert first.torch.file.endswith("test_closed_over.py")
    assert first.jax.file.endswith("test_closed_over.py")


@pytest.mark.parametrize("change", [0, 1])
def test_labels_that_both_close_over(torch, module, params, change):
    labels = LABELS.copy()
    labels[3] += change

    def loss(p, x):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs(p, x)), labels[:, None], 1))

    report = compare(
        TorchProgram(module, lambda m, x: torch.nn.functional.cross_entropy(m(x), torch.from_numpy(LABELS))),
        JaxProgram(params, loss),
        [(X,)],
    )
    assert report.verdict in ((Verdict.DIFFERENT,) if change else SAME), str(report)
    if change:
        assert report.first.stage == "input"
        assert "1 of 6 differ" in report.first.message


@pytest.mark.parametrize("by", [0.0, 0.1])
def test_another_fault_is_not_blamed_on_the_data(torch, module, params, by):
    """With torch's data in their place the loss is still another."""
    data = other(X, by)
    report = compare(
        TorchProgram(module, lambda m, y: ((m(torch.from_numpy(X)) - y) ** 2).mean()),
        JaxProgram(params, lambda p, y: jnp.mean((3 * outputs(p, data, approximate=True) - y) ** 2)),
        [(Y,)],
    )
    assert report.verdict is Verdict.DIFFERENT
    assert report.first.stage != "input", str(report)
