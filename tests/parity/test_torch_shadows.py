"""torch's own float64 kernels are not all exact; the shadows are, and right programs that use them are not accused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict

pytestmark = pytest.mark.usefixtures("torch")

SAME = (Verdict.ROUNDING, Verdict.IDENTICAL)
ALL = np.linspace(-12.0, 12.0, 1201)
POSITIVE = np.linspace(0.05, 40.0, 1201)
NEAR = np.linspace(0.3, 2.0, 400)
G = np.linspace(-2.0, 2.0, ALL.size)


def _normal(x):
    return np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def _tanh_gelu(x):
    return x * special.expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))


def _tanh_gelu_slope(x):
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    rest = 2 * special.expit(2 * u) * special.expit(-2 * u) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    return special.expit(2 * u) + x * rest


# Operation, its arguments, what scipy or the mathematics says, and how far torch 2.13's own float64 kernel is off.
KERNELS = {
    "hardsigmoid_backward": (("default", G, ALL), np.where(abs(ALL) < 3, G / 6, 0), 1e-8),
    "elu_backward": (  # as celu with alpha 0.7 calls it
        ("default", G, 0.7, 1, float(np.float32(1) / np.float32(0.7)), False, ALL),
        np.where(ALL > 0, G, G * np.exp(np.minimum(ALL, 0) / 0.7)),
        1e-10,
    ),
    "polygamma": (("default", 1, POSITIVE), special.polygamma(1, POSITIVE), 1e-13),
    "igamma": (("default", np.full_like(NEAR, 30), 30 * NEAR), special.gammainc(30, 30 * NEAR), 1e-10),
    "igammac": (("default", np.full_like(NEAR, 250), 250 * NEAR), special.gammaincc(250, 250 * NEAR), 1e-11),
    "special_bessel_j0": (("default", 3 * ALL), special.j0(3 * ALL), 1e-7),
    "special_bessel_j1": (("default", 3 * ALL), special.j1(3 * ALL), 1e-7),
    "special_bessel_y0": (("default", POSITIVE), special.y0(POSITIVE), 1e-8),
    "special_bessel_y1": (("default", POSITIVE), special.y1(POSITIVE), 1e-8),
    "special_airy_ai": (("default", ALL), special.airy(ALL)[0], 1e-7),
    "softplus": (("default", ALL * 3, 1, 20), np.logaddexp(0, ALL * 3), 1e-12),
    "softplus_backward": (("default", G, ALL * 3, 1, 20), G * special.expit(ALL * 3), 1e-10),
    "gelu": (("default", -7 - abs(ALL) / 12), (-7 - abs(ALL) / 12) * special.ndtr(-7 - abs(ALL) / 12), 1e-6),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_shadow_is_exact_where_the_kernel_is_not(torch, name):
    from jaxgrad.parity.torch_shadows import run_wide

    (overload, *given), expected, off = KERNELS[name]
    function = getattr(getattr(torch.ops.aten, name), overload)
    args = [torch.tensor(each) if isinstance(each, np.ndarray) else each for each in given]
    largest = abs(expected).max()
    assert abs(run_wide(function, args, {}).numpy() - expected).max() < 2e-14 * largest
    assert abs(function(*args).numpy() - expected).max() > off * largest, "torch has mended it: the rule can go"


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_the_shadow_of_gelu_is_exact_in_its_tail(torch, approximate):
    from jaxgrad.parity.torch_shadows import run_wide

    x, seed = torch.tensor(ALL / 2), torch.tensor(G)
    how = {"approximate": approximate}
    forward = run_wide(torch.ops.aten.gelu.default, (x,), how).numpy()
    slope = run_wide(torch.ops.aten.gelu_backward.default, (seed, x), how).numpy()
    x = ALL / 2
    expected = _tanh_gelu(x) if approximate == "tanh" else x * special.ndtr(x)
    np.testing.assert_allclose(forward, expected, rtol=1e-13, atol=0)
    expected = _tanh_gelu_slope(x) if approximate == "tanh" else special.ndtr(x) + x * _normal(x)
    np.testing.assert_allclose(slope, G * expected, rtol=1e-13, atol=1e-15)


def test_a_rule_writes_in_place(torch):
    from jaxgrad.parity.torch_shadows import run_wide

    x = torch.tensor([0.5, 1.5], dtype=torch.float64)
    assert run_wide(torch.ops.aten.polygamma_.default, (x, 1), {}) is x
    np.testing.assert_allclose(x.numpy(), special.polygamma(1, [0.5, 1.5]), rtol=1e-14)
    out = torch.empty(2, dtype=torch.float64)
    run_wide(torch.ops.aten.igamma.out, (x, x), {"out": out})
    np.testing.assert_allclose(out.numpy(), special.gammainc(x.numpy(), x.numpy()), rtol=1e-14)


# --- whole programs ---------------------------------------------------------------------------------------------------


def between(torch, ours, theirs, shift=0.0):
    """A function between two linear layers, in torch and in JAX."""
    random = np.random.default_rng(5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 3))
    with torch.no_grad():
        module[0].bias += shift
    x, y = random.normal(size=(5, 6)).astype(np.float32), random.normal(size=(5, 3)).astype(np.float32)
    params = {name: jnp.asarray(each.detach().numpy().copy()) for name, each in module.named_parameters()}

    def linear(params, name, x):
        return x @ params[name + ".weight"].T + params[name + ".bias"][None]

    def torch_loss(module, x, y):
        return torch.nn.functional.mse_loss(module[1](ours(module[0](x))), y)

    def jax_loss(params, x, y):
        return jnp.mean((linear(params, "1", theirs(linear(params, "0", x))) - y) ** 2)

    return compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [(x, y)])


def _celu(h, alpha):
    return jnp.where(h > 0, h, alpha * jnp.expm1(jnp.minimum(h, 0) / alpha))


@jax.custom_vjp
def _slope_off(h):
    return jax.nn.hard_sigmoid(h)


_slope_off.defvjp(lambda h: (jax.nn.hard_sigmoid(h), h), lambda h, g: (g * (1 + 1e-6) * (abs(h) < 3) / 6,))

RIGHT = {
    "hardsigmoid": (lambda torch: torch.nn.functional.hardsigmoid, jax.nn.hard_sigmoid, 0),
    "hardsigmoid, clipped": (lambda torch: torch.nn.functional.hardsigmoid, lambda h: jnp.clip(h / 6 + 0.5, 0, 1), 0),
    "celu 0.7": (lambda torch: lambda h: torch.nn.functional.celu(h, 0.7), lambda h: jax.nn.celu(h, 0.7), 0),
    "celu 1.3": (lambda torch: lambda h: torch.nn.functional.celu(h, 1.3), lambda h: _celu(h, 1.3), 0),
    "digamma": (lambda torch: torch.digamma, jax.scipy.special.digamma, 4),
    "lgamma": (lambda torch: torch.lgamma, jax.scipy.special.gammaln, 4),
    "trigamma": (lambda torch: lambda h: torch.polygamma(1, h), lambda h: jax.scipy.special.polygamma(1, h), 4),
    "exp(1j h)": (lambda torch: lambda h: torch.exp(1j * h).imag, lambda h: jnp.exp(1j * h).imag, 0),
    "conj": (
        lambda torch: lambda h: (torch.conj(torch.exp((1 + 2j) * h)) * (2 - 1j)).imag,
        lambda h: (jnp.conj(jnp.exp((1 + 2j) * h)) * (2 - 1j)).imag,
        0,
    ),
}
WRONG = {
    "hardsigmoid, slope": (lambda torch: torch.nn.functional.hardsigmoid, _slope_off, 0),
    "hardsigmoid, 0.1667": (
        lambda torch: torch.nn.functional.hardsigmoid,
        lambda h: jnp.clip(h * 0.1667 + 0.5, 0, 1),
        0,
    ),
    "celu 0.7, 0.70001": (lambda torch: lambda h: torch.nn.functional.celu(h, 0.7), lambda h: _celu(h, 0.70001), 0),
    "trigamma, scaled": (
        lambda torch: lambda h: torch.polygamma(1, h),
        lambda h: jax.scipy.special.polygamma(1, h) * (1 + 1e-6),
        4,
    ),
    "exp(-1j h)": (lambda torch: lambda h: torch.exp(1j * h).imag, lambda h: jnp.exp(-1j * h).imag, 0),
    "conj left out": (
        lambda torch: lambda h: (torch.conj(torch.exp((1 + 2j) * h)) * (2 - 1j)).imag,
        lambda h: (jnp.exp((1 + 2j) * h) * (2 - 1j)).imag,
        0,
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_programs_are_the_same(torch, name):
    ours, theirs, shift = RIGHT[name]
    report = between(torch, ours(torch), theirs, shift)
    assert report.verdict in SAME, str(report)


@pytest.mark.parametrize("name", WRONG)
def test_programs_next_to_them_are_not(torch, name):
    ours, theirs, shift = WRONG[name]
    report = between(torch, ours(torch), theirs, shift)
    assert report.verdict is Verdict.DIFFERENT, str(report)
