from __future__ import annotations

import math

import numpy as np
import pytest

from jaxgrad.parity.constants import recover

WRITTEN = [
    1e-12, 1e-5, 1e-6, 0.1, 0.044715, 1.702, 0.3333, math.sqrt(0.5), math.sqrt(2 / math.pi), 1 / 3, 2 / 7, 1 / 1000,
    math.pi, math.log(2), 1 / math.sqrt(64 * 3), math.sqrt(768), 1.0507009873554805, 1.6732632423543772, -1e-9, -1 / 12,
    0.5 * math.log(2 * math.pi), 1e-8, 6.02e23,
]  # fmt: skip


@pytest.mark.parametrize("number", WRITTEN)
def test_what_was_written_is_recovered_from_its_float32(number):
    recovered, certain = recover(np.float32(number))
    assert certain
    assert abs(float(recovered) - number) <= 2 * np.spacing(abs(number))  # sqrt(1/2) and 1/sqrt(2) differ by one


@pytest.mark.parametrize("number", [0.0, 1.0, -2.5, 3.0, 0.0078125, 65504.0, float("inf"), float("-inf")])
def test_what_float32_holds_exactly_is_left_alone(number):
    recovered, certain = recover(np.float32(number))
    assert certain
    assert float(recovered) == number


def test_a_table_of_sines_is_left_as_it_is_and_called_uncertain():
    table = np.sin(np.arange(1, 200) * 0.37).astype(np.float32)
    recovered, certain = recover(table)
    assert not certain
    assert np.abs(recovered - table).max() <= 2.0**-24


def test_most_random_numbers_are_not_taken_for_something_simple():
    drawn = np.random.default_rng(0).uniform(0.1, 2, 2000).astype(np.float32)
    certain = sum(recover(number)[1] for number in drawn)
    # Decimals of six digits are 10**6 in a decade, of 2**23 * log2(10) float32 numbers: 3.6 % fall on one by chance.
    assert certain < 2 * 0.036 * 2000


def test_float64_is_exact_as_it_is():
    recovered, certain = recover(np.asarray([0.1, math.pi]))
    assert certain
    assert recovered.tolist() == [0.1, math.pi]


def test_every_entry_of_an_array_is_recovered_in_place():
    given = np.asarray([[0.1, 1e-5], [math.sqrt(0.5), 1 / 3]])
    recovered, certain = recover(given.astype(np.float32))
    assert certain
    assert (np.abs(recovered - given) <= 2 * np.spacing(given)).all()
