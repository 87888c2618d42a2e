from __future__ import annotations

import re

import numpy as np
import pytest

from jaxgrad import InputError
from jaxgrad.parity.leaves import closest, match_leaves, match_programs, same_under_layout

random = np.random.default_rng(0)
W, V, B = random.normal(size=(4, 3)), random.normal(size=(4, 3)), random.normal(size=4)


def test_leaves_are_matched_by_their_entries_in_any_layout():
    kernel = random.normal(size=(5, 2, 3, 3))
    match = match_leaves({"fc.weight": W, "conv.weight": kernel}, {".k": kernel.transpose(2, 3, 1, 0), ".w": W.T})
    assert {(group.torch, group.jax, group.how) for group in match.groups} == {
        (("fc.weight",), (".w",), "same"),
        (("conv.weight",), (".k",), "same"),
    }
    assert match.only_torch == match.only_jax == []


def test_equal_leaves_form_one_group():
    match = match_leaves({"a": np.zeros(3), "b": np.zeros(3)}, {".b": np.zeros(3), ".a": np.zeros(3)})
    (group,) = match.groups
    assert group.torch == ("a", "b")
    assert group.jax == (".b", ".a")
    assert group.how == "constant"


def test_a_joined_kernel_is_matched_to_its_parts_on_either_side():
    joined = np.concatenate([W, V], axis=0)
    for torch, jax in (({"q": W, "k": V}, {".qk": joined.T}), ({"in_proj": joined}, {".q": W.T, ".k": V.T})):
        (group,) = match_leaves(torch, jax).groups
        assert group.how == "joined"
        assert set(group.torch) == set(torch)
        assert set(group.jax) == set(jax)


def test_a_sum_of_two_biases_is_matched_whole_or_in_pieces_and_kept_in_float64():
    one, other = (random.normal(size=6).astype(np.float32).astype(np.float64) for _ in range(2))
    held = (one.astype(np.float32) + other.astype(np.float32)).astype(np.float64)
    torch = {"b_ih": one, "b_hh": other}
    for jax in (
        {".b": held},
        {".g": held[3:], ".i": held[:3]},
        {".rz": held[:4], ".hn": other[4:], ".in": one[4:]},  # a gated recurrent unit
    ):
        match = match_leaves(torch, jax)
        assert match.groups[0].how == "joined"
        assert match.groups[0].entries.added
        whole = np.concatenate([match.sums(torch, jax)[path] for path in match.groups[0].jax])
        exact = {".b": one + other, ".g": (one + other)[3:], ".i": (one + other)[:3], ".rz": (one + other)[:4]}
        exact |= {".hn": other[4:], ".in": one[4:]}
        assert np.array_equal(whole, np.concatenate([exact[path] for path in match.groups[0].jax]))
        assert not match.only_torch
        assert not match.only_jax


def test_stacked_layers_are_matched_in_whatever_order_they_lie():
    torch = {f"layers.{i}.{kind}": random.normal(size=(4, 3)) for i in range(12) for kind in "ab"}
    jax = {f".{kind}": np.stack([torch[f"layers.{i}.{kind}"].T for i in reversed(range(12))]) for kind in "ab"}
    match = match_leaves(torch, jax)
    assert {group.jax for group in match.groups} == {(".a",), (".b",)}
    assert all(len(group.torch) == 12 for group in match.groups)


def test_a_whole_with_one_entry_too_many_is_not_matched():
    match = match_leaves({"a": W, "b": V}, {".ab": np.append(np.concatenate([W.ravel(), V.ravel()]), 0.5)})
    assert match.only_torch == ["a", "b"]
    assert match.only_jax == [".ab"]


def test_one_entry_that_differs_leaves_both_leaves_over_and_names_the_closest():
    other = W.copy()
    other[1, 2] *= 1 + 1e-6
    match = match_leaves({"fc.weight": W, "fc.bias": B}, {".kernel": other, ".bias": B})
    assert match.only_torch == ["fc.weight"]
    assert match.only_jax == [".kernel"]
    path, error = closest("fc.weight", W, match.only_jax, {".kernel": other})
    assert path == ".kernel"
    assert error == pytest.approx(1e-6 * abs(W[1, 2]) / np.abs(W).max(), rel=1e-6)
    assert closest("fc.bias", B, [".kernel"], {".kernel": other})[0] is None


def test_what_torch_keeps_as_a_buffer_is_no_parameter_of_the_port():
    match, frozen = match_programs({"w": W}, {".w": W, ".mean": B}, {"bn.running_mean": B})
    assert frozen == {".mean": "bn.running_mean"}
    assert match.only_jax == []


def test_of_several_leaves_that_could_be_a_buffer_the_one_with_its_name_is():
    zeros = {".bias": np.zeros(4), ".batch_stats.mean": np.zeros(4), ".kernel": W}
    match, frozen = match_programs({"w": W, "b": np.zeros(4)}, zeros, {"bn.running_mean": np.zeros(4)})
    assert frozen == {".batch_stats.mean": "bn.running_mean"}
    assert not match.only_jax


def test_sizes_that_cannot_fit_are_refused_by_name():
    expected = r"sizes do not fit: torch has fc.weight [4, 3], JAX has params.w [5, 5], and no two are of one size"
    with pytest.raises(InputError, match=re.escape(expected)):
        match_programs({"fc.weight": W}, {".w": np.ones((5, 5))}, {})


def test_gradients_agree_under_the_layout_of_their_parameter_alone():
    slopes = random.normal(size=W.shape)
    assert same_under_layout(W, slopes, W.T, slopes.T, 0.0)[0]
    assert not same_under_layout(W, slopes, W.T, slopes.T[::-1], 1e-3)[0]
    square, its_slopes = random.normal(size=(3, 3)), random.normal(size=(3, 3))
    assert same_under_layout(square, its_slopes, square.T, its_slopes.T, 0.0)[0]
    assert not same_under_layout(square, its_slopes, square.T, its_slopes, 1e-3)[0]
    assert not same_under_layout(square, its_slopes, square, its_slopes.T, 1e-3)[0]


def test_gradients_agree_under_any_permutation_that_the_parameter_shows():
    order = random.permutation(W.size)
    slopes = random.normal(size=W.shape)
    assert same_under_layout(W, slopes, W.ravel()[order], slopes.ravel()[order], 0.0)[0]
    assert not same_under_layout(W, slopes, W.ravel()[order], slopes.ravel(), 1e-3)[0]


def test_where_all_entries_are_equal_the_shapes_tell_the_layout():
    ones, slopes = np.ones((2, 3)), random.normal(size=(2, 3))
    assert same_under_layout(ones, slopes, ones.T, slopes.T, 0.0)[0]
    shuffled = np.zeros(6), slopes.ravel(), np.zeros(6), slopes.ravel()[::-1]
    assert same_under_layout(*shuffled, 0.0)[0]  # some other leaf of the layer is shuffled too
    assert not same_under_layout(*shuffled, 1e-3, shuffled=False)[0]
    assert not same_under_layout(np.zeros(6), slopes.ravel(), np.zeros(6), 2 * slopes.ravel(), 1e-3)[0]


def test_a_gradient_of_nan_on_one_side_does_not_agree():
    slopes = random.normal(size=W.shape)
    assert not same_under_layout(W, slopes, W, np.full_like(slopes, np.nan), 1.0)[0]
