"""Batches from arrays, from memory maps and from iterators."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgrad import InputError, InputTypeError, LinearParams, ProgramError, batches, fit, loss


def line(rows=50, seed=0):
    x = np.random.default_rng(seed).standard_normal(rows).astype(np.float32)
    return x, (4 * x + 1 + 0.1 * np.sin(9 * x)).astype(np.float32)


GUESS = LinearParams(np.float32(2), np.float32(6))


def run(data, **options):
    return fit(loss, GUESS, data, optax.adam(0.05), **{"steps": 40, **options})


def same(one, other):
    assert np.array_equal(one.losses, other.losses)
    assert np.array_equal(one.params.w, other.params.w)


def close(one, other):
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-5)
    np.testing.assert_allclose(one.params.w, other.params.w, rtol=1e-5)


def test_batches_are_those_of_the_tuple_with_a_batch_size():
    same(run(line(), batch_size=8, key=4), run(batches(line(), 8, 4)))
    later = run(batches(line(), 8, 4, start=3))
    assert later.losses[0] == pytest.approx(float(loss(GUESS, *batches(line(), 8, 4).at(3))), rel=1e-5)


def test_an_iterator_of_the_same_batches_is_the_same_run():
    drawn = batches(line(), 8, 4)
    close(run(drawn.at(step) for step in range(100)), run(drawn))


def test_memory_maps_stay_on_disk_and_are_the_same_run(tmp_path):
    maps = []
    for name, column in zip("xy", line(), strict=True):
        np.save(tmp_path / f"{name}.npy", column)
        maps.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    close(run(tuple(maps), batch_size=8, key=4), run(line(), batch_size=8, key=4))


def test_a_list_is_begun_again_at_its_end_and_an_iterator_is_not():
    x, y = line()
    epoch = [(x[start : start + 16], y[start : start + 16]) for start in range(0, 50, 16)]
    found = run(epoch, steps=10)
    assert found.stopped == "finished"
    assert found.step == 10
    by_hand = run((epoch[step % 4] for step in range(10)), steps=10)
    close(found, by_hand)
    ended = run(iter(epoch), steps=10)
    assert (ended.stopped, ended.step, ended.losses.size) == ("data ended", 4, 4)
    close(ended, run(epoch, steps=4))


def test_batches_of_other_shapes_follow_each_other():
    x, y = line()
    sizes = [5, 5, 7, 5, 1, 1]
    found = run([(x[:size], y[:size]) for size in sizes], steps=6)
    assert found.losses.shape == (6,)
    assert found.losses[0] == pytest.approx(float(loss(GUESS, x[:5], y[:5])), rel=1e-5)


def test_lists_and_torchs_tensors_are_batches_too():
    torch = pytest.importorskip("torch")
    x, y = line(48)
    dataset = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    loader = torch.utils.data.DataLoader(dataset, batch_size=16)
    close(run(loader, steps=7), run([(x[i : i + 16], y[i : i + 16]) for i in (0, 16, 32)], steps=7))


def test_batches_of_pytrees_and_whole_numbers():
    def cross_entropy(params, batch, labels):
        logits = batch["x"] @ params["w"] + params["b"][None]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    random = np.random.default_rng(0)
    x = random.standard_normal((60, 4)).astype(np.float32)
    labels = (x[:, 0] > 0).astype(np.int64)
    params = {"w": np.zeros((4, 2), np.float32), "b": np.zeros(2, np.float32)}
    found = fit(cross_entropy, params, ({"x": x}, labels), optax.adam(0.1), steps=100, batch_size=20)
    assert found.losses[0] == pytest.approx(np.log(2), rel=1e-5)
    assert found.losses[-10:].mean() < 0.2
    # without key 0 there is another order
    other = fit(cross_entropy, params, ({"x": x}, labels), optax.adam(0.1), steps=100, batch_size=20, key=1)
    assert not np.array_equal(found.losses, other.losses)


def test_what_an_iterator_raises_is_said_with_its_batch():
    def broken():
        yield line()
        raise RuntimeError("no more disk")

    with pytest.raises(ProgramError, match="data raised RuntimeError at batch 1: no more disk"):
        run(broken())


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        ([], InputError, "data has no batches"),
        (iter([]), InputError, "data has no batches"),
        (5, InputTypeError, "data is a int, expected a tuple of arrays"),
        (np.ones(3), InputTypeError, r"data is f\d\d\[3\], expected a tuple"),
        ([np.ones(3)], InputTypeError, "batch 0 of data"),
        ([(np.array(["a"]),)], InputError, "batch 0 of data, leaf .*expected numbers"),
        (batches(np.ones(3), 2), InputTypeError, "expected those of a tuple"),
    ],
)
def test_what_gives_no_batches_is_refused(data, kind, said):
    with pytest.raises(kind, match=said):
        run(data)


def test_a_batch_size_belongs_to_arrays():
    with pytest.raises(InputTypeError, match="batch_size=3 with data that is a list"):
        run([line()], batch_size=3)


def test_jax_arrays_and_numpy_arrays_are_the_same_data():
    same(run(tuple(map(jnp.asarray, line())), batch_size=9), run(line(), batch_size=9))
