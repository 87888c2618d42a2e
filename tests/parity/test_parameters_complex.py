"""Complex parameters: torch's gradient is the conjugate of JAX's, and a pair of real leaves is the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.comparing import compare
from support.porting import normal, params_of, torch

from jaxgrad import JaxProgram, TorchProgram
from jaxgrad.report.values import Verdict

SAME = (Verdict.IDENTICAL, Verdict.ROUNDING)
X, Y = normal(5, 4), np.abs(normal(5, 3, seed=1))

CONJUGATING = optax.stateless(lambda g, p: jax.tree.map(jnp.conj, g))


def _complex(*shape, seed=0):
    random = np.random.default_rng(seed)
    return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype(np.complex64)


class Net(torch.nn.Module):
    """A complex kernel and a complex bias; the sizes of what they make."""

    def __init__(self, seed=0, zero_bias=False):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(_complex(3, 4, seed=seed)))
        self.b = torch.nn.Parameter(torch.tensor(_complex(3, seed=seed + 100) * (not zero_bias)))

    def forward(self, x):
        return (x.to(self.w.dtype) @ self.w.T + self.b).abs()


class Pair(torch.nn.Module):
    """The same with real parameters."""

    def __init__(self, seed=0):
        super().__init__()
        w, b = _complex(3, 4, seed=seed), _complex(3, seed=seed + 100)
        self.re, self.im = (torch.nn.Parameter(torch.tensor(part.copy())) for part in (w.real, w.imag))
        self.bre, self.bim = (torch.nn.Parameter(torch.tensor(part.copy())) for part in (b.real, b.imag))

    def forward(self, x):
        w, b = torch.complex(self.re, self.im), torch.complex(self.bre, self.bim)
        return (x.to(w.dtype) @ w.T + b).abs()


def _torch_loss(m, x, y):
    return ((m(x) - y) ** 2).mean()


def _jax_loss(p, x, y):
    return jnp.mean((jnp.abs(x @ p["w"].T + p["b"][None]) - y) ** 2)


def _pair_loss(p, x, y):
    return _jax_loss({"w": jax.lax.complex(p["re"], p["im"]), "b": jax.lax.complex(p["bre"], p["bim"])}, x, y)


def _parts(module):
    w, b = module.w.detach().numpy(), module.b.detach().numpy()
    return {"re": w.real.copy(), "im": w.imag.copy(), "bre": b.real.copy(), "bim": b.imag.copy()}


def _compared(module, params, loss, ours=None, theirs=None, steps=2):
    batches = [(X, Y)] * (steps if ours else 1)
    return compare(TorchProgram(module, _torch_loss, ours), JaxProgram(params, loss, theirs), batches)


OPTIMIZERS = {
    "SGD": (lambda p: torch.optim.SGD(p, 0.05), optax.sgd(0.05)),
    "momentum": (lambda p: torch.optim.SGD(p, 0.05, momentum=0.9), optax.sgd(0.05, momentum=0.9)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gradient_that_is_conjugated_before_the_update_is_the_same(name, seed):
    ours, theirs = OPTIMIZERS[name]
    module = Net(seed)
    report = _compared(
        module, params_of(module), _jax_loss, ours(module.parameters()), optax.chain(CONJUGATING, theirs)
    )
    assert report.verdict in SAME, str(report)


@pytest.mark.parametrize("zero_bias", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_along_what_jax_grad_gives_is_not(name, zero_bias):
    ours, theirs = OPTIMIZERS[name]
    module = Net(zero_bias=zero_bias)
    report = _compared(module, params_of(module), _jax_loss, ours(module.parameters()), theirs)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "update"
    assert "conjugate" in report.first.message


@pytest.mark.parametrize("seed", range(2))
def test_without_optimizers_the_conjugate_gradient_is_named(seed):
    module = Net(seed)
    report = _compared(module, params_of(module), _jax_loss)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "gradient"
    assert "conjugate" in report.first.message
    assert "['w']" in "".join(each.message for each in report.divergences)


@pytest.mark.parametrize("optimizer", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_a_complex_parameter_in_torch_and_a_pair_of_reals_in_jax_are_the_same(optimizer, seed):
    module = Net(seed)
    optimizers = (torch.optim.SGD(module.parameters(), 0.05), optax.sgd(0.05)) if optimizer else ()
    report = _compared(module, _parts(module), _pair_loss, *optimizers)
    assert report.verdict in SAME, str(report)


@pytest.mark.parametrize("seed", range(2))
def test_a_pair_of_reals_in_torch_and_a_complex_parameter_in_jax(seed):
    module = Pair(seed)
    params = {"w": jnp.asarray(_complex(3, 4, seed=seed)), "b": jnp.asarray(_complex(3, seed=seed + 100))}
    ours = torch.optim.SGD(module.parameters(), 0.05)
    assert _compared(module, params, _jax_loss, ours, optax.chain(CONJUGATING, optax.sgd(0.05))).verdict in SAME
    report = _compared(module, params, _jax_loss, ours, optax.sgd(0.05))
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "update"


@pytest.mark.parametrize("optimizer", [False, True])
def test_pairs_of_reals_on_both_sides_are_the_same(optimizer):
    module = Pair()
    optimizers = (torch.optim.SGD(module.parameters(), 0.05), optax.sgd(0.05)) if optimizer else ()
    assert _compared(module, params_of(module), _pair_loss, *optimizers).verdict in SAME


# --- near misses ------------------------------------------------------------------------------------------------------


def test_parts_that_are_swapped_are_not_the_same():
    module = Net()
    loss = lambda p, x, y: _pair_loss({**p, "re": p["im"], "im": p["re"]}, x, y)  # noqa: E731
    report = _compared(module, _parts(module), loss)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage in ("forward", "loss")


def test_a_gradient_of_half_the_imaginary_part_is_not_the_same():
    module = Net()

    def loss(p, x, y):
        im = 0.5 * p["im"] + 0.5 * jax.lax.stop_gradient(p["im"])
        return _pair_loss({**p, "im": im}, x, y)

    report = _compared(module, _parts(module), loss)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "gradient"


def test_a_conjugated_kernel_is_not_the_same():
    module = Net()
    ours = torch.optim.SGD(module.parameters(), 0.05)
    loss = lambda p, x, y: _jax_loss({**p, "w": p["w"].conj()}, x, y)  # noqa: E731
    report = _compared(module, params_of(module), loss, ours, optax.chain(CONJUGATING, optax.sgd(0.05)))
    assert report.verdict is Verdict.DIFFERENT, str(report)


# --- buffers and batches ----------------------------------------------------------------------------------------------


class Rotated(torch.nn.Module):
    """A complex buffer times a complex batch, and a real layer on the size of it."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)
        self.register_buffer("turn", torch.tensor(np.exp(1j * np.arange(4)).astype(np.complex64)))

    def forward(self, z):
        return self.fc((z * self.turn + 1).abs())


@pytest.mark.parametrize("as_leaf", [False, True])
def test_a_complex_buffer_and_a_complex_batch(as_leaf):
    module = Rotated()
    params = params_of(module)
    turn = jnp.asarray(module.turn.numpy())
    params |= {"turn": turn} if as_leaf else {}

    def loss(p, z, y, off=0.0):
        turned = p["turn"] if as_leaf else turn
        return jnp.mean((jnp.abs(z * turned[None] + 1 + off) @ p["fc.weight"].T + p["fc.bias"][None] - y) ** 2)

    batch = (_complex(5, 4, seed=3), Y)
    report = compare(TorchProgram(module, _torch_loss), JaxProgram(params, loss), [batch])
    assert report.verdict in SAME, str(report)
    wrong = lambda p, z, y: loss(p, z, y, off=1e-4j)  # noqa: E731
    report = compare(TorchProgram(module, _torch_loss), JaxProgram(params, wrong), [batch])
    assert report.verdict is Verdict.DIFFERENT, str(report)
