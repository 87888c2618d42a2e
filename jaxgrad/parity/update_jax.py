"""One update of a JAX program, recorded: ``optimizer.update`` and ``optax.apply_updates``, with float64 shadows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import ProgramError
from jaxgrad.parity.exact_numbers import ExactNumbers, numbers_of, with_exact_numbers
from jaxgrad.parity.programs import SplitParams
from jaxgrad.parity.promote_jax import in_float64
from jaxgrad.parity.tape import Tape
from jaxgrad.parity.tape_jax import JaxRecorder, same_structure

MOVED = 2.0**-52
"""By so much of their size are float64 numbers moved, to see what their own rounding explains."""


@dataclass(frozen=True)
class Start:
    """What an update is given, each a list in the order of the parameters' paths.

    Attributes:
      own: the parameters, in the program's precision.
      wide: their shadows.
      own_slopes: the gradients, in the dtypes of ``own``.
      slopes: their shadows.
      loss: the loss, which some optimizers look at.
    """

    own: list[Any]
    wide: list[np.ndarray]
    own_slopes: list[Any]
    slopes: list[np.ndarray]
    loss: float


@dataclass(frozen=True)
class Made:
    """What an update made.

    Attributes:
      own: the new parameters, in the program's precision.
      wide: their shadows.
      state: the new optimizer state's leaves, each in the program's precision and its shadow.
      structure: of that state.
      tape: every operation.
      values: the new parameters on the tape.
    """

    own: list[Any]
    wide: list[np.ndarray]
    state: list[tuple[Any, Any]]
    structure: Any
    tape: Tape
    values: list[int]


class JaxUpdate:
    """The optimizer of a JAX program, and its state from update to update.

    Args:
      optimizer: an ``optax.GradientTransformation``.
      split: the parameters, taken apart; what is no array among them, the optimizer meets as None.
      own: the parameters in their own precision, in the order of ``split.paths``.
      wide: their shadows.

    Raises:
      ProgramError: if the optimizer's ``init`` raises.
    """

    def __init__(self, optimizer: Any, split: SplitParams, own: Sequence[Any], wide: Sequence[np.ndarray]):
        import optax

        self._split = split
        self._init = optimizer.init
        self._update = optax.with_extra_args_support(optimizer).update
        try:
            state = self._init(split.trainable(own))
        except Exception as error:
            raise _raised("init", error) from error
        try:
            with jax.enable_x64(True):
                wide_state = jax.tree.leaves(self._init(split.trainable([jnp.asarray(each) for each in wide])))
        except Exception:  # it insists on its own precision
            wide_state = []
        leaves, self._structure = jax.tree.flatten(state)
        twins = wide_state if len(wide_state) == len(leaves) else [None] * len(leaves)
        self._state: list[tuple[Any, Any]] = list(zip(leaves, twins, strict=True))
        self._traces: dict[Any, tuple[jex.ClosedJaxpr, Any]] = {}
        self._settled = False

    # --- programs -----------------------------------------------------------------------------------------------------

    def _flat(self, structure: Any, fixed: Sequence[Any], made: list[Any]) -> Callable[..., Any]:
        """The update as a function of arrays alone; the structure of the state it makes is put in ``made``."""
        import optax

        count = len(self._split.paths)

        def update(*flat: Any) -> list[Any]:
            params = self._split.trainable(flat[:count])
            slopes = self._split.trainable(flat[count : 2 * count])
            rest = iter(flat[2 * count : -1])
            state = jax.tree.unflatten(structure, [next(rest) if each is _ARRAY else each for each in fixed])
            updates, state = self._update(slopes, state, params, value=flat[-1], grad=slopes)
            leaves, made[:] = jax.tree.flatten(state)[0], [jax.tree.structure(state)]
            return [*jax.tree.leaves(optax.apply_updates(params, updates)), *leaves]

        return update

    def _traced(self, start: Start) -> tuple[jex.ClosedJaxpr, Any, jex.ClosedJaxpr | None]:
        """The jaxpr of the update, the structure of the state it makes, and the jaxpr in float64, if there is one."""
        own = [leaf for leaf, _ in self._state]
        fixed = [_ARRAY if _is_array(leaf) else leaf for leaf in own]
        arrays = [leaf for leaf in own if _is_array(leaf)]
        key = (self._structure, *((np.shape(a), str(jnp.result_type(a)), _is_weak(a)) for a in arrays))
        if key in self._traces:
            return self._traces[key]  # pyright: ignore[reportReturnType]
        made: list[Any] = []
        try:
            closed = jax.make_jaxpr(self._flat(self._structure, fixed, made))(
                *start.own, *start.own_slopes, *arrays, start.loss
            )
        except Exception as error:
            raise _raised("update", error) from error
        structure = made[0]
        self._traces[key] = closed, structure, self._traced_wide(start, fixed, arrays)  # pyright: ignore[reportArgumentType]
        return self._traces[key]  # pyright: ignore[reportReturnType]

    def _traced_wide(self, start: Start, fixed: Sequence[Any], arrays: Sequence[Any]) -> jex.ClosedJaxpr | None:
        """Traced in float64; with counts of 64 bits where it takes them, since optax's rates are float32 otherwise."""
        with jax.enable_x64(True):
            wide = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in start.wide]
            for counts in (jnp.int64, jnp.int32):
                state = [_widened_like(each, counts) for each in arrays]
                try:
                    return jax.make_jaxpr(self._flat(self._structure, fixed, []))(*wide, *wide, *state, start.loss)
                except Exception:  # it insists on its own types
                    continue
        return None

    # --- runs ---------------------------------------------------------------------------------------------------------

    def numbers(self, start: Start) -> list[float]:
        """The float64 numbers that the update is made of."""
        _, _, better = self._traced(start)
        return list(numbers_of(better)) if better is not None else []

    def record(self, start: Start, numbers: ExactNumbers, random: np.random.Generator | None = None) -> Made:
        """Run the update, operation by operation, in the program's precision and in float64 beside it.

        Args:
          start: what it is given.
          numbers: what its rounded constants stand for.
          random: where the signs come from by which every float64 number is moved a last bit; None to move none.

        Raises:
          ProgramError: if the optimizer's ``update`` raises.
        """
        closed, structure, better = self._traced(start)
        self._settle_state(numbers)
        twin = better if better is not None and same_structure(closed.jaxpr, better.jaxpr) else None
        exact = with_exact_numbers(closed, twin, numbers)

        def leaf(name: str, own: Any, shadow: Any) -> tuple[str, Any, np.ndarray | None, bool]:
            own = own if isinstance(own, jax.Array) else jnp.asarray(own)
            if not jnp.issubdtype(own.dtype, jnp.inexact):
                return name, own, None, False
            wide = in_float64(shadow)
            if random is not None:
                wide *= 1 + MOVED * random.choice((-1.0, 1.0), wide.shape)
            return name, own, wide, True

        paths = self._split.paths
        leaves = [leaf(path, *each) for path, *each in zip(paths, start.own, start.wide, strict=True)]
        slopes = zip(paths, start.own_slopes, start.slopes, strict=True)
        leaves += [leaf(f"gradient of {path}", *each) for path, *each in slopes]
        leaves += [leaf(f"state {i}", *each) for i, each in enumerate(self._state) if _is_array(each[0])]
        leaves.append(leaf("loss", start.loss, start.loss))
        return self._run(closed, exact, leaves, structure)

    def record_in_float64(self, start: Start, numbers: ExactNumbers) -> Made | None:
        """Run the update as it is traced in float64, where that is another one; None where there is none.

        Some code is written for the precision it is given: a series in float32, the formula itself in float64.
        """
        closed, structure, better = self._traced(start)
        if better is None or same_structure(closed.jaxpr, better.jaxpr):
            return None
        state = [
            wide if _floating(own) else _as_traced(own, var.aval.dtype)
            for (own, wide), var in zip(self._arrays(), better.jaxpr.invars[2 * len(start.own) : -1], strict=True)
        ]
        given = [*start.wide, *start.slopes, *state, start.loss]
        with jax.enable_x64(True):
            leaves = []
            for i, each in enumerate(given):
                own = jnp.asarray(each)
                leaves.append((str(i), own, in_float64(each) if _floating(own) else None, _floating(own)))
            made = self._run(better, with_exact_numbers(better, better, numbers), leaves, structure)
        return made

    def keep(self, made: Made, wide_state: Made | None = None) -> None:
        """Go on from the state that an update made; its shadows from another run, if one is given."""
        shadows = made.state if wide_state is None else wide_state.state
        self._state = [
            (own, wide if _floating(own) else own) for (own, _), (_, wide) in zip(made.state, shadows, strict=True)
        ]
        self._structure = made.structure

    def state(self) -> Iterator[tuple[str, np.ndarray]]:
        """The floating leaves of the state, in float64, each with its path."""
        whole = jax.tree.unflatten(self._structure, [_Leaf(*each) for each in self._state])
        for path, leaf in jax.tree_util.tree_leaves_with_path(whole):
            if isinstance(leaf, _Leaf) and _floating(leaf.own):
                yield jax.tree_util.keystr(path), np.asarray(leaf.wide)

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _arrays(self) -> Iterable[tuple[Any, Any]]:
        return (each for each in self._state if _is_array(each[0]))

    def _settle_state(self, numbers: ExactNumbers) -> None:
        """What the first state's numbers stand for: a rate that is kept in it is rounded as a literal is."""
        if self._settled:
            return
        self._settled = True
        self._state = [(own, _first_shadow(own, twin, numbers)) for own, twin in self._state]

    def _run(self, closed: jex.ClosedJaxpr, exact: Any, leaves: list[Any], structure: Any) -> Made:
        recorder = JaxRecorder()
        cells = recorder.record(closed, exact, leaves)
        count = len(self._split.paths)
        new, state = cells[:count], cells[count:]
        return Made(
            [cell.own for cell in new],
            [np.array(cell.shadows[0]) for cell in new],
            [(cell.own, cell.shadows[0]) for cell in state],
            structure,
            recorder.tape,
            [cell.index for cell in new],
        )


