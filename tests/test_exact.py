from __future__ import annotations

import platform
from fractions import Fraction
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from jaxgrad import InputError, InputTypeError, LinearParams, exact
from jaxgrad.exact import SumOrder
from jaxgrad.frameworks import torch_autograd, torch_sgd

laws = partial(
    settings,
    deadline=None,
    database=None,
    derandomize=True,
    # The fixtures only hold a module and a setting: they are the same for every example.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param is np.float64):
        yield request.param


@pytest.fixture(scope="module")
def order(torch) -> SumOrder:
    found = torch_autograd.sum_order()
    if found is None:
        assert platform.machine() not in ("x86_64", "AMD64"), "torch's order of the sum is known on x86-64"
        pytest.skip("this torch adds in an order that is not known")
    return found


def f32(values: Any) -> np.ndarray:
    return np.asarray(values, np.float32)


def same(ours, theirs) -> bool:
    """Equal bits, entry by entry; any NaN equals any NaN."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    word = f"u{ours.dtype.itemsize}"
    return bool(((ours.view(word) == theirs.view(word)) | (np.isnan(ours) & np.isnan(theirs))).all())


SPREAD = {"huge range": 60, "wide": 13}


def some(kind, shape, dtype, random):
    values = random.standard_normal(shape)
    if kind in SPREAD:
        values = values * 2.0 ** random.uniform(-SPREAD[kind], SPREAD[kind], shape)
    elif kind == "cancelling":
        half = shape[-1] // 2
        values[..., half : 2 * half] = -random.permuted(values[..., :half], axis=-1)
    return values.astype(dtype)


KINDS = ("random", "huge range", "cancelling")


# The sum.


def test_total_is_torchs_at_every_short_length(torch, order, dtype):
    random = np.random.default_rng(0)
    row = np.concatenate([some(kind, (5, 70), dtype, random) for kind in KINDS])
    lengths = range(1, 71 if dtype == np.float32 else 37)  # half as many lanes
    ours = jax.jit(lambda rows: [jax.vmap(partial(exact.total, order=order))(rows[:, :n]) for n in lengths])(row)
    for n, found in zip(lengths, ours, strict=True):
        assert same(found, [torch.tensor(each[:n]).sum().numpy() for each in row]), n


@pytest.mark.parametrize("kind", KINDS)
def test_total_is_torchs_at_random_lengths_up_to_200_000(torch, order, dtype, kind):
    random = np.random.default_rng(KINDS.index(kind))
    lengths = [32_767, 32_768, *np.exp(random.uniform(np.log(71), np.log(200_000), 3)).astype(int), 200_000]
    for n in lengths:
        row = some(kind, (n,), dtype, random)
        assert same(exact.total(jnp.asarray(row), order), torch.tensor(row).sum().numpy()), n


# A sum of float32 numbers of at least 2**-100 is a multiple of 2**-123: zero, or a normal number.
ENTRIES = st.floats(2.0**-100, 2.0**127, width=32).flatmap(lambda size: st.sampled_from([size, -size]))


@laws(max_examples=150)
@given(row=st.lists(ENTRIES | st.sampled_from([0.0, -0.0, np.inf, -np.inf, np.nan]), min_size=1, max_size=9))
def test_total_of_any_short_row_is_torchs(torch, row):
    row = np.array(row, np.float32)
    assert same(exact.total(jnp.asarray(row)), torch.tensor(row).sum().numpy())


@pytest.mark.parametrize(
    "row",
    [
        pytest.param([-0.0], id="one negative zero"),
        pytest.param([-0.0] * 40, id="many negative zeros"),
        pytest.param([1.0, -1.0, -0.0], id="zero by cancelling"),
        pytest.param([3e38, 3e38, -3e38, -3e38], id="overflow on the way"),
        pytest.param([np.inf, -np.inf] + [1.0] * 30, id="infinities"),
        pytest.param([1.0] * 37 + [np.nan], id="nan at the end"),
        pytest.param([2.0**-126] * 33, id="the smallest normal number"),
    ],
)
def test_total_of_special_rows_is_torchs(torch, row):
    row = np.array(row, np.float32)
    assert same(exact.total(jnp.asarray(row)), torch.tensor(row).sum().numpy())


def test_total_takes_any_shape_as_its_contiguous_row(torch, order, dtype):
    block = some("random", (7, 3, 11), dtype, np.random.default_rng(0))
    ours = exact.total(jnp.asarray(block), order)
    assert same(ours, torch.tensor(block).sum().numpy())
    assert same(ours, exact.total(jnp.asarray(block.ravel()), order))


def test_plain_sum_and_other_orders_have_other_bits(torch):
    # What the tests above hold must not hold by itself: jnp.sum, other lanes and other threads differ somewhere.
    rows = some("random", (20, 1000), np.float32, np.random.default_rng(0))
    theirs = [torch.tensor(row).sum().numpy() for row in rows]
    assert not same(jnp.sum(rows, axis=1), theirs)
    assert not same(jax.vmap(partial(exact.total, order=SumOrder(16)))(jnp.asarray(rows)), theirs)
    long = jnp.asarray(some("random", (100_000,), np.float32, np.random.default_rng(0)))
    by_threads = {exact.total(long, SumOrder(threads=threads)).item() for threads in (1, 2)}
    assert len(by_threads) > 1


@pytest.mark.parametrize("threads", [1, 2])
def test_total_follows_torchs_number_of_threads(torch, order, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for n in (32_768, 32_769, 100_000):  # up to the first, torch uses one thread
            rows = some("random", (8, n), np.float32, np.random.default_rng(n))
            ours = jax.vmap(partial(exact.total, order=SumOrder(order.vector_bytes, threads)))(jnp.asarray(rows))
            assert same(ours, [torch.tensor(row).sum().numpy() for row in rows]), n
    finally:
        torch.set_num_threads(before)


def test_total_is_the_same_under_jit_vmap_and_scan(order, dtype):
    rows = jnp.asarray(some("random", (6, 43), dtype, np.random.default_rng(0)))
    total = partial(exact.total, order=order)
    one_by_one = np.stack([total(row) for row in rows])
    assert same(jax.jit(total)(rows[0]), one_by_one[0])
    assert same(jax.jit(jax.vmap(total))(rows), one_by_one)
    assert same(jax.lax.scan(lambda carry, row: (carry, total(row)), None, rows)[1], one_by_one)
    assert same(jax.jit(lambda r: jnp.stack([total(v * 2) / 2 for v in r]))(rows), one_by_one)


def test_gradient_of_total_is_torchs(torch, order, dtype):
    row = some("random", (43,), dtype, np.random.default_rng(0))
    leaf = torch.tensor(row, requires_grad=True)
    (leaf.sum() * 0.1).backward()

    def scaled(values):
        return exact.total(values, order) * jnp.asarray(0.1, values.dtype)

    assert same(jax.grad(scaled)(jnp.asarray(row)), leaf.grad.numpy())
    assert same(jax.jit(jax.grad(scaled))(jnp.asarray(row)), leaf.grad.numpy())
    each = jax.vmap(jax.grad(scaled))(jnp.stack([row, 2 * row]))
    assert same(each, np.stack([leaf.grad.numpy()] * 2))


def test_total_refuses_what_it_cannot_add():
    with pytest.raises(InputError, match=r"exact\.total: values is f32\[0\], expected at least one entry"):
        exact.total(jnp.zeros(0))
    for wrong in (jnp.zeros(3, jnp.bfloat16), jnp.zeros(3, jnp.int32)):
        with pytest.raises(
            InputTypeError, match=r"exact\.total: values is (bf16|i32)\[3\], expected float32 or fl.*Use"
        ):
            exact.total(wrong)


def test_forward_mode_is_not_defined():
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(exact.total, (jnp.ones(3),), (jnp.ones(3),))


# The fused multiply-add.


def rounded(value: Fraction, dtype):
    """The nearest number of the dtype, ties to even: the definition, in whole numbers."""
    if value == 0:
        return dtype(0)
    limits = np.finfo(dtype)
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > abs(value)
    last = max(exponent, int(limits.minexp)) - limits.nmant
    return np.ldexp(dtype(round(value / Fraction(2) ** last)), last)


def true_fma(a, b, c):
    return rounded(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)), type(c))


@pytest.mark.parametrize(
    ("value", "nearest"),
    [
        (Fraction(1) + Fraction(1, 2**24), 1.0),  # a tie, to even
        (Fraction(1) + Fraction(3, 2**24), 1.0 + 2**-22),  # a tie, to even
        (Fraction(1) + Fraction(1, 2**24) + Fraction(1, 2**80), 1.0 + 2**-23),
        (-Fraction(1, 3), -float.fromhex("0x1.555556p-2")),
        (Fraction(2**24 - 1, 2**24) + Fraction(1, 2**25), 1.0),  # up to the next power of 2
        (Fraction(3, 2**150), 2.0**-148),  # below the normal numbers
    ],
)
def test_the_oracle_rounds_to_nearest(value, nearest):
    assert rounded(value, np.float32) == np.float32(nearest)


@st.composite
def fma_operands(draw, dtype):
    """Whole numbers of full width times powers of 2, such that every value on the way is zero or normal, and finite.

    Whatever is computed is a multiple of the last bit of ``a`` times that of ``b``, or of the last bit of ``c``.
    """
    limits = np.finfo(dtype)
    digits = limits.nmant + 1
    low, high = int(limits.minexp), int(limits.maxexp) - 2
    kind = draw(st.sampled_from(["anything", "near", "cancelling", "zero", "near a tie"]))

    def number(significand, exponent):
        return dtype(draw(st.sampled_from([1, -1]))) * np.ldexp(dtype(significand), exponent)

    whole = st.integers(2 ** (digits - 1), 2**digits - 1)
    of_a, of_b = draw(whole), draw(whole)
    if kind == "near a tie":  # the product is 2**(2 * digits - 1) less 2 * few**2
        few = draw(st.integers(1, 2 ** (digits // 3)))
        of_a, of_b = 2 ** (digits - 1) + few, 2**digits - 2 * few
    highest = high - digits - digits // 2  # the split multiplies by 2**(digits / 2) + 1
    exponent = draw(st.integers(max(low - 1, low - high + digits), highest))
    other = draw(st.integers(max(low - exponent, low - 1), min(high - 2 * digits - exponent, highest)))
    a, b = number(of_a, exponent), number(of_b, other)
    if kind == "cancelling":
        return a, b, -np.nextafter(a * b, dtype(draw(st.sampled_from([-np.inf, 0.0, np.inf]))))
    if kind == "zero":
        return a, b, dtype(draw(st.sampled_from([0.0, -0.0])))
    if kind == "near a tie":  # half of the last bit of c is as large as the product
        return a, b, number(draw(whole), min(exponent + other + 2 * digits, high - digits))
    near = min(max(exponent + other + digits + draw(st.integers(-2 * digits - 3, 2 * digits + 3)), low), high - digits)
    return a, b, number(draw(whole), near if kind == "near" else draw(st.integers(low, high - digits)))


fused = jax.jit(exact.fused_multiply_add)


@laws(max_examples=400)
@given(operands=fma_operands(np.float32))
def test_fused_multiply_add_in_float32_is_rounded_once(operands):
    assert same(fused(*operands), true_fma(*operands)), operands


@laws(max_examples=400)
@given(operands=fma_operands(np.float64))
def test_fused_multiply_add_in_float64_is_rounded_once(x64, operands):
    assert same(fused(*operands), true_fma(*operands)), operands


def test_fused_multiply_add_is_torchs_and_two_roundings_are_not(torch, dtype):
    random = np.random.default_rng(0)
    a, b, c = (some("random", (5000,), dtype, random) for _ in range(3))
    theirs = torch.tensor(c).add(torch.tensor(a), alpha=float(b[0])).numpy()  # what torch.optim.SGD does
    assert same(fused(a, jnp.full_like(a, b[0]), c), theirs)
    assert same(fused(a, b, c), torch.addcmul(torch.tensor(c), torch.tensor(a), torch.tensor(b)).numpy())
    assert same(fused(a, b, c)[:500], [true_fma(*each) for each in zip(a[:500], b[:500], c[:500], strict=True)])
    assert not same(fused(a, b, c), a * b + c)


def test_fused_multiply_add_of_zeros_infinities_and_nan_is_torchs(torch, dtype):
    special = np.array([0.0, -0.0, 1.0, -1.0, 3.0, np.inf, -np.inf, np.nan], dtype)
    a, b, c = (each.ravel() for each in np.meshgrid(special, special, special))
    theirs = torch.addcmul(*map(torch.tensor, (c, a, b))).numpy()
    assert same(fused(a, b, c), theirs)
    assert same(exact.fused_multiply_add(*map(jnp.asarray, (a, b, c))), theirs)


# The product and the quotient.

EDGES = [0.0, -0.0, 1.0, -1.0, 1 / 3, np.inf, -np.inf, np.nan, 1e30, -1e30]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 10, 100, 1000, 12_345, 10_000_000])
def test_quotient_under_jit_is_numpys(dtype, n):
    a = np.append(some("random", (2000,), dtype, np.random.default_rng(n)), EDGES).astype(dtype)
    assert same(jax.jit(exact.quotient, static_argnums=1)(a, n), a / dtype(n))
    assert same(exact.quotient(jnp.asarray(a), n), a / dtype(n))


def test_quotient_inside_a_larger_expression_is_still_a_division():
    a, b = some("random", (2, 2000), np.float32, np.random.default_rng(0))

    def expression(divide, a, b):
        return divide(a + b, 3) + divide(a - b, 7)

    numpys = (a + b) / np.float32(3) + (a - b) / np.float32(7)
    assert same(jax.jit(partial(expression, exact.quotient))(a, b), numpys)
    plain = jax.jit(partial(expression, lambda a, n: a / np.float32(n)))(a, b)
    assert not same(plain, numpys)  # XLA multiplies by the rounded reciprocal


def test_product_is_rounded_before_it_is_added():
    a, b, c = some("random", (3, 2000), np.float32, np.random.default_rng(0))

    def expression(multiply, a, b, c):
        return multiply(a, b) + c - multiply(b, c)

    numpys = a * b + c - b * c
    assert same(jax.jit(partial(expression, exact.product))(a, b, c), numpys)
    assert not same(jax.jit(partial(expression, jnp.multiply))(a, b, c), numpys)  # XLA rounds product and sum at once


def test_product_of_special_values_is_numpys(dtype):
    a, b = (each.ravel() for each in np.meshgrid(np.array(EDGES, dtype), np.array(EDGES, dtype)))
    with np.errstate(over="ignore", invalid="ignore"):
        assert same(jax.jit(exact.product)(a, b), a * b)


# The lesson's functions and their gradients.

PARAMETERS = {"()": (lambda x: ()), "(1,)": (lambda x: (1,)), "x": (lambda x: x)}


def torch_side(torch, w, b, x, y, upstream):
    """Q, the loss, and the gradients of w, b, x and y, with torch's own autograd."""
    w, b, x, y = (torch.tensor(value, requires_grad=True) for value in (w, b, x, y))
    Q = w * x + b
    loss = ((y - Q) ** 2).mean()
    loss.backward(torch.tensor(upstream, dtype=loss.dtype))
    return [Q.detach().numpy(), loss.detach().numpy(), *(leaf.grad.numpy() for leaf in (w, b, x, y))]


def our_side(order, w, b, x, y, upstream):
    def loss_and_prediction(params, x, y):
        Q = exact.linear(params, x, order)
        return exact.mse(y, Q, order), Q

    params = LinearParams(jnp.asarray(w), jnp.asarray(b))
    loss, pull_back, Q = jax.vjp(loss_and_prediction, params, x, y, has_aux=True)
    grads, of_x, of_y = pull_back(jnp.asarray(upstream, loss.dtype))
    return [Q, loss, *grads, of_x, of_y]


@pytest.mark.parametrize("shape", [(1,), (9,), (5, 4)], ids=str)
@pytest.mark.parametrize("of_b", PARAMETERS)
@pytest.mark.parametrize("of_w", PARAMETERS)
def test_lesson_and_all_its_gradients_are_torchs(torch, order, shape, of_w, of_b):
    random = np.random.default_rng(0)
    w, b = (some("random", PARAMETERS[which](shape), np.float32, random) for which in (of_w, of_b))
    x, y = some("random", (2, *shape), np.float32, random)
    ours = jax.jit(partial(our_side, order))(w, b, x, y, 0.3)
    for name, found, theirs in zip(
        ("Q", "loss", "w.grad", "b.grad", "x.grad", "y.grad"), ours, torch_side(torch, w, b, x, y, 0.3), strict=True
    ):
        assert same(found, theirs), name


@pytest.mark.parametrize("kind", ["random", "wide", "cancelling"])
def test_lesson_and_all_its_gradients_are_torchs_in_both_dtypes(torch, order, dtype, kind):
    w, b = some("random", (2, 1), dtype, np.random.default_rng(1))
    x, y = some(kind, (2, 100), dtype, np.random.default_rng(2))
    theirs = torch_side(torch, w, b, x, y, 1.0)
    assert all(map(same, jax.jit(partial(our_side, order))(w, b, x, y, 1.0), theirs))


def test_lesson_and_all_its_gradients_are_torchs_op_by_op_too(torch, order):
    w, b = some("random", (2, 1), np.float32, np.random.default_rng(1))
    x, y = some("random", (2, 100), np.float32, np.random.default_rng(2))
    assert all(map(same, our_side(order, w, b, x, y, 1.0), torch_side(torch, w, b, x, y, 1.0)))


def test_mse_is_torchs_mse_loss_too(torch, order, dtype):
    y, yhat = some("random", (2, 50), dtype, np.random.default_rng(0))
    leaf = torch.tensor(yhat, requires_grad=True)
    loss = torch.nn.functional.mse_loss(leaf, torch.tensor(y))
    loss.backward()
    ours, grad = jax.jit(jax.value_and_grad(lambda yhat: exact.mse(y, yhat, order)))(yhat)
    assert same(ours, loss.detach().numpy())
    assert same(grad, leaf.grad.numpy())


def test_plain_functions_under_jit_have_other_bits_than_torch(torch):
    # The twin of the tests above: without jaxgrad.exact they fail.
    from jaxgrad import linear, mse

    x, y = some("random", (2, 100), np.float32, np.random.default_rng(2))
    w, b = some("random", (2, 1), np.float32, np.random.default_rng(1))
    Q = torch_side(torch, w, b, x, y, 1.0)[0]
    ours = jax.jit(lambda w, b: linear(LinearParams(w, b), x))(w, b)
    assert not same(ours, Q)
    losses = [jax.jit(lambda y, Q: mse(y, Q))(y * scale, Q * scale) for scale in (1.0, 1.1, 1.2, 1.3)]
    theirs = [torch_side(torch, w * s, b * s, x, y * s, 1.0)[1] for s in (1.0, 1.1, 1.2, 1.3)]
    assert not same(np.stack(losses), np.stack(theirs))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 15, 16, 17, 100])
