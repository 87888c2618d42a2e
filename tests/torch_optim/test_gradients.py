from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgrad import InputError, optax_from_spec, optax_from_torch
from jaxgrad.torch_optim import accumulate, clip_grad_norm, clip_grad_value

RNG = np.random.default_rng(3)
SHAPES = [(4, 3), (3,), ()]


def _grads(size=1.0):
    return [size * RNG.normal(size=shape) for shape in SHAPES]


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop"])
def test_gradients_add_up_as_without_zero_grad(torch, name, mean, x64):
    start = _grads()
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in start]
    optimizer = getattr(torch.optim, name)(tensors, 1e-2)
    ours = accumulate(optax_from_torch(optimizer), 3, mean=mean)
    params = [jnp.asarray(p) for p in start]
    state = ours.init(params)
    update = jax.jit(ours.update)
    for micro in range(12):
        grads = _grads()
        for p, g in zip(tensors, grads, strict=True):
            p.grad = torch.tensor(g / 3 if mean else g) + (0 if p.grad is None else p.grad)
        if micro % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
        updates, state = update([jnp.asarray(g) for g in grads], state, params)
        params = optax.apply_updates(params, updates)
        for p, q in zip(params, tensors, strict=True):
            np.testing.assert_allclose(p, q.detach().numpy(), rtol=1e-13, atol=1e-15)


def test_accumulate_refuses_what_is_no_number_of_batches():
    for k in (0, -1, 2.5, "2"):
        with pytest.raises(InputError, match=r"accumulate: k=.*, expected a whole number from 1 on"):
            accumulate(optax_from_spec("SGD"), k)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.5, float("inf")])
@pytest.mark.parametrize(("size", "max_norm"), [(1.0, 1.0), (1e-5, 1e-6), (1e-5, 1.0), (100.0, 0.5), (0.0, 1.0)])
def test_clip_grad_norm_is_torchs(torch, size, max_norm, norm_type, x64):
    grads = _grads(size)
    tensors = [torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in grads]
    for p, g in zip(tensors, grads, strict=True):
        p.grad = torch.tensor(g)
    torch.nn.utils.clip_grad_norm_(tensors, max_norm, norm_type)
    ours = clip_grad_norm(max_norm, norm_type)
    updates, _ = jax.jit(ours.update)([jnp.asarray(g) for g in grads], ours.init(None))
    for u, p in zip(updates, tensors, strict=True):
        np.testing.assert_allclose(u, p.grad.numpy(), rtol=1e-14)


def test_clip_grad_value_is_torchs(torch):
    grads = [g.astype(np.float32) for g in _grads(3.0)]
    tensors = [torch.nn.Parameter(torch.zeros(g.shape)) for g in grads]
    for p, g in zip(tensors, grads, strict=True):
        p.grad = torch.tensor(g)
    torch.nn.utils.clip_grad_value_(tensors, 0.7)
    ours = clip_grad_value(0.7)
    updates, _ = ours.update([jnp.asarray(g) for g in grads], ours.init(None))
    for u, p in zip(updates, tensors, strict=True):
        np.testing.assert_array_equal(u, p.grad.numpy())


def test_clipping_refuses_negative_numbers():
    for make in (clip_grad_norm, clip_grad_value):
        with pytest.raises(InputError, match=r"-1"):
            make(-1)