class _Leaf:
    """A leaf of the state in both precisions."""

    def __init__(self, own: Any, wide: Any):
        self.own, self.wide = own, wide


_ARRAY = object()


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float))


def _is_weak(leaf: Any) -> bool:
    return bool(getattr(leaf, "weak_type", isinstance(leaf, (int, float))))


def _floating(leaf: Any) -> bool:
    return _is_array(leaf) and bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))


def _first_shadow(own: Any, twin: Any, numbers: ExactNumbers) -> Any:
    if not _floating(own) or jnp.result_type(own) == np.float64:
        return own
    array = np.asarray(own)
    if array.size == 1 and not np.iscomplexobj(array):
        return numbers.of(array, twin)
    if twin is not None and np.shape(twin) == array.shape:  # zeros, or a copy of the parameters
        exact = in_float64(twin)
        if np.array_equal(exact.astype(array.dtype), array, equal_nan=True):
            return exact
    return in_float64(array)


def _as_traced(own: Any, dtype: Any) -> Any:
    return own if jnp.issubdtype(dtype, jax.dtypes.extended) else np.asarray(own, dtype)


def _widened_like(leaf: Any, counts: Any) -> Any:
    dtype = jnp.result_type(leaf)
    if jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.float64
    elif dtype == jnp.complex64:
        dtype = jnp.complex128
    elif dtype == jnp.int32:
        dtype = counts
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype)


def _raised(what: str, error: Exception) -> ProgramError:
    traced = isinstance(error, (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError))
    advice = (
        " It decides in Python on a number that jax.jit does not know yet: use jnp.where or lax.cond." if traced else ""
    )
    first = str(error).strip().split("\n")[0]
    return ProgramError(f"compare: the JAX optimizer's {what} raised {type(error).__name__}: {first}{advice}")
