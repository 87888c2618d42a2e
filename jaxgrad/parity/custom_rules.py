"""A ``custom_vjp`` or ``custom_jvp`` whose rule is not the derivative of its function, proven in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jaxgrad.parity.flat_jaxpr import FlatJaxpr, Step, as_function, flatten
from jaxgrad.parity.promote_jax import bind
from jaxgrad.report.values import Cause

CUSTOM = frozenset({"custom_vjp_call", "custom_jvp_call", "custom_vjp_call_jaxpr"})

EXACT = 1e-9
"""Two ways to compute one gradient in float64 agree to some 1e-14 of its size; a rule written with constants that
float32 has rounded is 1e-8 off, and is no derivative to float64 either."""


def find_wrong_rule(
    closed: jex.ClosedJaxpr, given: Sequence[Any], parameters: int, torch: Sequence[np.ndarray]
) -> Cause | None:
    """The custom rule that is the reason why a gradient differs; use inside ``jax.enable_x64(True)``.

    It is the reason if its function, differentiated by JAX, has another derivative where the program calls it, and if
    with that derivative in place of the rule the gradients of the loss are torch's.

    Args:
      closed: of the loss, traced in float64.
      given: its inputs, in float64.
      parameters: how many of them are parameters; they come first.
      torch: torch's gradients.

    Returns:
      The cause; None where no rule is proven to be one.
    """
    flat = flatten(closed, whole=CUSTOM)
    size = float(sum((each.astype(np.float64) ** 2).sum() for each in torch))
    try:
        env = dict(flat.constants) | dict(zip(flat.inputs, given, strict=True))
        for step in flat.steps:
            values = [env[i] for i in step.reads]
            if step.eqn.primitive.name in CUSTOM:
                apart = _apart(step, values)
                if apart > EXACT and _explains(flat, step, given, parameters, size):
                    return _told(step, apart)
            env.update(zip(step.makes, bind(step.eqn, values), strict=True))
    except Exception:  # what cannot be run or differentiated once more proves nothing
        return None
    return None


def _plain(eqn: Any) -> Callable[..., list[Any]]:
    return as_function(flatten(eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr"))))


def _apart(step: Step, values: list[Any]) -> float:
    """How far the rule is from the derivative, relative to the larger, in a direction drawn at random."""
    floats = [i for i, each in enumerate(values) if jnp.issubdtype(each.dtype, jnp.floating)]

    def pulled(function: Callable[..., list[Any]]) -> list[np.ndarray]:
        def of(*moved: Any) -> list[Any]:
            every = list(values)
            for i, each in zip(floats, moved, strict=True):
                every[i] = each
            return [each for each in function(*every) if jnp.issubdtype(each.dtype, jnp.floating)]

        made, pull = jax.vjp(of, *(values[i] for i in floats))
        random = np.random.default_rng(0)
        return [np.asarray(each) for each in pull([jnp.asarray(random.normal(size=each.shape)) for each in made])]

    rule, derivative = pulled(lambda *every: bind(step.eqn, every)), pulled(_plain(step.eqn))
    apart = max((float(np.abs(a - b).max(initial=0.0)) for a, b in zip(rule, derivative, strict=True)), default=0.0)
    largest = max((float(np.abs(each).max(initial=0.0)) for each in (*rule, *derivative)), default=0.0)
    return apart / largest if largest else 0.0


def _explains(flat: FlatJaxpr, wrong: Step, given: Sequence[Any], parameters: int, size: float) -> bool:
    """Whether the gradients have torch's size with the derivative in place of the rule, and another with the rule.

    Their sum of squares does not depend on how the parameters are laid out.
    """

    def gradients(mended: bool) -> float:
        def loss(params: Sequence[Any]) -> Any:
            env = dict(flat.constants) | dict(zip(flat.inputs, [*params, *given[parameters:]], strict=True))
            for step in flat.steps:
                values = [env[i] for i in step.reads]
                same = mended and step.eqn.params.get("call_jaxpr") is not None and _name(step) == _name(wrong)
                made = _plain(step.eqn)(*values) if same else bind(step.eqn, values)
                env.update(zip(step.makes, made, strict=True))
            return env[flat.outputs[0]]

        slopes = jax.grad(loss)(list(given[:parameters]))
        return float(sum((np.abs(np.asarray(each)) ** 2).sum() for each in slopes))

    return abs(gradients(True) - size) <= EXACT * size < abs(gradients(False) - size)


def _name(step: Step) -> str:
    inner = step.eqn.params.get("call_jaxpr", step.eqn.params.get("fun_jaxpr"))
    return str(getattr(getattr(inner, "jaxpr", inner).debug_info, "func_src_info", "") or step.eqn.primitive.name)


def _told(step: Step, apart: float) -> Cause:
    kind = "custom_jvp" if "jvp" in step.eqn.primitive.name else "custom_vjp"
    name = _name(step)
    return Cause(
        kind,
        f"the {kind} of {name} returns another gradient than the function's derivative",
        f"differentiated by JAX in float64 it is {apart:.3g} of its size away, and with it the gradients are torch's",
    )
