"""Twins of what torch computes entry by entry."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.scipy.special as special


def _elu(x, alpha=1.0):
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x)))


def _celu(x, alpha=1.0):
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x) / alpha))


def _softplus(x, beta=1.0, threshold=20.0):
    return jnp.where(x * beta > threshold, x, jnp.logaddexp(x * beta, 0) / beta)


def _prelu(x, weight):
    shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)] if weight.size > 1 else [1] * x.ndim
    return jnp.where(x > 0, x, weight.reshape(shape) * x)


def _logit(x, eps=None):
    x = x if eps is None else jnp.clip(x, eps, 1 - eps)
    return jnp.log(x / (1 - x))


def _clamp(x, min=None, max=None):
    x = x if min is None else jnp.where(x < min, min, x)
    return x if max is None else jnp.where(x > max, max, x)


def _lerp(start, end, weight):
    return start + weight * (end - start)


def _addcdiv(x, a, b, value=1):
    return x + value * a / b


def _addcmul(x, a, b, value=1):
    return x + value * a * b


def _polygamma(n, x):
    return special.polygamma(n, x)


def _xlogy(x, y):
    return jnp.where(x == 0, 0.0, x * jnp.log(y))


TWINS = {
    "abs": jnp.abs,
    "acos": jnp.arccos,
    "acosh": jnp.arccosh,
    "asin": jnp.arcsin,
    "asinh": jnp.arcsinh,
    "atan": jnp.arctan,
    "atanh": jnp.arctanh,
    "cos": jnp.cos,
    "cosh": jnp.cosh,
    "deg2rad": jnp.deg2rad,
    "digamma": special.digamma,
    "erf": special.erf,
    "erfc": special.erfc,
    "erfinv": special.erfinv,
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "frac": lambda x: x - jnp.trunc(x),
    "i0": special.i0,
    "lgamma": special.gammaln,
    "log": jnp.log,
    "log10": jnp.log10,
    "log1p": jnp.log1p,
    "log2": jnp.log2,
    "logit": _logit,
    **{f"mvlgamma.mvlgamma_p_{p}": lambda x, p: special.multigammaln(x, p) for p in (1, 3, 5)},
    "nan_to_num": lambda x, nan=0.0, posinf=None, neginf=None: jnp.nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf),
    "neg": jnp.negative,
    **{f"polygamma.polygamma_n_{n}": _polygamma for n in range(5)},
    "positive": lambda x: x,
    "rad2deg": jnp.rad2deg,
    "reciprocal": jnp.reciprocal,
    "rsqrt": jax.lax.rsqrt,
    "sigmoid": jax.nn.sigmoid,
    "sin": jnp.sin,
    "sinc": jnp.sinc,
    "sinh": jnp.sinh,
    "special.entr": special.entr,
    "special.i0e": special.i0e,
    "special.i1": special.i1,
    "special.i1e": special.i1e,
    "special.log_ndtr": special.log_ndtr,
    "special.ndtr": special.ndtr,
    "special.ndtri": special.ndtri,
    "special.polygamma.special_polygamma_n_0": _polygamma,
    "special.xlog1py": special.xlog1py,
    "sqrt": jnp.sqrt,
    "square": jnp.square,
    "tan": jnp.tan,
    "tanh": jnp.tanh,
    # activations
    "nn.functional.celu": _celu,
    "nn.functional.elu": _elu,
    "nn.functional.gelu": lambda x, approximate="none": jax.nn.gelu(x, approximate=approximate == "tanh"),
    "nn.functional.glu": lambda x, dim=-1: jax.nn.glu(x, axis=dim),
    "nn.functional.hardshrink": lambda x, lambd=0.5: jnp.where(jnp.abs(x) > lambd, x, 0),
    "nn.functional.hardsigmoid": jax.nn.hard_sigmoid,
    "nn.functional.hardswish": jax.nn.hard_swish,
    "nn.functional.hardtanh": lambda x, min_val=-1.0, max_val=1.0: jnp.clip(x, min_val, max_val),
    "nn.functional.leaky_relu": lambda x, negative_slope=0.01: jax.nn.leaky_relu(x, negative_slope),
    "nn.functional.logsigmoid": jax.nn.log_sigmoid,
    "nn.functional.mish": jax.nn.mish,
    "nn.functional.prelu": _prelu,
    "nn.functional.relu": jax.nn.relu,
    "nn.functional.relu6": jax.nn.relu6,
    "nn.functional.selu": jax.nn.selu,
    "nn.functional.silu": jax.nn.silu,
    "nn.functional.softplus": _softplus,
    "nn.functional.softshrink": lambda x, lambd=0.5: jnp.sign(x) * jax.nn.relu(jnp.abs(x) - lambd),
    "nn.functional.softsign": jax.nn.soft_sign,
    "nn.functional.tanhshrink": lambda x: x - jnp.tanh(x),
    "nn.functional.threshold": lambda x, threshold, value: jnp.where(x > threshold, x, value),
    # two and more operands
    "__radd__": lambda x, other: other + x,
    "__rdiv__": lambda x, other: other / x,
    "__rmod__": lambda x, other: jnp.remainder(other, x),
    "__rmul__": lambda x, other: other * x,
    "__rpow__": lambda x, other: other**x,
    "__rsub__": lambda x, other: other - x,
    "add": lambda x, other, alpha=1: x + alpha * other,
    "addcdiv": _addcdiv,
    "addcmul": _addcmul,
    "atan2": jnp.arctan2,
    "clamp": _clamp,
    "clamp_max": lambda x, max: _clamp(x, max=max),
    "clamp_min": lambda x, min: _clamp(x, min=min),
    "complex": jax.lax.complex,
    "copysign": jnp.copysign,
    "div.no_rounding_mode": lambda x, other, rounding_mode=None: x / other,
    "float_power": jnp.float_power,
    "fmax": jnp.fmax,
    "fmin": jnp.fmin,
    "fmod": jnp.fmod,
    "hypot": jnp.hypot,
    "igamma": special.gammainc,
    "igammac": special.gammaincc,
    "ldexp": lambda x, other: x * 2.0**other,
    "lerp": _lerp,
    "logaddexp": jnp.logaddexp,
    "logaddexp2": jnp.logaddexp2,
    "max.binary": jnp.maximum,
    "maximum": jnp.maximum,
    "min.binary": jnp.minimum,
    "minimum": jnp.minimum,
    "mul": lambda x, other: x * other,
    "polar": lambda r, angle: jax.lax.complex(r * jnp.cos(angle), r * jnp.sin(angle)),
    "pow": lambda x, exponent: x**exponent,
    "remainder": jnp.remainder,
    "rsub": lambda x, other, alpha=1: other - alpha * x,
    "special.zeta": special.zeta,
    "sub": lambda x, other, alpha=1: x - alpha * other,
    "true_divide": lambda x, other: x / other,
    "xlogy": _xlogy,
}
