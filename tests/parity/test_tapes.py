from __future__ import annotations

import copy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgrad.parity.programs import JaxProgram, SplitParams, TorchProgram
from jaxgrad.parity.run_jax import JaxRun
from jaxgrad.parity.tape import check_tape

# --- torch ------------------------------------------------------------------------------------------------------------


def plain(torch):
    nn = torch.nn
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Dropout(0.0), nn.Linear(8, 3), nn.Softmax(-1))


def convolution(torch):
    nn = torch.nn
    layers = [nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(nn.Unflatten(1, (2, 4, 4)), *layers, nn.Linear(12, 3))


def recurrent(torch):
    class Last(torch.nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.cell = kind(3, 5, batch_first=True)

        def forward(self, x):
            return self.cell(x.reshape(-1, 2, 3))[0][:, -1]

    return torch.nn.Sequential(Last(torch.nn.LSTM), torch.nn.Linear(5, 3))


def aliasing(torch):
    """Views, writes through views, and values that are overwritten after somebody read them."""

    class Aliasing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.randn(6, 4))

        def forward(self, x):
            h = x @ self.w
            kept = h * 2
            base = torch.zeros(h.shape[0], 8)
            base[:, :4] = h
            base[:, 4:].copy_(h.flip(-1))
            base.mul_(1.5)
            h = base.view(-1, 2, 4).transpose(1, 2).reshape(-1, 8)
            return (h[:, ::2].exp() + kept)[:, :3].add_(0.25)

    return Aliasing()


def attention(torch):
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, x):
            return self.inner(x[None], x[None], x[None])[0][0][:, :3]

    return Attention()


def narrow(torch):
    """Hard-coded float32 inside, which the shadow must not obey."""

    class Narrow(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.randn(6, 3))

        def forward(self, x):
            h = torch.softmax((x @ self.w).float(), dim=-1, dtype=torch.float32)
            scale = torch.arange(1, 4, dtype=torch.float32) / 3
            return (h * scale + torch.full((3,), 0.1)).to(torch.float32)

    return Narrow()


MODELS = [plain, convolution, recurrent, aliasing, attention, narrow]


def squares(module, x):
    return ((module(x) - 0.3) ** 2).mean()


def recorded(torch, module, x):
    from jaxgrad.parity.run_torch import TorchRun

    run = TorchRun(TorchProgram(module, squares))
    return run, run.forward_and_backward((x,), ["batch[0]"])


@pytest.fixture
def batch(torch):
    torch.manual_seed(0)
    size = {"convolution": 32}
    return lambda build: torch.randn(4, size.get(build.__name__, 6))


@pytest.mark.parametrize("build", MODELS)
def test_a_recorded_torch_run_has_the_bits_of_an_unrecorded_one(torch, batch, build):
    x, module = batch(build), build(torch)
    twin = copy.deepcopy(module)
    run, tape = recorded(torch, module, x)
    loss = squares(twin, x)
    loss.backward()
    check_tape(tape)
    assert run.loss == loss.item()
    for ours, theirs in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("build", MODELS)
def test_the_shadow_of_a_torch_run_is_the_run_in_float64(torch, batch, build):
    x, module = batch(build), build(torch)
    twin = copy.deepcopy(module).double()
    if build is narrow:
        twin.forward = lambda x: torch.softmax(x @ twin.w, -1) * torch.arange(1, 4, dtype=torch.float64) / 3 + 0.1
    if build is aliasing:
        twin.forward = partial(_aliasing_in_float64, twin, torch)
    run, tape = recorded(torch, module, x)
    squares(twin, x.double()).backward()
    assert all(op.shadowed for op in tape.ops)
    for name, parameter in twin.named_parameters():
        truth = parameter.grad.numpy()
        assert np.abs(run.gradients[name] - truth).max() <= 1e-12 * max(np.abs(truth).max(), 1e-3)


def _aliasing_in_float64(twin, torch, x):
    h = x @ twin.w
    base = torch.cat([h, h.flip(-1)], -1) * 1.5
    rest = base.view(-1, 2, 4).transpose(1, 2).reshape(-1, 8)
    return (rest[:, ::2].exp() + h * 2)[:, :3] + 0.25


def test_a_torch_value_is_what_it_was_when_it_was_computed(torch, batch):
    module = aliasing(torch)
    _, tape = recorded(torch, module, batch(aliasing))
    product = next(op for op in tape.ops if op.name.startswith("aten.mm"))
    zeros = next(op for op in tape.ops if op.name.startswith("aten.zeros"))
    assert tape.values[zeros.outputs[0]].summary.fingerprint.largest == 0  # written to later, and zero all the same
    readers = [op.name for op in tape.ops if product.outputs[0] in op.inputs]
    assert any("copy_" in name for name in readers)


