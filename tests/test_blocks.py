"""Loss and gradient over many rows: the same as JAX's own, exact where float32 sums lose digits, and refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgrad import InputError, InputTypeError, LinearParams
from jaxgrad.blocks import engine, value_and_grad_in_blocks
from jaxgrad.blocks.sums import add, exactly, total, value

RANDOM = np.random.default_rng(5)


def line(p: Any, x: Any, y: Any) -> Any:
    return (p.w * x + p.b - y) ** 2


def logistic(p: Any, batch: Any) -> Any:
    z = batch["x"] @ p["w"] + p["b"]
    return jnp.logaddexp(0, z) - batch["label"].astype(z.dtype) * z


def mlp(p: Any, x: Any, labels: Any) -> Any:
    hidden = jnp.tanh(x @ p[0]["w"] + p[0]["b"][None])
    scores = hidden @ p[1]["w"] + p[1]["b"][None]
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1)[:, 0]


def images(p: Any, image: Any) -> Any:
    return jnp.sum((image * p["gain"][None] - p["offset"]) ** 2, axis=(1, 2))


def normal(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
    return jnp.asarray(RANDOM.standard_normal(shape), dtype)


def problem(name: str, n: int, dtype: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    """A loss, parameters and a batch of n rows."""
    label = jnp.asarray(RANDOM.integers(0, 2, n))
    if name == "line":
        x = normal(n, dtype=dtype)
        return line, LinearParams(jnp.ones(1, dtype), jnp.ones(1, dtype)), (x, 4 * x + 1)
    if name == "logistic":
        batch = {"x": normal(n, 10, dtype=dtype), "label": label}
        return logistic, {"w": normal(10, dtype=dtype), "b": jnp.zeros((), dtype)}, (batch,)
    if name == "few features":
        batch = {"x": normal(n, 3, dtype=dtype), "label": label}
        return logistic, {"w": normal(3, dtype=dtype), "b": jnp.zeros((), dtype)}, (batch,)
    if name == "mlp":
        first = {"w": normal(5, 16, dtype=dtype), "b": jnp.zeros(16, dtype)}
        params = [first, {"w": normal(16, 3, dtype=dtype), "b": jnp.zeros(3, dtype)}]
        return mlp, params, (normal(n, 5, dtype=dtype), jnp.asarray(RANDOM.integers(0, 3, n)))
    params = {"gain": normal(2, 3, dtype=dtype), "offset": jnp.ones((), dtype)}
    return images, params, (normal(n, 2, 3, dtype=dtype),)


PROBLEMS = ["line", "logistic", "few features", "mlp", "images"]
BLOCK = 1024  # the smallest, so that a few thousand rows are many blocks


def plain(loss: Any, reduce: Any) -> Any:
    return jax.jit(jax.value_and_grad(lambda p, *batch: reduce(loss(p, *batch))))


@pytest.mark.parametrize(("n", "reduction"), [(1, "sum"), (3 * BLOCK + 201, "mean")])
@pytest.mark.parametrize("name", PROBLEMS)
def test_same_as_jax_in_float64_whatever_the_rows(name, n, reduction, x64):
    loss, params, batch = problem(name, n, jnp.float64)
    found, slopes = value_and_grad_in_blocks(loss, reduction=reduction, block_rows=BLOCK)(params, *batch)
    expected, grads = plain(loss, getattr(jnp, reduction))(params, *batch)
    size = abs(expected) if reduction == "mean" else n
    assert found.dtype == jnp.float64
    assert found.shape == ()
    assert abs(found - expected) <= 1e-12 * size * 10
    assert jax.tree.structure(slopes) == jax.tree.structure(params)
    for a, b, p in zip(jax.tree.leaves(slopes), jax.tree.leaves(grads), jax.tree.leaves(params), strict=True):
        assert (a.shape, a.dtype) == (p.shape, p.dtype)
        assert jnp.abs(a - b).max() <= 1e-12 * (10 if reduction == "mean" else 10 * n)


@pytest.mark.parametrize("name", PROBLEMS)
def test_dtypes_of_loss_and_gradients_are_those_of_jax(name):
    for dtype in (jnp.float32, jnp.bfloat16):
        loss, params, batch = problem(name, 3 * BLOCK + 7, dtype)
        ours = jax.eval_shape(value_and_grad_in_blocks(loss, block_rows=BLOCK), params, *batch)
        assert ours == jax.eval_shape(plain(loss, jnp.mean), params, *batch)


def test_bfloat16_rows_are_added_in_float32():
    ones = jnp.ones(100_000, jnp.bfloat16)
    f = value_and_grad_in_blocks(lambda p, x: p * x, reduction="sum")
    found, slope = f(jnp.float32(1), ones)
    assert (found.item(), slope.item()) == (100_000, 100_000)  # a bfloat16 sum of ones ends at 256


def test_parameters_of_several_dtypes_keep_theirs(x64):
    params = {"wide": jnp.float64(2), "narrow": jnp.float32(3)}
    _, slopes = value_and_grad_in_blocks(lambda p, x: p["wide"] * p["narrow"] * x)(params, jnp.arange(4.0))
    assert (slopes["wide"].dtype, slopes["narrow"].dtype) == (jnp.float64, jnp.float32)
    assert (slopes["wide"].item(), slopes["narrow"].item()) == (4.5, 3.0)


# Sums over many rows. The truth is NumPy's in float64; the bound is 1e-6 of the sum of magnitudes.


@pytest.mark.parametrize("rows", [2**24, 2**24 + 4321])
@pytest.mark.parametrize(
    ("term", "offset"), [(np.float32(1 / 3), 0.0), (np.float32(0.1), 1e6), (np.float32(-0.7), 3.0)]
)
def test_constant_terms_do_not_stall(term, offset, rows):
    f = value_and_grad_in_blocks(lambda p, x: p * x + jnp.float32(offset), reduction="sum")
    found, slope = f(jnp.float32(1), jnp.full(rows, term))
    each = float(np.float32(term + np.float32(offset)))
    assert abs(float(found) / (each * rows) - 1) < 1e-6
    assert abs(float(slope) / (float(term) * rows) - 1) < 1e-6


def test_a_gradient_that_cancels_is_right_to_the_magnitude_of_its_terms():
    n = 2**24
    x = RANDOM.standard_normal(n, dtype=np.float32) * np.float32(1000)
    x[n // 2 :] = -x[: n // 2] * np.float32(1 - 1e-5)
    _, slope = value_and_grad_in_blocks(lambda p, x: p * x)(jnp.float32(1), jnp.asarray(x))
    wide = x.astype(np.float64)
    assert abs(float(slope) - wide.mean()) < 1e-6 * np.abs(wide).mean()


def test_wide_gradients_do_not_stall_either():
    n = 2**20 + 77
    x = jnp.full((n, 16), np.float32(1 / 3))
    f = value_and_grad_in_blocks(lambda p, x: x @ p["w"] + p["b"], reduction="sum")
    found, slopes = f({"w": jnp.ones(16), "b": jnp.float32(0)}, x)
    third = float(np.float32(1 / 3))
    assert abs(float(found) / (16 * third * n) - 1) < 1e-6
    assert np.abs(np.asarray(slopes["w"], np.float64) / (third * n) - 1).max() < 1e-6
    assert float(slopes["b"]) == n


def test_the_bound_is_one_that_a_plain_sum_misses():
    """What the tests above ask for is not had by adding float32 one after the other."""
    terms = np.full(2**24, np.float32(1 / 3))
    one_by_one = np.add.accumulate(terms, dtype=np.float32)[-1]
    assert abs(float(one_by_one) / (float(terms[0]) * len(terms)) - 1) > 1e-3


def test_what_rounding_takes_is_kept():
    sums = exactly([jnp.array([1e8], jnp.float32)])
    for _ in range(10):
        sums = jax.jit(add)(sums, [jnp.array([1.25], jnp.float32)])
    sums = jax.jit(add)(sums, [jnp.array([-1e8], jnp.float32)])
    assert value(total(sums))[0].item() == 12.5


def test_overflow_is_infinite_and_a_bad_row_is_nan_as_in_jax():
    f = value_and_grad_in_blocks(lambda p, x: p * x, reduction="sum", block_rows=BLOCK)
    big = jnp.full(3000, 3e38, jnp.float32)
    assert f(jnp.float32(1), big)[0] == jnp.inf
    assert jnp.isnan(f(jnp.float32(1), big.at[1700].set(jnp.nan))[0])


@pytest.mark.parametrize("n", [100, 2 * BLOCK + 130])
def test_the_loss_sees_no_row_that_was_not_given(n):
    """Padding with zeros, which this loss cannot take, would turn the gradient to NaN."""
    x = jnp.linspace(1.0, 2.0, n)
    _, slope = value_and_grad_in_blocks(lambda p, x: p * jnp.log(x) / x, block_rows=BLOCK)(jnp.float32(1), x)
    assert slope.item() == pytest.approx(float(jnp.mean(jnp.log(x) / x)), rel=1e-5)


# Where it runs.


@pytest.mark.parametrize("name", ["line", "logistic", "mlp"])
def test_the_same_bits_each_time_and_the_same_value_under_jit(name):
    loss, params, batch = problem(name, 1_100_000 if name == "line" else 40_000, jnp.float32)
    f = value_and_grad_in_blocks(loss)
    first = jax.tree.leaves(f(params, *batch))
    for _ in range(3):
        again = jax.tree.leaves(f(params, *batch))
        assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(first, again, strict=True))
    for a, b in zip(first, jax.tree.leaves(jax.jit(f)(params, *batch)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1.0, float(jnp.abs(first[0]))))


def test_threads_and_one_thread_agree(monkeypatch):
    loss, params, batch = problem("line", 1_100_000, jnp.float32)
    f = value_and_grad_in_blocks(loss)
    results = []
    for cores in (1, 2, 3):
        monkeypatch.setattr("jaxgrad.blocks.cores", lambda cores=cores: cores)
        results.append(jax.tree.leaves(f(params, *batch)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_settings_of_the_caller_reach_the_threads(monkeypatch, x64):
    monkeypatch.setattr("jaxgrad.blocks.cores", lambda: 2)
    loss, params, batch = problem("line", 1_100_000, jnp.float64)
    assert value_and_grad_in_blocks(loss)(params, *batch)[0].dtype == jnp.float64


MESH = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxgrad.blocks import value_and_grad_in_blocks
mesh = Mesh(np.array(jax.devices()), ("rows",))
loss = lambda p, x, y: (x @ p["w"] + p["b"] - y) ** 2
for n in (3, 4000, 4001):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((n, 3)), jnp.float32)
    y = x.sum(1)
    params = {"w": jnp.ones(3) / 7, "b": jnp.float32(0.1)}
    one = value_and_grad_in_blocks(loss, block_rows=512)(params, x, y)
    if n % 4 == 0:
        x, y = (jax.device_put(a, NamedSharding(mesh, P("rows"))) for a in (x, y))
    f = value_and_grad_in_blocks(loss, block_rows=512, mesh=mesh)
    many = f(params, x, y)
    assert many[0].sharding.is_fully_replicated
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many)):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-6, atol=1e-7)
    for a, b in zip(jax.tree.leaves(jax.jit(f)(params, x, y)), jax.tree.leaves(many)):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-6, atol=1e-7)
print(len(jax.devices()), "devices agree")
"""


