"""The endless shuffled batches: every epoch a permutation, any step again, refused when they cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgrad import InputError, InputTypeError
from jaxgrad.data import batches
from jaxgrad.shuffle import rows_of_step, seed_of


@pytest.mark.parametrize(
    ("rows", "size"), [(1, 1), (2, 1), (3, 2), (5, 5), (7, 3), (10, 4), (100, 32), (1000, 999), (4099, 100)]
)
def test_every_epoch_is_a_new_permutation_without_a_gap(rows, size):
    drawn = batches((np.arange(rows),), size, 3)
    steps = -(-3 * rows // size)
    seen = np.concatenate([next(drawn)[0] for _ in range(steps)])[: 3 * rows].reshape(3, rows)
    np.testing.assert_array_equal(np.sort(seen, 1), np.broadcast_to(np.arange(rows), (3, rows)))
    if rows >= 10:
        assert len({tuple(epoch) for epoch in seen.tolist()}) == 3


def test_small_orders_are_all_equally_likely():
    rows, trials = 4, 24 * 500
    seed = seed_of(jax.random.key(11))
    orders = jax.jit(jax.vmap(lambda step: rows_of_step(seed, step, rows, rows)))(jnp.arange(trials))
    _, counts = np.unique(np.asarray(orders), axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 500) ** 2 / 500).sum() < 60  # chi-squared of 23 degrees of freedom: 60 at p = 4e-5


@pytest.mark.parametrize("rows", [9, 50, 1000])
def test_each_row_is_as_likely_in_each_place_and_neighbours_are_independent(rows):
    epochs = 200_000 // rows
    seed = seed_of(jax.random.key(5))
    orders = np.asarray(jax.jit(jax.vmap(lambda step: rows_of_step(seed, step, rows, rows)))(jnp.arange(epochs)))
    fixed = (orders == np.arange(rows)).sum(1)  # of a random permutation: mean 1, variance 1
    assert abs(fixed.mean() - 1) < 5 / np.sqrt(epochs)
    correlation = np.corrcoef(orders[:, :-1].ravel(), orders[:, 1:].ravel())[0, 1]
    assert abs(correlation + 1 / (rows - 1)) < 5 / np.sqrt(orders.size)  # without replacement: -1 / (n - 1)
    between = np.corrcoef(orders[:-1].ravel(), orders[1:].ravel())[0, 1]
    assert abs(between) < 5 / np.sqrt(orders.size)


def test_where_the_step_times_the_batch_passes_32_bits_the_place_is_still_right():
    rows, size, step = 1_000_003, 7_777, 4_000_000_001
    seed = seed_of(jax.random.key(0))
    whole = jax.jit(lambda s: rows_of_step(seed, s, rows, rows))
    first = step * size
    order = np.asarray(whole(np.uint32(first // rows)))
    expected = order[first % rows : first % rows + size]
    found = np.asarray(rows_of_step(seed, np.uint32(step), rows, size))
    np.testing.assert_array_equal(found[: len(expected)], expected)


def test_a_batch_is_a_pure_function_of_key_and_step_inside_and_outside_jit():
    x, y = np.arange(20.0).reshape(10, 2), np.arange(10)
    drawn = batches({"x": x, "y": y}, 4, jax.random.key(1))
    third = [next(drawn) for _ in range(3)][2]
    again = batches({"x": x, "y": y}, 4, jax.random.key(1), start=2)
    traced = jax.jit(again.at)(2)
    for batch in (again.at(2), next(again), traced):
        np.testing.assert_array_equal(batch["y"], third["y"])
        np.testing.assert_allclose(batch["x"], third["x"])
    np.testing.assert_array_equal(third["x"], x[third["y"]])
    other = batches({"x": x, "y": y}, 4, 2)
    assert any((other.at(step)["y"] != again.at(step)["y"]).any() for step in range(3))


def test_old_keys_and_arrays_of_jax_serve_too():
    x = jnp.arange(6.0)
    (batch,) = next(batches((x,), 6, jax.random.PRNGKey(3)))
    assert isinstance(batch, jax.Array)
    np.testing.assert_array_equal(np.sort(batch), x)


def test_a_memory_map_is_read_by_the_rows(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(100.0).reshape(50, 2))
    (batch,) = next(batches((np.load(path, mmap_mode="r"),), 8, 0))
    assert batch.shape == (8, 2)
    np.testing.assert_array_equal(batch[:, 1], batch[:, 0] + 1)


@pytest.mark.parametrize(
    ("data", "size", "key", "kind", "said"),
    [
        ((np.zeros(0), np.zeros(0)), 1, 0, InputError, "data has 0 rows"),
        ((), 1, 0, InputError, "data has no arrays"),
        ((np.zeros(3), np.zeros(4)), 1, 0, InputError, r"data\[0\] has 3, data\[1\] has 4"),
        ((np.zeros(3), 1.0), 1, 0, InputTypeError, r"data\[1\] is f32\[\], expected an array"),
        ((np.zeros(()),), 1, 0, InputError, r"data\[0\] is one number"),
        ((np.zeros(3),), 4, 0, InputError, "batch_size=4, expected 1 to 3"),
        ((np.zeros(3),), 0, 0, InputError, "batch_size=0, expected 1 to 3"),
        ((np.zeros(3),), 1.5, 0, InputTypeError, "batch_size is 1.5, expected a whole number"),
        ((np.zeros(3),), 1, "seed", InputTypeError, "key is str, expected a random key"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(data, size, key, kind, said):
    with pytest.raises(kind, match=said):
        batches(data, size, key)


def test_a_negative_start_is_refused():
    with pytest.raises(InputError, match="start=-1, expected the number of a step"):
        batches((np.zeros(3),), 1, 0, start=-1)
