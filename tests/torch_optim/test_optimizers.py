from __future__ import annotations

import os

import jax
import pytest

pytest.importorskip("torch", reason="needs torch, which is run live beside JAX")

import numpy as np
import torch
from support.optimizers import OPTIONS, PROBLEMS, apart, drawn, freely, model, run_torch, step_by_step

from jaxgrad import optax_from_torch

CASES = int(os.environ.get("JAXGRAD_OPTIMIZER_CASES", "3"))
"""How many random option sets of each optimizer are tried; set it higher to look further."""

FEW_UNITS = 24
"""So many float32 units of the largest parameter may one step differ: of a momentum buffer ten times larger, two."""


def _made(name, seed, dtype):
    module, loss = model(PROBLEMS[seed % 3], seed, dtype, matrices=name == "Muon")
    optimizer = getattr(torch.optim, name)(module.parameters(), **drawn(name, seed))
    return module, loss, optimizer, optax_from_torch(optimizer)


@pytest.mark.parametrize("seed", range(CASES))
@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "Muon"])
def test_given_the_same_gradients_the_steps_are_torchs(name, seed):
    with jax.enable_x64(True):
        module, loss, optimizer, ours = _made(name, seed, torch.float64)
        run = run_torch(module, loss, optimizer)
        difference = apart(freely(ours, run), run)
    assert difference <= 1e-12, f"{name}({drawn(name, seed)}), seed {seed}, {PROBLEMS[seed % 3]}: {difference:.2g}"


@pytest.mark.parametrize("seed", range(CASES))
@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "Muon"])
def test_in_float32_each_step_is_torchs_to_a_few_rounding_units(name, seed):
    module, loss, optimizer, ours = _made(name, seed, torch.float32)
    run = run_torch(module, loss, optimizer)
    units = apart(step_by_step(ours, run), run) / np.finfo(np.float32).eps
    assert units <= FEW_UNITS, f"{name}({drawn(name, seed)}), seed {seed}, {PROBLEMS[seed % 3]}: {units:.2g} units"


@pytest.mark.parametrize("seed", range(CASES))
def test_muon_is_torchs_but_for_single_bfloat16_units(seed):
    with jax.enable_x64(True):
        module, loss, optimizer, ours = _made("Muon", seed, torch.float64)
        options = drawn("Muon", seed)
        run = run_torch(module, loss, optimizer)
        rows = step_by_step(ours, run)
    exact = 0
    for mine, after in zip(rows, run.params[1:], strict=True):
        for a, b in zip(mine, after, strict=True):
            error = np.abs(a - b) / np.abs(b).max()
            exact += error.max() < 1e-12
            # A unit of bfloat16 of an entry of at most two, times the rate and its adjustment.
            longest = np.sqrt(max(b.shape))
            assert np.abs(a - b).max() <= 2**-6 * options["lr"] * longest, (options, error.max())
    assert exact >= 0.9 * len(rows) * len(run.params[0]), (options, exact)