def test_sgd_update_is_torchs_by_hand_and_by_its_optimizer(torch, dtype, n):
    random = np.random.default_rng(n)
    w, grad = some("random", (2, n), dtype, random)
    rate = 10 ** random.uniform(-5, -1)
    leaf = torch.tensor(w, requires_grad=True)
    leaf.grad = torch.tensor(grad)
    by_hand = (leaf.detach() - rate * leaf.grad).numpy()
    torch.optim.SGD([leaf], lr=rate).step()
    assert same(jax.jit(exact.sgd_update)(w, grad, rate), by_hand)
    assert same(jax.jit(partial(exact.sgd_update, fused=True))(w, grad, rate), leaf.detach().numpy())


def test_fused_update_of_zeros_keeps_torchs_signs(torch):
    w, grad = (each.ravel() for each in np.meshgrid(f32([0.0, -0.0]), f32([0.0, -0.0, 1.0])))
    leaf = torch.tensor(w, requires_grad=True)
    leaf.grad = torch.tensor(grad)
    torch.optim.SGD([leaf], lr=0.1).step()
    assert same(exact.sgd_update(w, grad, 0.1, fused=True), leaf.detach().numpy())


def test_the_two_updates_have_different_bits():
    w, grad = some("random", (2, 1000), np.float32, np.random.default_rng(0))
    assert not same(exact.sgd_update(w, grad, 0.1), exact.sgd_update(w, grad, 0.1, fused=True))


