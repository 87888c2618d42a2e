from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs torch, which is run live beside JAX")

import torch
from support.optimizers import OPTIONS, drawn

from jaxgrad.torch_optim.measure import SAME, translation
from jaxgrad.torch_optim.naive import IN_FLOAT32
from jaxgrad.torch_optim.specs import checked


@pytest.mark.parametrize("name", OPTIONS)
def test_a_reason_is_given_where_stock_optax_differs_and_nowhere_else(name):
    for seed in range(1 if name == "Muon" else 2):  # whose many sizes are each compiled
        options = checked(name, drawn(name, seed))
        found = translation(name, options, torch)
        given = [reason for reason in found.reasons if reason != IN_FLOAT32]
        assert (found.naive_measured.difference > SAME) == bool(given), (options, found.naive_measured, found.reasons)
        assert name == "Muon" or found.exact.difference <= SAME, (options, found.exact)
