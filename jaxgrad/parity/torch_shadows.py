"""The float64 shadow of an ATen operation: its float64 kernel, or a rule where that does not tell the truth.

What needs a rule was found by measuring: every function of torch's own operator database in float64, forward and
backward, against 40 digits, against the decompositions, and against extrapolated differences (torch 2.13). All others
are right to 1e-14 of their largest entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._decomp import decomposition_table

from jaxgrad.parity.kinds import base_name
from jaxgrad.parity.torch_rnn import shadow_of_fused_rnn
from jaxgrad.parity.torch_special import airy_ai, bessel_j, bessel_y, igamma, igammac, trigamma


def run_wide(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation on float64 tensors.

    Args:
      func: an overload of an ATen operation.
      args: its positional arguments, tensors in float64.
      kwargs: the others.

    Returns:
      What the operation returns; one that writes to its arguments has written to these.

    Raises:
      RuntimeError, NotImplementedError: if torch has neither a float64 kernel nor a decomposition for it.
    """
    rule = RULES.get(base_name(str(func)))
    if rule is not None:
        return _by_rule(rule, func, args, kwargs)
    if any(argument.name == "half_to_float" for argument in func._schema.arguments):
        args = (*args[:2], False)
    return _by_kernel(func, args, kwargs)


def _by_kernel(func: Any, args: Any, kwargs: Any) -> Any:
    try:
        return func(*args, **kwargs)
    except (RuntimeError, NotImplementedError):
        if func not in decomposition_table:
            raise
        return decomposition_table[func](*args, **kwargs)


def _by_rule(rule: Callable[..., Any], func: Any, args: Any, kwargs: Any) -> Any:
    """Apply a rule to the operation's arguments by name; written arguments are written to."""
    arguments = func._schema.arguments
    given = {each.name: kwargs.get(each.name, each.default_value) for each in arguments}
    given.update(zip(given, args, strict=False))
    written = [each.name for each in arguments if each.alias_info is not None and each.alias_info.is_write]
    read = {name: value for name, value in given.items() if name not in written or name == "self"}
    made = rule(func, **read)
    return given[written[0]].copy_(made) if written else made


# --- rules ------------------------------------------------------------------------------------------------------------


def _softplus(func: Any, self: torch.Tensor, beta: float, threshold: float) -> torch.Tensor:
    """Softplus is cut off where float32 cannot tell it from its argument; float64 can, up to some 40."""
    return torch.nn.functional.softplus(self, beta, _further(threshold))


def _softplus_backward(
    func: Any, grad_output: torch.Tensor, self: torch.Tensor, beta: float, threshold: float
) -> torch.Tensor:
    return torch.ops.aten.softplus_backward.default(grad_output, self, beta, _further(threshold))


def _further(threshold: float) -> float:
    return max(threshold, 40) if threshold >= 16 else threshold


def _hardsigmoid_backward(func: Any, grad_output: torch.Tensor, self: torch.Tensor) -> torch.Tensor:
    """The kernel multiplies by 1/6 as float32 has it, 3e-8 off; also in float64."""
    inside = (self > -3) & (self < 3)
    return torch.where(inside, grad_output / 6, torch.zeros_like(grad_output))


def _elu_backward(
    func: Any,
    grad_output: torch.Tensor,
    alpha: float,
    scale: float,
    input_scale: float,
    is_result: bool,
    self_or_result: torch.Tensor,
) -> torch.Tensor:
    """The derivative of ``celu`` hands over ``1 / alpha`` as float32 has it (``derivatives.yaml``: ``toFloat``)."""
    if input_scale != 1 and abs(alpha * input_scale - 1) < 2.0**-22:
        input_scale = 1 / alpha
    return torch.ops.aten.elu_backward.default(grad_output, alpha, scale, input_scale, is_result, self_or_result)


def _gelu(func: Any, self: torch.Tensor, approximate: str) -> torch.Tensor:
    """The kernel adds 1 to what is nearly -1: of entries below -5 nothing is left, and of all, if they are alone."""
    if approximate == "tanh":
        return self * torch.sigmoid(2 * _inside_tanh(self))
    return self * torch.special.erfc(-self * 0.5**0.5) / 2


def _gelu_backward(func: Any, grad_output: torch.Tensor, self: torch.Tensor, approximate: str) -> torch.Tensor:
    if approximate == "tanh":
        half = torch.sigmoid(2 * _inside_tanh(self))
        other = torch.sigmoid(-2 * _inside_tanh(self))
        slope = (2 / torch.pi) ** 0.5 * (1 + 3 * 0.044715 * self**2)
        return grad_output * (half + 2 * self * half * other * slope)
    density = torch.exp(-self * self / 2) / (2 * torch.pi) ** 0.5
    return grad_output * (torch.special.erfc(-self * 0.5**0.5) / 2 + self * density)


def _inside_tanh(x: torch.Tensor) -> torch.Tensor:
    return (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)


def _polygamma(func: Any, n: int, self: torch.Tensor) -> torch.Tensor:
    return trigamma(self) if n == 1 else torch.polygamma(n, self)


def _fused_rnn(func: Any, **given: Any) -> Any:
    return shadow_of_fused_rnn(base_name(str(func)), tuple(given.values()))


RULES: dict[str, Callable[..., Any]] = {
    "softplus": _softplus,
    "softplus_backward": _softplus_backward,
    "hardsigmoid_backward": _hardsigmoid_backward,
    "elu_backward": _elu_backward,
    "gelu": _gelu,
    "gelu_backward": _gelu_backward,
    "polygamma": _polygamma,
    "igamma": lambda func, self, other: igamma(self, other),
    "igammac": lambda func, self, other: igammac(self, other),
    "special_airy_ai": lambda func, x: airy_ai(x),
    "special_bessel_j0": lambda func, self: bessel_j(0, self),
    "special_bessel_j1": lambda func, self: bessel_j(1, self),
    "special_bessel_y0": lambda func, self: bessel_y(0, self),
    "special_bessel_y1": lambda func, self: bessel_y(1, self),
    "mkldnn_rnn_layer": _fused_rnn,
    "mkldnn_rnn_layer_backward": _fused_rnn,
}
