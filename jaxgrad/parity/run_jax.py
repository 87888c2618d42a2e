"""One JAX program traced and run under the recorder, step by step."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError, InputTypeError, ProgramError
from jaxgrad.parity.batches import is_number, jax_batch
from jaxgrad.parity.compiled import Target
from jaxgrad.parity.constants import KnownConstants
from jaxgrad.parity.custom_rules import find_wrong_rule
from jaxgrad.parity.flat_jaxpr import FlatJaxpr, flatten, results
from jaxgrad.parity.pairs import as_pairs, conjugated, joined
from jaxgrad.parity.programs import JaxProgram, SplitParams
from jaxgrad.parity.promote_jax import in_float64, is_narrow, widened
from jaxgrad.parity.rounding import Disturbance
from jaxgrad.parity.sites_jax import Backwards, backward_rules, has_backward_rules
from jaxgrad.parity.tape import Tape
from jaxgrad.parity.tape_jax import JaxRecorder
from jaxgrad.pytrees import short
from jaxgrad.report.values import Cause


@dataclass(frozen=True)
class Traced:
    """What was traced of one step.

    Attributes:
      closed: loss and gradients.
      better: the same in float64, where the program allows it: its literals are not yet rounded.
      loss: gives the jaxpr of the loss alone.
      wide_loss: gives that in float64; None as for ``better``.
      backwards: where the backward rules of ``custom_vjp`` stand.
    """

    closed: jex.ClosedJaxpr
    better: jex.ClosedJaxpr | None
    loss: Callable[[], jex.ClosedJaxpr]
    wide_loss: Callable[[], jex.ClosedJaxpr] | None
    backwards: Backwards


class JaxRun:
    """The steps of one JAX program: its own parameters, and those of the float64 shadow."""

    def __init__(self, program: JaxProgram, split: SplitParams, shadows: dict[str, np.ndarray], *, moved: bool = False):
        self.program, self.split = program, split
        self.own = [jnp.asarray(array) for array in split.arrays]
        self._complex = {p for p, a in zip(split.paths, self.own, strict=True) if jnp.iscomplexobj(a)}
        self.wide = [
            self.as_given(p, shadows[p]) if p in shadows else in_float64(a)
            for p, a in zip(split.paths, self.own, strict=True)
        ]
        if moved:  # the program itself starts from the shadows, too
            self.own = [jnp.asarray(wide, own.dtype) for wide, own in zip(self.wide, self.own, strict=True)]
        self.loss = self.wide_loss = 0.0
        self.traced: Traced | None = None
        self.raw_gradients: list[tuple[np.ndarray, np.ndarray]] = []
        self.gradients: dict[str, np.ndarray] = {}
        self.own_gradients: dict[str, np.ndarray] = {}

    def trace(self, batch: Sequence[Any], arrays: Sequence[jax.Array]) -> Traced:
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

        def loss_alone() -> jex.ClosedJaxpr:
            try:
                return jax.make_jaxpr(loss_of(fixed))(own, *arrays)
            except Exception:  # it can be traced but once, as one that uses up a state that it closes over
                whole = closed.jaxpr
                debug = whole.debug_info.with_unknown_names()
                return jex.ClosedJaxpr(whole.replace(outvars=whole.outvars[:1], debug_info=debug), closed.consts)

        used = _reached(closed.jaxpr, closed.jaxpr.outvars[0])
        if not any(var in used for var in closed.jaxpr.invars[: len(self.own)]):
            raise InputError(
                "compare: the JAX loss is not a function of params: none of its leaves is read. "
                "Compute it from the params that are passed in, not from those around the function."
            )
        backwards = backward_rules(loss_alone().jaxpr) if has_backward_rules(closed.jaxpr) else {}
        better, wide_loss = None, None
        try:
            with jax.enable_x64(True):
                wide = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in self.wide]
                inputs = [jax.ShapeDtypeStruct(a.shape, _wide_dtype(a), weak_type=a.aval.weak_type) for a in arrays]
                better = jax.make_jaxpr(step(fixed))(wide, *inputs)
                wide_loss = partial(jax.make_jaxpr(loss_of(fixed)), wide, *inputs)
        except Exception:  # the program insists on its own precision; its literals are recovered one by one
            pass
        return Traced(closed, better, loss_alone, wide_loss, backwards)

    def forward_and_backward(
        self,
        traced: Traced,
        arrays: Sequence[jax.Array],
        exact: Sequence[np.ndarray],
        names: Sequence[str],
        fixed: set[str],
        disturbance: Disturbance = Disturbance(),
        known: KnownConstants | None = None,
        watched: Container[int] = (),
    ) -> tuple[Tape, bool]:
        """Record the loss of a batch and its gradients.

        Args:
          traced: from ``trace``.
          arrays: the batch as JAX holds it.
          exact: the batch as it was given, perhaps wider.
          names: of the batch's leaves.
          fixed: the paths of leaves that are no parameters.
          disturbance: see ``JaxRecorder``.
          known: see ``JaxRecorder``.
          watched: see ``JaxRecorder``.

        Returns:
          The tape, and whether some constant may stand for another number than it holds.
        """
        self.traced = traced
        recorder = JaxRecorder(disturbance, known, traced.backwards, watched)
        leaves = [
            (path, own, wide, path not in fixed)
            for path, own, wide in zip(self.split.paths, self.own, self.wide, strict=True)
        ]
        leaves += [
            (name, array, in_float64(wide) if _inexact(array) else None, _inexact(array) and not array.aval.weak_type)
            for name, array, wide in zip(names, arrays, exact, strict=True)
        ]
        loss, *grads = recorder.record(traced.closed, traced.better, leaves)
        tape = recorder.tape
        tape.loss = loss.index
        self.loss, self.wide_loss = float(loss.own), float(loss.shadows[0])
        self.raw_gradients = [(np.asarray(cell.own), np.asarray(cell.shadows[0])) for cell in grads]
        for path, cell in zip(self.split.paths, grads, strict=True):
            tape.gradients[path] = cell.index
            self.gradients[path] = self._slopes(cell.shadows[0])
            own = np.asarray(cell.own)
            self.own_gradients[path] = self._slopes(own.astype(np.float32) if own.dtype.itemsize == 2 else own)
        return tape, recorder.uncertain

    def as_given(self, path: str, pairs: np.ndarray) -> np.ndarray:
        """A leaf as JAX has it, from what the comparison holds of it: complex numbers for pairs of real ones."""
        return joined(pairs) if path in self._complex else pairs

    def _slopes(self, array: Any) -> np.ndarray:
        """A gradient for the comparison; a complex one as torch would give it, where an optimizer is to mend that."""
        if not np.iscomplexobj(array):
            return np.asarray(array)
        pairs = as_pairs(array).astype(np.float64 if np.asarray(array).dtype == np.complex128 else np.float32)
        return pairs if self.program.optimizer is None else conjugated(pairs)

    def gradient(self, path: str, slopes: np.ndarray) -> np.ndarray:
        """What ``jax.grad`` gave, from ``_slopes`` of it."""
        return joined(conjugated(slopes)) if path in self._complex else slopes

    def shadows(self) -> dict[str, np.ndarray]:
        """The parameters in float64, as their shadows are now; complex ones as pairs."""
        return {path: as_pairs(each) for path, each in zip(self.split.paths, self.wide, strict=True)}

    def loss_on(self, batch: Sequence[Any]) -> Callable[[Sequence[np.ndarray]], float]:
        """The loss of other leaves in the place of a batch's, in its own precision; NaN where it raises."""
        assert self.traced is not None
        traced = self.traced
        flat: list[FlatJaxpr] = []

        def loss(arrays: Sequence[np.ndarray]) -> float:
            if not flat:
                flat.append(flatten(traced.loss()))
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
        if self.traced is None or self.traced.wide_loss is None:
            return None
        with jax.enable_x64(True):
            inputs = [*(jnp.asarray(each) for each in self.wide), *(widened(each) for each in given)]
            return find_wrong_rule(self.traced.wide_loss(), inputs, len(self.wide), torch)

    def compiled_targets(self, given: Sequence[jax.Array]) -> list[Target]:
        """What is compiled of a step that was recorded, before it is updated: with its gradients, and the loss alone.

        Args:
          given: the batch as JAX holds it.
        """
        inputs, paths = [*self.own, *given], self.split.paths
        loss = np.asarray(self.loss), np.asarray(self.wide_loss)
        names = ["the loss", *(f"the gradient of {path}" for path in paths)]
        own = [loss[0], *(own for own, _ in self.raw_gradients)]
        shadows = [loss[1], *(wide for _, wide in self.raw_gradients)]
        assert self.traced is not None
        return [
            Target("loss and gradients", self.traced.closed, inputs, names, own, shadows),
            Target("loss", self.traced.loss(), inputs, names[:1], own[:1], shadows[:1]),
        ]


def constants(closed: Any) -> Iterator[np.ndarray]:
    """The floating tables that a jaxpr closes over, also inside; of complex ones both parts."""
    for const in getattr(closed, "consts", ()):
        if hasattr(const, "dtype") and jnp.issubdtype(const.dtype, jnp.inexact):
            array = np.asarray(const)
            yield from (np.real(array), np.imag(array)) if np.iscomplexobj(array) else (array,)
    for eqn in closed.eqns:
        for parameter in eqn.params.values():
            for inner in parameter if isinstance(parameter, (tuple, list)) else (parameter,):
                if hasattr(inner, "eqns"):
                    yield from constants(inner)


def _wide_dtype(array: Any) -> Any:
    """The dtype that an array has in the trace in float64."""
    if not is_narrow(array):
        return array.dtype
    return np.complex128 if jnp.iscomplexobj(array) else np.float64


def _inexact(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.inexact))


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
