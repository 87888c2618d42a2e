"""One JAX program traced and run under the recorder, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError, InputTypeError, ProgramError
from jaxgrad.parity.batches import is_number, jax_batch
from jaxgrad.parity.compiled import Target
from jaxgrad.parity.custom_rules import find_wrong_rule
from jaxgrad.parity.flat_jaxpr import FlatJaxpr, flatten, results
from jaxgrad.parity.programs import JaxProgram, SplitParams
from jaxgrad.parity.promote_jax import in_float64, widened
from jaxgrad.parity.tape import Tape
from jaxgrad.parity.tape_jax import JaxRecorder
from jaxgrad.pytrees import short
from jaxgrad.report.values import Cause


class JaxRun:
    """The steps of one JAX program: its own parameters and optimizer state, and those of the float64 shadow."""

    def __init__(self, program: JaxProgram, split: SplitParams, shadows: dict[str, np.ndarray]):
        self.program, self.split = program, split
        self.own = [jnp.asarray(array) for array in split.arrays]
        self.wide = [shadows[p] if p in shadows else in_float64(a) for p, a in zip(split.paths, self.own, strict=True)]
        self.loss = self.wide_loss = 0.0
        self.loss_jaxpr: Callable[[], jex.ClosedJaxpr] | None = None
        self._wide_loss_jaxpr: Callable[[], jex.ClosedJaxpr] | None = None
        self.gradients: dict[str, np.ndarray] = {}
        self.own_gradients: dict[str, np.ndarray] = {}
        self.moved: dict[str, np.ndarray] = {}
        self._states: tuple[Any, Any] | None = None

    def trace(
        self, batch: Sequence[Any], arrays: Sequence[jax.Array]
    ) -> tuple[jex.ClosedJaxpr, jex.ClosedJaxpr | None]:
        """The jaxpr of loss and gradients; and traced again in float64, where the program allows it.

        Raises:
          ProgramError: if the loss raises.
          InputError, InputTypeError: if it is not a scalar, or no function of the parameters.
        """
        leaves, structure = jax.tree.flatten(tuple(batch))

        def loss_of(fixed: dict[int, Any]) -> Callable[..., Any]:
            def loss(params: list[Any], *flat: Any) -> Any:
                given = [fixed.get(i, each) for i, each in enumerate(flat)]
                value = self.program.loss(self.split.whole(params), *jax.tree.unflatten(structure, given))
                _check_loss(value)
                return jnp.reshape(value, ())

            return loss

        def step(fixed: dict[int, Any]) -> Callable[..., Any]:
            return jax.value_and_grad(loss_of(fixed))

        fixed: dict[int, Any] = {}
        try:
            try:
                closed = jax.make_jaxpr(step(fixed))(self.own, *arrays)
            except jax.errors.ConcretizationTypeError:  # a Python number that decides: static, as jax.jit would have it
                fixed = {i: leaf for i, leaf in enumerate(leaves) if is_number(leaf)}
                if not fixed:
                    raise
                closed = jax.make_jaxpr(step(fixed))(self.own, *arrays)
        except (InputError, InputTypeError):
            raise
        except Exception as error:
            raise ProgramError(f"compare: the JAX loss raised {type(error).__name__}: {error}") from error
        own = list(self.own)
        self.loss_jaxpr = lambda: jax.make_jaxpr(loss_of(fixed))(own, *arrays)
        used = _reached(closed.jaxpr, closed.jaxpr.outvars[0])
        if not any(var in used for var in closed.jaxpr.invars[: len(self.own)]):
            raise InputError(
                "compare: the JAX loss is not a function of params: none of its leaves is read. "
                "Compute it from the params that are passed in, not from those around the function."
            )
        self._wide_loss_jaxpr = None
        try:
            with jax.enable_x64(True):
                wide = [jax.ShapeDtypeStruct(each.shape, jnp.float64) for each in self.wide]
                inputs = [
                    jax.ShapeDtypeStruct(a.shape, jnp.float64 if _floating(a) else a.dtype, weak_type=a.aval.weak_type)
                    for a in arrays
                ]
                better = jax.make_jaxpr(step(fixed))(wide, *inputs)
                self._wide_loss_jaxpr = lambda: jax.make_jaxpr(loss_of(fixed))(wide, *inputs)
        except Exception:  # the program insists on its own precision; its literals are recovered one by one
            better = None
        return closed, better

    def forward_and_backward(
        self,
        traced: tuple[jex.ClosedJaxpr, jex.ClosedJaxpr | None],
        arrays: Sequence[jax.Array],
        exact: Sequence[np.ndarray],
        names: Sequence[str],
        fixed: set[str],
        perturb: int | None,
        exact_constant: Callable[[np.ndarray], bool],
    ) -> tuple[Tape, bool]:
        """Record the loss of a batch and its gradients.

        Args:
          traced: from ``trace``.
          arrays: the batch as JAX holds it.
          exact: the batch as it was given, perhaps wider.
          names: of the batch's leaves.
          fixed: the paths of leaves that are no parameters.
          perturb: a seed for the second shadow, or None.
          exact_constant: see ``JaxRecorder``.

        Returns:
          The tape, and whether some constant may stand for another number than it holds.
        """
        recorder = JaxRecorder(perturb, exact_constant)
        leaves = [
            (path, own, wide, path not in fixed)
            for path, own, wide in zip(self.split.paths, self.own, self.wide, strict=True)
        ]
        leaves += [
            (name, array, in_float64(wide) if _floating(array) else None, _floating(array) and not array.aval.weak_type)
            for name, array, wide in zip(names, arrays, exact, strict=True)
        ]
        loss, *grads = recorder.record(*traced, leaves)
        tape = recorder.tape
        tape.loss = loss.index
        self.loss, self.wide_loss = float(loss.own), float(loss.shadows[0])
        for path, cell in zip(self.split.paths, grads, strict=True):
            tape.gradients[path] = cell.index
            self.gradients[path] = np.asarray(cell.shadows[0])
            own = np.asarray(cell.own)
            self.own_gradients[path] = own.astype(np.float32) if own.dtype.itemsize == 2 else own
            self.moved[path] = np.asarray(cell.shadows[-1])
        return tape, recorder.uncertain

    def update(self, part: float = 1.0) -> None:
        """Update parameters and optimizer state on the gradients times a power of two, in both precisions."""
        import optax

        optimizer = self.program.optimizer
        assert optimizer is not None
        if self._states is None:
            own = optimizer.init(self.split.trainable(self.own))
            with jax.enable_x64(True):
                wide = optimizer.init(self.split.trainable([jnp.asarray(each) for each in self.wide]))
            self._states = own, wide

        def step(arrays: Sequence[Any], grads: Sequence[Any], state: Any, loss: Any) -> tuple[list[Any], Any]:
            params, slopes = self.split.trainable(arrays), self.split.trainable(grads)
            extra = {"value": loss, "grad": slopes}
            updates, state = optax.with_extra_args_support(optimizer).update(slopes, state, params, **extra)
            return SplitParams(optax.apply_updates(params, updates)).arrays, state

        paths = self.split.paths
        grads = [part * jnp.asarray(self.own_gradients[p], own.dtype) for p, own in zip(paths, self.own, strict=True)]
        self.own, own = step(self.own, grads, self._states[0], self.loss)
        with jax.enable_x64(True):
            grads = [part * jnp.asarray(self.gradients[p]) for p in paths]
            made, wide = step([jnp.asarray(each) for each in self.wide], grads, self._states[1], self.loss)
            self.wide = [np.asarray(each, np.float64) for each in made]
        self._states = own, wide

    def loss_on(self, batch: Sequence[Any]) -> Callable[[Sequence[np.ndarray]], float]:
        """The loss of other leaves in the place of a batch's, in its own precision; NaN where it raises."""
        assert self.loss_jaxpr is not None
        traced = self.loss_jaxpr
        flat: list[FlatJaxpr] = []

        def loss(arrays: Sequence[np.ndarray]) -> float:
            if not flat:
                flat.append(flatten(traced()))
            try:
                return float(results(flat[0], [*self.own, *jax_batch(batch, arrays)])[0])
            except Exception:
                return float("nan")

        return loss

    def wrong_rule(self, given: Sequence[jax.Array], torch: Sequence[np.ndarray]) -> Cause | None:
        """The custom derivative that is no derivative, if with the true one the gradients are torch's.

        Args:
          given: the batch as JAX holds it.
          torch: torch's gradients, in float64.
        """
        if self._wide_loss_jaxpr is None:
            return None
        with jax.enable_x64(True):
            inputs = [*(jnp.asarray(each) for each in self.wide), *(widened(each) for each in given)]
            return find_wrong_rule(self._wide_loss_jaxpr(), inputs, len(self.wide), torch)

    def compiled_targets(self, closed: jex.ClosedJaxpr, given: Sequence[jax.Array]) -> list[Target]:
        """What is compiled of a step that was recorded, before it is updated: with its gradients, and the loss alone.

        Args:
          closed: the jaxpr of loss and gradients.
          given: the batch as JAX holds it.
        """
        inputs, paths = [*self.own, *given], self.split.paths
        loss = np.asarray(self.loss), np.asarray(self.wide_loss)
        names = ["the loss", *(f"the gradient of {path}" for path in paths)]
        own = [loss[0], *(self.own_gradients[path] for path in paths)]
        shadows = [loss[1], *(self.gradients[path] for path in paths)]
        assert self.loss_jaxpr is not None
        return [
            Target("loss and gradients", closed, inputs, names, own, shadows),
            Target("loss", self.loss_jaxpr(), inputs, names[:1], own[:1], shadows[:1]),
        ]

    def constants(self, closed: jex.ClosedJaxpr) -> Iterator[np.ndarray]:
        """The floating tables that the program closes over."""
        for const in closed.consts:
            if hasattr(const, "dtype") and jnp.issubdtype(const.dtype, jnp.floating):
                yield np.asarray(const)


def _floating(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def _check_loss(value: Any) -> None:
    if not hasattr(value, "dtype") and not isinstance(value, float):
        raise InputTypeError(
            f"compare: the JAX loss is a {type(value).__name__}, expected a scalar array. Return it alone."
        )
    if np.size(value) != 1 or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise InputError(
            f"compare: the JAX loss is {short(value)}, expected one floating number f32[]. "
            "Take its mean: jnp.mean(...)."
        )


def _reached(jaxpr: Any, start: Any) -> set[Any]:
    """The variables from which one is computed."""
    reached = {start} if not isinstance(start, jex.Literal) else set()
    for eqn in reversed(jaxpr.eqns):
        if any(var in reached for var in eqn.outvars):
            reached.update(atom for atom in eqn.invars if not isinstance(atom, jex.Literal))
    return reached