def test_torch_sites_name_the_module_and_the_users_line(torch, batch):
    module = plain(torch)
    _, tape = recorded(torch, module, batch(plain))
    by_module = {op.site.module: op for op in tape.ops if op.stage == "forward"}
    assert {"0", "1", "2", "4", "5"} <= set(by_module)
    assert all(op.site.file == __file__ for op in tape.ops if op.stage in ("forward", "loss"))
    backward = {op.site.module for op in tape.ops if op.stage == "gradient"}
    assert {"0", "1", "2", "4", "5"} <= backward
    assert {op.stage for op in tape.ops} == {"forward", "loss", "gradient"}


def test_dropout_is_seen_to_draw(torch):
    module = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Dropout(0.5))
    _, tape = recorded(torch, module, torch.randn(4, 6))
    assert [op.site.module for op in tape.ops if op.draws] == ["1"]
    assert tape.values[tape.loss].random


# --- JAX --------------------------------------------------------------------------------------------------------------


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))


def nested(params, x):
    h = jax.jit(lambda a: jax.nn.gelu(a @ params["w"]))(x)
    h = jax.checkpoint(lambda a: jnp.sin(a) * jax.nn.relu(a))(doubled(h))
    total, rows = jax.lax.scan(lambda c, a: (0.9 * c + a, c * a), h[0], h)
    h = jax.lax.cond(x[0, 0] > 100, lambda a: a, lambda a: 3 * a, rows)
    return jnp.mean(h**2) + jax.nn.logsumexp(total)


def counting(params, x):
    n = jax.lax.while_loop(lambda i: i < 3, lambda i: i + 1, 0)
    return jnp.sum(params["w"].astype(jnp.float32) ** 2) * n + jnp.mean(x) * 0


def scattering(params, x):
    h = jnp.zeros((6, 5)).at[jnp.array([0, 2, 2, 1])].add(x @ params["w"])
    h = (
        jnp.sort(h, axis=0)
        + jnp.cumsum(h, axis=1)
        + jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 1), (1, 1), "SAME")
    )
    return jnp.max(h) + jnp.mean(jnp.take(h, jnp.array([1, 1, 3]), axis=0) ** 2)


def convolving(params, x):
    image = jnp.tile(x, (1, 8)).reshape(1, 4, 8, 6)
    kernel = jnp.tile(params["w"].reshape(1, 1, 6, 5), (3, 3, 1, 1))
    h = jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.mean(jax.nn.softmax(h, axis=-1)[..., 0] ** 2)


LOSSES = [nested, counting, scattering, convolving]


def given():
    random = np.random.default_rng(0)
    return {"w": jnp.asarray(random.normal(size=(6, 5)), jnp.float32)}, jnp.asarray(
        random.normal(size=(4, 6)), jnp.float32
    )


def jax_recorded(loss):
    params, x = given()
    run = JaxRun(JaxProgram(params, loss), SplitParams(params), {})
    traced = run.trace((x,), [x])
    tape, _ = run.forward_and_backward(traced, [x], [np.asarray(x)], ["batch[0]"], set())
    return run, tape


@pytest.mark.parametrize("loss", LOSSES)
def test_a_recorded_jax_run_has_the_bits_of_the_run_op_by_op(loss):
    params, x = given()
    run, tape = jax_recorded(loss)
    check_tape(tape)
    with jax.disable_jit():  # loops as well: a loop that is compiled whole fuses products and sums on some processors
        value, slopes = jax.value_and_grad(loss)(params, x)
    assert run.loss == float(value)
    assert np.array_equal(run.own_gradients["['w']"], np.asarray(slopes["w"], np.float64))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_shadow_of_a_jax_run_is_the_run_in_float64(loss):
    params, x = given()
    run, tape = jax_recorded(loss)
    assert all(op.shadowed for op in tape.ops)
    with jax.enable_x64(True):
        wide = {"w": jnp.asarray(np.asarray(params["w"], np.float64))}
        truth = np.asarray(jax.grad(loss)(wide, jnp.asarray(np.asarray(x, np.float64)))["w"])
    if loss is counting:  # it casts to float32, also there
        truth = 6 * np.asarray(params["w"], np.float64)
    assert np.abs(run.gradients["['w']"] - truth).max() <= 1e-12 * np.abs(truth).max()


def test_nesting_is_dissolved_and_backward_is_marked():
    _, tape = jax_recorded(nested)
    names = {op.name for op in tape.ops}
    assert not names & {
        "jit",
        "pjit",
        "scan",
        "while",
        "cond",
        "custom_vjp_call",
        "custom_jvp_call",
        "checkpoint",
        "remat2",
    }
    assert {op.stage for op in tape.ops} == {"forward", "gradient"}
    assert all(op.site.file == __file__ for op in tape.ops)
    assert not jax.config.jax_enable_x64


def test_random_numbers_are_seen_to_be_drawn():
    def noisy(params, x):
        return jnp.mean((x @ params["w"]) * jax.random.bernoulli(jax.random.key(0), 0.5, (4, 5)))

    _, tape = jax_recorded(noisy)
    assert tape.values[tape.loss].random
    assert any(op.draws for op in tape.ops)
