"""Correct ports, written by hand and otherwise than torch: no false alarm, and the module is given back."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from support.porting import torch
from support.ports import PORTS

from jaxgrad import compare
from jaxgrad.report.values import Report, Verdict

CORRECT = [(name, "") for name in PORTS] + [(name, change) for name, port in PORTS.items() for change in port.same]
CASES = [pytest.param(name, change, id=f"{name}, {change}" if change else name) for name, change in CORRECT]


def _state(module: Any) -> dict[str, Any]:
    found: dict[str, Any] = {f"mode of {name}": each.training for name, each in module.named_modules()}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        found[name] = (tensor.detach().cpu().resolve_conj().clone(), tensor.requires_grad, tensor.grad, id(tensor))
    for name, each in module.named_modules():
        found[f"hooks of {name}"] = [len(each._forward_hooks), len(each._forward_pre_hooks), len(each._backward_hooks)]
    return found


@cache
def _compared(name: str, change: str) -> tuple[Report, dict[str, Any], dict[str, Any]]:
    ours, theirs, batches = PORTS[name](change)
    before = _state(ours.module)
    report = compare(ours, theirs, batches)
    return report, before, _state(ours.module)


@pytest.mark.parametrize(("name", "change"), CASES)
def test_a_correct_port_is_not_called_different(name, change):
    report, _, _ = _compared(name, change)
    assert report.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING), str(report)
    assert report.first is None
    report.raise_if_different()


@pytest.mark.parametrize(("name", "change"), CASES)
def test_what_is_not_found_in_a_correct_port_is_listed_as_internal(name, change):
    report, _, _ = _compared(name, change)
    assert set(report.coverage) == {"forward", "backward"}
    # Half of what torch computes is a low bar: fused operations and other formulas hide some values of small programs.
    assert 0.5 <= report.coverage["forward"] <= 1.0
    assert 0.0 < report.coverage["backward"] <= 1.0
    assert bool(report.internal) == (min(report.coverage.values()) < 1.0)


@pytest.mark.parametrize(("name", "change"), CASES)
def test_the_module_is_given_back_as_it_was(name, change):
    _, before, after = _compared(name, change)
    assert before.keys() == after.keys()
    for key, was in before.items():
        now = after[key]
        if not isinstance(was, tuple):
            assert now == was, key
            continue
        assert was[0].dtype == now[0].dtype, key
        assert torch.equal(was[0], now[0]), key
        assert was[1:] == now[1:], key


@pytest.mark.parametrize("name", ["lesson", "batch_norm_tracked", "autoencoder_trained"])
def test_comparing_again_says_the_same(name):
    programs = PORTS[name]()
    first, second = compare(*programs), compare(*programs)
    assert first.to_data() == second.to_data()


def test_float32_differences_of_a_correct_port_are_a_few_rounding_units():
    # Its largest sum is over 8 products and its longest chain of operations is 11 long, forward and backward together,
    # each at most half a unit off on either side.
    report, _, _ = _compared("classifier", "")
    assert report.rounding is not None
    assert report.rounding.units < 8 * 11


def test_a_copy_that_the_loss_does_not_read_is_told_in_a_note():
    report, _, _ = _compared("autoencoder", "copied")
    assert any("encoder.weight" in note and "decoder.weight" in note for note in report.notes), report.notes


def test_a_merged_bias_is_told_in_a_note():
    report, _, _ = _compared("lstm_merged_bias", "")
    assert any("bias_ih" in note and "bias_hh" in note for note in report.notes), report.notes


def test_leaves_that_begin_equal_are_told_in_a_note():
    report, _, _ = _compared("residual", "")
    assert any("equal entries" in note for note in report.notes), report.notes


def test_gradients_that_say_nothing_are_told_in_a_note():
    report, _, _ = _compared("residual_behind_zeros", "")
    assert any("blocks.0.up.weight" in note and "says nothing" in note for note in report.notes), report.notes


def test_the_losses_of_each_step_are_reported_as_the_programs_compute_them():
    ours, theirs, batches = PORTS["autoencoder_trained"]()
    report, _, _ = _compared("autoencoder_trained", "")
    assert report.steps == len(report.losses) == len(batches) == 2
    assert report.losses[0][0] == float(ours.loss(ours.module, *map(torch.tensor, batches[0])).detach())
    with jax.disable_jit():  # operation by operation, as the comparison runs it
        assert report.losses[0][1] == float(theirs.loss(theirs.params, *map(jnp.asarray, batches[0])))
    assert report.losses[1] != report.losses[0]
