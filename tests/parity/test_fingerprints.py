from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxgrad.parity.fingerprints import FEW, agree, fingerprint, separation

SIZES = (1, 2, 7, FEW, FEW + 1, 1000, 30_000)


def drawn(size, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(size=size) * scale


@pytest.mark.parametrize("size", SIZES)
def test_the_order_of_entries_does_not_matter(size):
    x = drawn(size)
    shuffled = np.random.default_rng(1).permutation(x)
    assert agree(fingerprint(x), fingerprint(shuffled), 1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e6])
def test_one_entry_moved_by_a_thousandth_is_seen(size, scale):
    x = drawn(size, scale=scale)
    moved = x.copy()
    moved[size // 2] += 1e-3 * scale
    assert not agree(fingerprint(x), fingerprint(moved), 1e-12 * scale)


@pytest.mark.parametrize("size", SIZES)
def test_a_relative_difference_of_1e_9_in_all_entries_is_seen_and_1e_14_is_not(size):
    x = drawn(size) + 2
    assert not agree(fingerprint(x), fingerprint(x * (1 + 1e-9)), 1e-12)
    assert agree(fingerprint(x), fingerprint(x * (1 + 1e-14)), 1e-12)


@given(st.integers(0, 10_000), st.floats(-40, 40))
@settings(max_examples=50, deadline=None)
def test_moving_each_entry_by_less_than_the_distance_always_agrees(seed, exponent):
    random = np.random.default_rng(seed)
    x = random.normal(size=int(random.integers(1, 300))) * 10.0**exponent
    distance = 1e-9 * np.abs(x).max()
    moved = x + random.uniform(-distance, distance, x.shape)
    assert agree(fingerprint(x), fingerprint(random.permutation(moved)), 1.01 * distance)


def test_the_sign_counts():
    x = drawn(100)
    assert not agree(fingerprint(x), fingerprint(-x), 1e-12)


def test_a_broadcast_value_has_the_same_entries_and_another_of_that_size_has_not():
    for x in (drawn(10), drawn(500)):
        assert agree(fingerprint(x), fingerprint(np.tile(x, (3, 1))), 1e-12)
        assert not agree(fingerprint(x), fingerprint(np.concatenate([x, x, x + 1e-3])), 1e-12)
        assert not agree(fingerprint(x), fingerprint(np.append(np.tile(x, 2), x[0])), 1e-12)


def test_what_stands_for_infinity_in_a_mask_does_not_hide_the_scores():
    scores = drawn((8, 8))
    mask = np.triu(np.full((8, 8), -3.4e38), 1)
    assert not agree(fingerprint(scores + mask), fingerprint(scores * (1 + 1e-6) + mask), 1e-9)
    assert agree(fingerprint(scores + mask), fingerprint((scores + mask).T), 1e-12)
    assert not agree(fingerprint(scores + mask), fingerprint(scores + np.triu(np.full((8, 8), -1e9), 1)), 1e-9)


def test_values_that_are_not_finite_are_counted():
    x = np.asarray([1.0, np.nan, np.inf, -np.inf, -np.inf])
    assert fingerprint(x).unusual == (1, 1, 2)
    assert agree(fingerprint(x), fingerprint(x[::-1]), 0.0)
    assert not agree(fingerprint(x), fingerprint(np.asarray([1.0, 1.0, np.inf, -np.inf, -np.inf])), 0.0)


def test_empty_and_zero_arrays():
    assert agree(fingerprint(np.zeros((0, 3))), fingerprint(np.zeros(0)), 0.0)
    assert agree(fingerprint(np.zeros(5)), fingerprint(np.zeros(5)), 0.0)
    assert not agree(fingerprint(np.zeros(5)), fingerprint(np.ones(5)), 1e-3)


def test_separation_is_the_relative_distance():
    x = drawn(20) + 5
    assert separation(fingerprint(x), fingerprint(x)) == 0
    assert separation(fingerprint(x), fingerprint(1.5 * x)) == pytest.approx(1 / 3)
    big = drawn(1000) + 5
    assert 0 < separation(fingerprint(big), fingerprint(big * 1.01)) < 0.011
