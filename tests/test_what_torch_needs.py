from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

from jaxgrad import InputError, InputTypeError, LinearParams, linear, loss, make_step, mse, run_lesson, sgd_update

X, Y = (1.0, 2.0, 3.0), (5.0, 9.0, 13.0)
x, y = jnp.array(X), jnp.array(Y)
PARAMS: Any = LinearParams(jnp.array([2.0]), jnp.array([6.0]))


def leaves(torch):
    w = torch.tensor([2.0], requires_grad=True)
    b = torch.tensor([6.0], requires_grad=True)
    return w, b


def reset(*tensors):
    for tensor in tensors:
        tensor.grad = None


def torch_loss(torch, w, b):
    return ((torch.tensor(Y) - (w * torch.tensor(X) + b)) ** 2).mean()


# torch: a tensor must ask for its gradient. JAX: the function is asked, for any of its arguments.


def test_torch_has_no_gradient_for_a_tensor_that_did_not_ask(torch):
    w, b = torch.tensor([2.0]), torch.tensor([6.0], requires_grad=True)
    torch_loss(torch, w, b).backward()
    assert w.grad is None
    assert b.grad.item() == 2.0
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch_loss(torch, w, b.detach()).backward()


def test_jax_differentiates_plain_arrays_by_any_argument():
    assert jax.grad(loss)(PARAMS, x, y).b.item() == 2.0
    assert jax.grad(loss, argnums=1)(PARAMS, x, y).shape == (3,)
    of_b = jax.grad(lambda b: loss(PARAMS._replace(b=b), x, y))(PARAMS.b)  # w is held fixed
    assert of_b.item() == 2.0


# torch: backward() adds to .grad, so it must be reset. JAX: a gradient is a returned value.


def test_torch_adds_a_second_backward_to_the_first(torch):
    w, b = leaves(torch)
    torch_loss(torch, w, b).backward()
    first = w.grad.item(), b.grad.item()
    torch_loss(torch, w, b).backward()
    assert (w.grad.item(), b.grad.item()) == (2 * first[0], 2 * first[1])
    reset(w, b)
    torch_loss(torch, w, b).backward()
    assert (w.grad.item(), b.grad.item()) == first


def test_torch_optimizer_resets_only_when_told(torch):
    w, b = leaves(torch)
    optimizer = torch.optim.SGD([w, b], lr=0.0)
    for _ in range(3):
        torch_loss(torch, w, b).backward()
        optimizer.step()
    assert b.grad.item() == 3 * 2.0
    optimizer.zero_grad()
    assert b.grad is None


def test_jax_gradient_is_the_same_however_often_it_is_asked_for():
    first, second = (jax.grad(loss)(PARAMS, x, y) for _ in range(2))
    assert first.w.item() == second.w.item() == float.fromhex("0x1.555558p+0")
    with pytest.raises(AttributeError):
        _ = PARAMS.w.grad  # nothing is stored on the arrays


def test_torch_frees_the_graph_and_jax_has_none_to_free(torch):
    value = torch_loss(torch, *leaves(torch))
    value.backward()
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()
    _, pull_back = jax.vjp(lambda params: loss(params, x, y), PARAMS)
    (one,), (other,) = (pull_back(jnp.float32(1)) for _ in range(2))
    assert one.b.item() == other.b.item() == 2.0


# torch: new weights must be written into the old leaf, outside of the graph. JAX: they are a new value.


def test_torch_weights_made_by_an_expression_are_no_leaf_and_get_no_gradient(torch):
    w, b = leaves(torch)
    torch_loss(torch, w, b).backward()
    w = w - 0.1 * w.grad
    assert not w.is_leaf
    torch_loss(torch, w, b).backward()
    with pytest.warns(UserWarning, match="not a leaf"):
        assert w.grad is None


def test_torch_refuses_to_change_a_leaf_in_place_inside_the_graph(torch):
    w, b = leaves(torch)
    torch_loss(torch, w, b).backward()
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        w -= 0.1 * w.grad
    with torch.no_grad():
        w -= 0.1 * w.grad
    assert w.is_leaf
    assert w.requires_grad
    assert w.item() == float.fromhex("0x1.dddddep+0")


def test_torch_weights_replaced_under_no_grad_ask_for_nothing(torch):
    w, b = leaves(torch)
    torch_loss(torch, w, b).backward()
    with torch.no_grad():
        w = w - 0.1 * w.grad
    assert not w.requires_grad


def test_jax_update_returns_new_parameters_and_keeps_the_old():
    grads = jax.grad(loss)(PARAMS, x, y)
    new: Any = sgd_update(PARAMS, grads, 0.1)
    assert new.w.item() == float.fromhex("0x1.dddddep+0")
    assert PARAMS.w.item() == 2.0
    with pytest.raises(TypeError, match="immutable"):
        PARAMS.w[0] = 1.0  # pyright: ignore[reportIndexIssue]
    assert jax.grad(loss)(new, x, y).b.shape == (1,)  # and they can be differentiated at once


# torch: detach().numpy() is a view of the weights. JAX: arrays do not change, so a history is a history.