def test_sgd_update_takes_any_tree_and_a_traced_rate():
    tree = {"layer": [jnp.ones(3), jnp.float32(2)], "bias": jnp.zeros((2, 2))}
    grads = jax.tree.map(lambda leaf: leaf + 3, tree)
    ours = jax.jit(exact.sgd_update)(tree, grads, jnp.float32(0.1))
    assert jax.tree.structure(ours) == jax.tree.structure(tree)
    jax.tree.map(
        lambda new, old, grad: np.testing.assert_array_equal(new, old - np.float32(0.1) * grad), ours, tree, grads
    )


def exact_step(order, fused, params, x, y, rate):
    grads = jax.grad(lambda p: exact.mse(y, exact.linear(p, x, order), order))(params)
    return exact.sgd_update(params, grads, rate, fused=fused)


@pytest.mark.parametrize(("fused", "torchs"), [(False, torch_autograd), (True, torch_sgd)], ids=["hand", "sgd"])
def test_descent_as_one_scan_of_many_starts_at_once_is_torchs(torch, order, dtype, fused, torchs):
    random = np.random.default_rng(0)
    x, y = some("random", (2, 33), dtype, random)
    of_w, of_b = some("random", (2, 6, 1), dtype, random)

    def descend(start):
        def body(params, _):
            params = exact_step(order, fused, params, x, y, 0.05)
            return params, params

        return jax.lax.scan(body, start, length=40)[1]

    ours = jax.jit(jax.vmap(descend))(LinearParams(of_w, of_b))
    for k in range(6):
        theirs = torchs.run(LinearParams(of_w[k], of_b[k]), x, y, 0.05, 40)
        assert same(ours.w[k], theirs["w"])
        assert same(ours.b[k], theirs["b"])


