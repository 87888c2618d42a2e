"""Many fingerprints held against one give what each gives alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxgrad.parity.fingerprints import FEW, Stack, agree, fingerprint


@settings(max_examples=200, deadline=None)
@given(
    size=st.sampled_from([1, 2, 6, FEW, FEW + 2, 300]),
    times=st.sampled_from([1, 2, 3]),
    tiled=st.booleans(),
    seed=st.integers(0, 10**6),
    reach=st.sampled_from([0.0, 1e-13, 1e-9, 1e-3]),
)
def test_one_against_many(size, times, tiled, seed, reach):
    draw = np.random.default_rng(seed)
    one = draw.normal(size=size) * (seed % 5 > 0)  # all zeros now and then
    moved = [one, one[::-1], one * (1 + 1e-12), one * (1 + 1e-6), one + 0.5 * reach, -one, np.sort(one) * 2, one * 0]
    if seed % 7 == 0:
        moved.append(np.where(np.arange(size) == 0, np.inf, one))
    a = fingerprint(np.tile(one, times) if tiled else one)
    others = [fingerprint(each if tiled else np.tile(each, times)) for each in moved]
    distances = reach * draw.uniform(0.5, 2, len(others))
    assert list(Stack(others).agree(a, slice(None), distances)) == [
        agree(a, b, d) for b, d in zip(others, distances, strict=True)
    ]


@pytest.mark.parametrize("size", [FEW, FEW + 1])
def test_sizes_that_do_not_fit(size):
    a, b = fingerprint(np.arange(size) + 1.0), fingerprint(np.arange(size + 1) + 1.0)
    assert not Stack([b, b]).agree(a, slice(0, 2), np.ones(2)).any()
