"""The optimizer's update as a program to compile: new parameters and state, of the gradients that the step had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.parity.compiled import Target
from jaxgrad.parity.flat_jaxpr import flatten, results
from jaxgrad.parity.programs import JaxProgram, SplitParams
from jaxgrad.pytrees import leaves_by_path


class UpdateTargets:
    """The updates of one program, step by step, each run operation by operation in the program's own precision."""

    def __init__(self, program: JaxProgram, split: SplitParams):
        self._program, self._split = program, split
        self._state: Any = None

    def next(self, params: Sequence[jax.Array], gradients: Sequence[np.ndarray], loss: float) -> list[Target]:
        """The update of one step; the optimizer's state is carried to the next.

        Args:
          params: the parameters before it.
          gradients: one a parameter, as ``jax.grad`` gives them.
          loss: of the step.

        Returns:
          One target, or none where the update cannot be traced, as one that asks for values cannot.
        """
        import optax

        optimizer = self._program.optimizer
        assert optimizer is not None

        def step(params: Any, slopes: Any, state: Any, loss: Any) -> tuple[Any, Any]:
            extra = {"value": loss, "grad": slopes}
            updates, state = optax.with_extra_args_support(optimizer).update(slopes, state, params, **extra)
            return optax.apply_updates(params, updates), state

        slopes = [jnp.asarray(slopes, each.dtype) for slopes, each in zip(gradients, params, strict=True)]
        try:  # what an optimizer raises is told where its update is judged
            if self._state is None:
                self._state = optimizer.init(self._split.trainable(params))
            arguments = (
                self._split.trainable(params),
                self._split.trainable(slopes),
                self._state,
                jnp.asarray(loss, params[0].dtype),
            )
            closed, shapes = jax.make_jaxpr(step, return_shape=True)(*arguments)
            given = [jnp.asarray(each) for each in jax.tree.leaves(arguments)]
            own = results(flatten(closed), given)
        except Exception:
            return []
        self._state = jax.tree.unflatten(jax.tree.structure(shapes), own)[1]
        names = [f"the new {path}" for path in self._split.paths]
        names += [f"the optimizer's {path}" for path in leaves_by_path(self._state)]
        exact = [np.asarray(each) for each in own]
        return [Target("update", closed, given, names, exact, exact)]