def test_functions_take_python_numbers_and_numpy():
    ours = exact.linear(LinearParams(2.0, 6.0), f32([1.0, 2.0, 3.0]))
    assert same(ours, f32([8.0, 10.0, 12.0]))
    assert exact.mse(np.array([5, 9, 13]), ours).item() == float.fromhex("0x1.d55556p+1")  # whole numbers as truth


def test_functions_keep_their_dtype_without_promotion(strict_dtypes, dtype):
    x = jnp.asarray([1.0, 2.0, 3.0], dtype)
    params = LinearParams(jnp.asarray([2.0], dtype), jnp.asarray([6.0], dtype))
    assert jax.eval_shape(lambda: exact.mse(x, exact.linear(params, x))).dtype == dtype
    for fused in (False, True):
        new = jax.eval_shape(partial(exact_step, SumOrder(), fused), params, x, x, 0.1)
        assert (new.w.dtype, new.b.dtype) == (dtype, dtype)


X3 = jnp.ones(3)
ONE = jnp.ones(1)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        pytest.param(
            lambda: exact.linear(LinearParams(2.0, 6.0), jnp.ones(3, jnp.bfloat16)),
            InputTypeError,
            r'exact\.linear: x is bf16\[3\], expected float32 or float64.*Use the plain functions \(route "functional"',
            id="dtype of x",
        ),
        pytest.param(
            lambda: exact.linear(LinearParams(jnp.ones(1, jnp.int32), ONE), X3),
            InputTypeError,
            r"exact\.linear: params\.w is i32\[1\], expected float32 or float64",
            id="dtype of w",
        ),
        pytest.param(
            lambda: exact.linear(LinearParams(ONE, jnp.ones(2)), X3),
            InputError,
            r"params\.b is f32\[2\] and x is f32\[3\], expected one entry in b or the shape of x.*Reshape",
            id="shape of b",
        ),
        pytest.param(
            lambda: exact.linear(LinearParams(jnp.ones((2, 1)), ONE), jnp.ones((2, 3))),
            InputError,
            r"exact\.linear: params\.w is f32\[2,1\] and x is f32\[2,3\], expected one entry or the same shape.*Use "
            r"jaxgrad\.linear",
            id="a parameter for each row",
        ),
        pytest.param(
            lambda: exact.mse(X3, jnp.ones((3, 1))),
            InputError,
            r"mse: y is f32\[3\] and yhat is f32\[3,1\].*Reshape one",
            id="shapes of mse",
        ),
        pytest.param(
            lambda: exact.mse(jnp.ones(3, jnp.float16), jnp.ones(3, jnp.float16)),
            InputTypeError,
            r"exact\.mse: y is f16\[3\], expected float32 or float64",
            id="dtype of mse",
        ),
        pytest.param(
            lambda: exact.mse(X3, jnp.ones(3, jnp.float16)),
            InputTypeError,
            r"exact\.mse: yhat is f16\[3\], expected float32 or float64",
            id="dtype of yhat",
        ),
        pytest.param(
            lambda: exact.sgd_update({"w": ONE}, {"v": ONE}, 0.1),
            InputError,
            r"exact\.sgd_update: grads has no leaf \['w'\]; grads has a leaf \['v'\].*Differentiate",
            id="trees",
        ),
        pytest.param(
            lambda: exact.sgd_update(ONE, ONE, -0.1),
            InputError,
            r"exact\.sgd_update: learning_rate is -0\.1, expected a positive and finite number\. Pass",
            id="rate",
        ),
        pytest.param(
            lambda: exact.sgd_update(jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.bfloat16), 0.1),
            InputTypeError,
            r"exact\.sgd_update: a leaf of params is bf16\[2\], expected float32 or float64",
            id="dtype of a leaf",
        ),
    ],
)
def test_bad_input_is_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