def test_torch_history_of_views_rewrites_itself(torch):
    w, b = leaves(torch)
    views, copies = [], []
    for _ in range(3):
        reset(w, b)
        torch_loss(torch, w, b).backward()
        with torch.no_grad():
            w -= 0.1 * w.grad
            b -= 0.1 * b.grad
        views.append(w.detach().numpy())
        copies.append(w.detach().numpy().copy())
    assert len({view.item() for view in views}) == 1
    assert len({copy.item() for copy in copies}) == 3
    with pytest.raises(RuntimeError, match="requires grad"):
        w.numpy()
    assert [copy.item() for copy in copies] == run_lesson(w=[2.0], b=[6.0], steps=3)["w"][:, 0].tolist()


def test_jax_history_keeps_every_step():
    params, history = PARAMS, []
    for _ in range(3):
        params = sgd_update(params, jax.grad(loss)(params, x, y), 0.1)
        history.append(np.asarray(params.w))
    assert [value.item() for value in history] == run_lesson(w=[2.0], b=[6.0], steps=3)["w"][:, 0].tolist()


# JAX: a compiled function reads what is not its argument once. torch reads it each time.


def test_jit_reads_a_global_once_and_torch_each_time(torch):
    rate = {"value": 0.1}

    def adjusted(w):
        return w - rate["value"] * w

    compiled = jax.jit(adjusted)
    first = compiled(jnp.float32(1)), adjusted(torch.tensor(1.0))
    rate["value"] = 0.5
    second = compiled(jnp.float32(1)), adjusted(torch.tensor(1.0))
    assert [value.item() for value in first] == [np.float32(0.9).item()] * 2
    assert [value.item() for value in second] == [np.float32(0.9).item(), 0.5]
    as_argument = jax.jit(lambda w, rate: w - rate * w)  # what the lesson does
    assert as_argument(jnp.float32(1), 0.5).item() == 0.5


def test_jit_runs_python_side_effects_while_it_traces_only():
    seen = []

    def noted(params, x, y):
        seen.append(params.w)
        return loss(params, x, y)

    step = make_step(noted, learning_rate=0.1)
    params = PARAMS
    for _ in range(5):
        params, _, _ = step(params, None, (x, y))
    assert len(seen) == 1
    assert isinstance(seen[0], Tracer)  # not a number: it must not be kept
    with pytest.raises(jax.errors.UnexpectedTracerError, match="side effect"):
        seen[0] + 1  # pyright: ignore[reportUnusedExpression]


def test_jit_refuses_to_branch_on_a_value_and_torch_does_not(torch):
    def clipped(w):
        return w if w > 0 else -w

    assert clipped(torch.tensor(-2.0)).item() == 2.0
    assert clipped(jnp.float32(-2)).item() == 2.0  # op by op
    with pytest.raises(jax.errors.TracerBoolConversionError):
        jax.jit(clipped)(jnp.float32(-2))
    assert jax.jit(lambda w: jnp.where(w > 0, w, -w))(jnp.float32(-2)).item() == 2.0


# JAX: grad takes one floating output and floating inputs. torch has rules of its own for both.


def test_both_ask_for_a_scalar_to_differentiate(torch):
    w, b = leaves(torch)
    with pytest.raises(RuntimeError, match="only for scalar outputs"):
        (w * torch.tensor(X) + b).backward()
    with pytest.raises(TypeError, match=r"scalar-output functions.*\(3,\)"):
        jax.grad(linear)(PARAMS, x)
    assert jax.jacrev(linear)(PARAMS, x).b.shape == (3, 1)  # the gradients of each prediction
    step = make_step(linear, learning_rate=0.1)
    with pytest.raises(InputError, match=r"loss returned f32\[3\], expected one floating number.*Take its mean"):
        step(PARAMS, None, (x,))


def test_both_ask_for_floats_to_differentiate(torch):
    with pytest.raises(RuntimeError, match="floating point"):
        torch.tensor([2], requires_grad=True)
    with pytest.raises(TypeError, match="real- or complex-valued inputs"):
        jax.grad(loss)(LinearParams(jnp.array([2]), jnp.array([6])), x, y)
    with pytest.raises(InputTypeError, match=r"w is i32\[1\], expected floating.*Pass w\.astype\(jnp\.float32\)"):
        run_lesson(w=jnp.array([2]), b=6.0)


# Both broadcast; torch warns of it in its own loss only, jaxgrad refuses.


def test_a_column_against_a_row_is_averaged_over_all_pairs_by_torch_and_refused_here(torch):
    row, column = torch.tensor(Y), torch.tensor(Y)[:, None]
    assert ((row - column) ** 2).shape == (3, 3)  # silently
    with pytest.warns(UserWarning, match="target size"):
        wrong = torch.nn.functional.mse_loss(column, row)
    assert wrong.item() > 0  # for a prediction that is perfect
    with pytest.raises(InputError, match=r"y is f32\[3\] and yhat is f32\[3,1\].*average over f32\[3,3\].*Reshape one"):
        mse(y, y[:, None])


# Float64: NumPy's default becomes float64 in torch and float32 in JAX.


def test_numpy_float64_keeps_its_width_in_torch_and_not_in_jax(torch, x64):
    tenth = np.array([0.1])
    assert torch.tensor(tenth).dtype == torch.float64
    assert jnp.asarray(tenth).dtype == jnp.float64  # inside jax.enable_x64(True)
    with jax.enable_x64(False):
        assert jnp.asarray(tenth).dtype == jnp.float32
        assert run_lesson(tenth, tenth).dtype == np.float32
    assert run_lesson(tenth, tenth).dtype == np.float64