def test_over_a_mesh_of_devices():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", MESH], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "4 devices agree\n", done.stderr


@pytest.mark.parametrize(
    ("loss", "params", "columns"),
    [(lambda p, x: p * x[:, 0], (), 1), (lambda p, x: jnp.tanh(x @ p).sum(axis=1), (8, 8), 8)],
    ids=["narrow", "wide"],
)
def test_what_it_needs_beside_the_data_does_not_grow_with_the_rows(loss, params, columns):
    f, used = jax.jit(value_and_grad_in_blocks(loss)), []
    for rows in (2**19, 2**21):
        x = jax.ShapeDtypeStruct((rows, columns), jnp.float32)
        used.append(f.lower(jnp.ones(params), x).compile().memory_analysis().temp_size_in_bytes)
    assert used[1] - used[0] < 0.01 * 4 * columns * (2**21 - 2**19)
    assert used[1] < 0.1 * 4 * columns * 2**21


def test_blocks_are_what_was_asked_for():
    params = LinearParams(jnp.ones(()), jnp.ones(()))
    assert engine.Blocks(line, params, 1).rows == 1024
    assert engine.Blocks(line, params, 100_000).rows == 99_328  # a multiple of 1,024
    assert engine.Blocks(line, jnp.ones(100), 1000).rows == 992  # of 32


