"""A leaf of the batch that torch's loss depends on and the port's does not: by value, not by what is read."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict

pytestmark = pytest.mark.usefixtures("torch")

SAME = (Verdict.IDENTICAL, Verdict.ROUNDING)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 5, 6)).astype(np.float32)
LENGTHS = np.asarray([5, 3, 4, 2])
MASK = (np.arange(5)[None] < LENGTHS[:, None]).astype(np.float32)
OTHER = np.asarray([5.0, 3.0, 2.0, 7.0], np.float32)


@pytest.fixture
def module(torch):
    torch.manual_seed(0)
    return torch.nn.Linear(6, 3)


@pytest.fixture
def params(module):
    return {name: jnp.asarray(p.detach().numpy().copy()) for name, p in module.named_parameters()}


def squares(p, x):
    return jnp.mean((x @ p["weight"].T + p["bias"][None, None]) ** 2, -1)


def masked(m, x, mask, *rest):
    """The mean square of the rows that a mask leaves."""
    return ((m(x) ** 2).mean(-1) * mask).sum() / mask.sum()


def port(p, x, mask, *rest):
    return jnp.sum(squares(p, x) * mask) / jnp.sum(mask)


def ignoring(p, x, mask, other=None):
    """All rows, whatever the mask; of the other leaf no more than one is read."""
    return jnp.mean(squares(p, x)) * (1 if other is None else jnp.mean(other / other))


ONES = np.ones((4, 5), np.float32)
# Rows that are nothing but copies of each other: a mask of some of them leaves the mean as it is.
ALIKE = np.broadcast_to(X[:1, :1], X.shape).copy()


@pytest.mark.parametrize("others", [(), (OTHER,)], ids=["nothing else", "another leaf is read"])
@pytest.mark.parametrize("kind", [np.float32, np.int32, bool])
def test_a_mask_that_is_ignored_is_a_difference_of_input(module, params, others, kind):
    """Also where both losses are the same on this batch."""
    batch = (ALIKE, MASK.astype(kind), *others)
    wrong = compare(TorchProgram(module, masked), JaxProgram(params, ignoring), [batch])
    assert wrong.verdict is Verdict.DIFFERENT, str(wrong)
    assert wrong.first.stage == "input"
    assert "torch's loss depends on batch[1], and JAX's does not" in wrong.first.message
    right = compare(TorchProgram(module, masked), JaxProgram(params, port), [batch])
    assert right.verdict in SAME, str(right)
    assert not right.notes or "depends" not in str(right.notes)


def test_a_mask_that_is_read_without_an_effect_is_ignored_too(module, params):
    def loss(p, x, mask):
        return jnp.mean(squares(p, x) * jnp.where(mask > -1, 1, 0))

    report = compare(TorchProgram(module, masked), JaxProgram(params, loss), [(ALIKE, MASK)])
    assert report.first.stage == "input", str(report)


def test_a_mask_of_ones_that_is_ignored_is_told_in_a_note(module, params):
    report = compare(TorchProgram(module, masked), JaxProgram(params, ignoring), [(X, ONES)])
    assert report.verdict in SAME, str(report)
    told = [note for note in report.notes if "batch[1]" in note]
    assert "All its entries are 1.0 in this batch" in told[0]
    assert "says nothing of others" in told[0]


def test_a_leaf_that_is_read_without_an_effect_does_not_stand_for_the_mask(module, params):
    report = compare(TorchProgram(module, masked), JaxProgram(params, ignoring), [(X, ONES, OTHER)])
    assert report.verdict is Verdict.INCONCLUSIVE, str(report)
    assert "JAX reads batch[2] instead, which does not change its loss" in report.reason


# --- two ways to say the same thing -----------------------------------------------------------------------------------


def from_lengths(m, x, lengths, other):
    import torch

    rows = torch.arange(5)[None] < lengths[:, None]
    return (m(x) ** 2).mean(-1)[rows].mean()


SAID = {
    "mask": (MASK, lambda other: other),
    "additive mask": (np.where(MASK > 0, 0, -1e9).astype(np.float32), lambda other: (other > -1).astype(jnp.float32)),
    "padding": (MASK == 0, lambda other: 1.0 - other),
}


@pytest.mark.parametrize("said", SAID)
def test_lengths_in_torch_and_what_is_made_of_them_in_jax(module, params, said):
    other, mask_of = SAID[said]
    right = compare(
        TorchProgram(module, from_lengths),
        JaxProgram(params, lambda p, x, lengths, other: port(p, x, mask_of(other))),
        [(X, LENGTHS, other)],
    )
    assert right.verdict in SAME, str(right)
    assert any("two ways to say the same thing" in note for note in right.notes), right.notes


def test_a_leaf_that_says_something_else_is_not_taken_for_the_same(module, params):
    """It has an effect of its own, and none on this batch."""
    report = compare(
        TorchProgram(module, masked),
        JaxProgram(params, lambda p, x, mask, other: ignoring(p, x, mask) * jnp.max(other)),
        [(ALIKE, MASK, np.asarray([1, 0, 1, 0], np.float32))],
    )
    assert report.verdict is Verdict.INCONCLUSIVE, str(report)
    assert "cannot be told" in report.reason


# --- what an operation is given and does not use ----------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_statistics_that_batch_norm_is_given_and_only_updates_are_no_input(torch, module, params, training):
    mean, var = RNG.normal(size=3).astype(np.float32), RNG.random(3).astype(np.float32) + 0.5

    def torch_loss(m, x, mean, var):
        return (torch.nn.functional.batch_norm(m(x), mean, var, training=training) ** 3).mean()

    def loss(p, x, mean, var):
        h = x @ p["weight"].T + p["bias"][None]
        mean, var = (h.mean(0), h.var(0)) if training else (mean, var)
        return jnp.mean(((h - mean[None]) / jnp.sqrt(var + 1e-5)[None]) ** 3)

    report = compare(TorchProgram(module, torch_loss), JaxProgram(params, loss), [(X[:, 0], mean, var)])
    assert report.verdict in SAME, str(report)
    assert not [note for note in report.notes if "depends" in note]


def test_statistics_that_instance_norm_is_given_and_only_updates_are_no_input(torch, module, params):
    mean, var = np.zeros(4, np.float32), np.ones(4, np.float32)

    def torch_loss(m, x, mean, var):
        return ((torch.nn.functional.instance_norm(m(x), mean, var, use_input_stats=True) - 0.5) ** 3).mean()

    def loss(p, x, mean, var):
        h = x @ p["weight"].T + p["bias"][None, None, None]
        centred = h - h.mean((2, 3), keepdims=True)
        return jnp.mean((centred / jnp.sqrt(h.var((2, 3), keepdims=True) + 1e-5) - 0.5) ** 3)

    x = RNG.normal(size=(2, 4, 5, 6)).astype(np.float32)
    report = compare(TorchProgram(module, torch_loss), JaxProgram(params, loss), [(x, mean, var)])
    assert report.verdict in SAME, str(report)