# Refusals.

ONE = jnp.float32(1)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"reduction": "max"}, InputError, 'reduction is \'max\', expected "mean" or "sum"'),
        ({"block_rows": 0}, InputError, "block_rows is 0, expected a whole number from 1 on"),
        ({"block_rows": 2.5}, InputError, "block_rows is 2.5"),
        ({"block_rows": True}, InputError, "block_rows is True"),
        ({"mesh": 4}, InputTypeError, "mesh is a int, expected a jax.sharding.Mesh"),
    ],
)
def test_bad_settings_are_refused(options, kind, said):
    with pytest.raises(kind, match=r"^value_and_grad_in_blocks: ") as caught:
        value_and_grad_in_blocks(line, **options)
    assert said in str(caught.value)


def test_a_loss_that_is_no_function_is_refused():
    with pytest.raises(InputTypeError, match="loss_of_rows is a float, expected a function"):
        value_and_grad_in_blocks(0.5)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("loss", "params", "batch", "kind", "said"),
    [
        (lambda p, x: jnp.mean(p * x), ONE, (jnp.ones(4),), InputError, r"returned f32\[\] for 4 rows.*\[4\]"),
        (lambda p, x: p * x, ONE, (jnp.ones((4, 2)),), InputError, r"returned f32\[4,2\] for 4 rows"),
        (lambda p, x: (p * x)[:-1], ONE, (jnp.ones(4),), InputError, r"returned f32\[3\] for 4 rows"),
        (lambda p, x: x, ONE, (jnp.arange(4),), InputTypeError, r"returned i32\[4\], expected floating"),
        (lambda p, x: (p * x, x), ONE, (jnp.ones(4),), InputTypeError, "returned a tuple"),
        (lambda p, x: p * x, 1, (jnp.ones(4),), InputTypeError, r"params is i32\[\]"),
        (lambda p, x: p * x, {}, (jnp.ones(4),), InputError, "params has no leaves"),
        (lambda p: p, ONE, (), InputError, "the batch has no arrays"),
        (lambda p, x: p * x, ONE, (jnp.ones(0),), InputError, "0 rows"),
        (lambda p, x: p * x, ONE, (jnp.ones(()),), InputError, r"batch\[0\] is f32\[\]; expected rows"),
        (
            lambda p, x, y: p * x,
            ONE,
            (jnp.ones(4), {"a": jnp.ones(5)}),
            InputError,
            r"rows differ: batch\[0\] has 4, batch\[1\]\['a'\] has 5",
        ),
    ],
)
def test_bad_calls_are_refused(loss, params, batch, kind, said):
    with pytest.raises(kind, match=said) as caught:
        value_and_grad_in_blocks(loss)(params, *batch)
    assert str(caught.value).startswith("value_and_grad_in_blocks: ")
