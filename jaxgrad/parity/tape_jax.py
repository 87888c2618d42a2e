"""The recorder of a JAX step: every primitive of the jaxpr, evaluated one by one, with a float64 shadow beside it.

Nesting is dissolved: ``jit``, ``custom_jvp_call``, ``custom_vjp_call``, ``remat`` are entered, ``scan`` and ``while``
are run iteration by iteration, ``cond`` takes the branch that the program takes. The program's own values are those of
the op-by-op run. The shadow runs the same primitives under x64, each with its dtypes promoted, so that a hard-coded
float32 does not spoil it; neither the caller's ``jax_enable_x64`` nor anything else is touched.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError
from jaxgrad.parity.beside import Beside
from jaxgrad.parity.constants import KnownConstants, moved_constant, recover
from jaxgrad.parity.fingerprints import Fingerprint, fingerprint, noise_between, own_error
from jaxgrad.parity.kinds import DECISIONS, DECOMPOSITIONS, jax_kind
from jaxgrad.parity.promote_jax import bind_promoted, is_narrow, placed, run, stacked, widened
from jaxgrad.parity.rounding import Disturbance, Operand, disturbed, disturbed_matrix, operand_scale
from jaxgrad.parity.sites_jax import Backwards, site_of, stage_of
from jaxgrad.parity.tape import Op, Summary, Tape, Value
from jaxgrad.report.values import Site

# Primitives after which a value is the same value, whatever its shape.
_SAME = {
    "reshape",
    "transpose",
    "squeeze",
    "expand_dims",
    "stop_gradient",
    "copy",
    "copy_p",
    "optimization_barrier",
    "reshard",
    "rev",
}
# Among devices there are; of a group of one, the only one's input is the result. Under ``vmap`` JAX has made most of
# them reductions, gathers and transpositions before they are seen here; of psum, pmax, pmin the axes are positions.
_COLLECTIVES = {
    "all_gather",
    "all_gather_invariant",
    "all_to_all",
    "pbroadcast",
    "pmax",
    "pmin",
    "psum",
    "psum2",
    "psum_invariant",
    "pvary",
    "reduce_scatter",
}
_DRAWS = ("random_bits", "threefry2x32", "rng_", "random_gamma", "random_seed")


class _Cell:
    """What a variable of the jaxpr holds: the program's array, the shadows, and its value on the tape."""

    __slots__ = ("index", "own", "shadows")

    def __init__(self, own: Any, shadows: tuple[Any, ...], index: int):
        self.own, self.shadows, self.index = own, shadows, index


class JaxRecorder:
    """Records one step of a JAX program.

    Args:
      disturbance: which disturbed shadows run beside; ``Summary.noise`` is how far they are from the exact one.
      known: the constants of the other side, and what they stand for.
      backwards: where the backward rules of ``custom_vjp`` stand.
      watched: the operations, by their number, whose operands the tape keeps.
    """

    def __init__(
        self,
        disturbance: Disturbance = Disturbance(),
        known: KnownConstants | None = None,
        backwards: Backwards | None = None,
        watched: Container[int] = (),
    ):
        self.tape = Tape(framework=f"jax {jax.__version__}")
        self.uncertain = False
        self._narrow = False  # whether values of two bytes were met
        self._disturbance = disturbance
        self._worlds = 1 + len(disturbance.seeds)
        self._known = known or KnownConstants()
        self._backwards = backwards
        self._watched = watched
        self._constants: dict[Any, _Cell] = {}
        self._waiting: list[tuple[Value, str, tuple[int, ...], Any]] = []
        self._beside = Beside()

    def record(
        self,
        closed: jex.ClosedJaxpr,
        better: jex.ClosedJaxpr | None,
        leaves: Sequence[tuple[str, Any, np.ndarray | None, bool]],
    ) -> list[_Cell]:
        """Evaluate a jaxpr on given leaves.

        Args:
          closed: of the step, traced in the program's own precision.
          better: the same jaxpr traced in float64, if it has the same structure: its literals are not yet rounded.
          leaves: name, array, float64 shadow (None: that of the array), and whether the leaf is live, one an input.

        Returns:
          What each output of the jaxpr holds.
        """
        with self._beside:
            given = []
            for name, array, shadow, live in leaves:
                cell = self._given(array, shadow, name)
                self.tape.values[cell.index].live = live
                self.tape.leaves[name] = cell.index
                given.append(cell)
            better = better if better is not None and same_structure(closed.jaxpr, better.jaxpr) else None
            cells = self._run(closed, better, given, _NOWHERE)
            self._settle()
        return cells

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def _run(self, closed: Any, better: Any, given: Sequence[_Cell], around: Site) -> list[_Cell]:
        jaxpr, consts = _opened(closed)
        env: dict[Any, _Cell] = {}
        wide_consts = _opened(better)[1] if better is not None else [None] * len(consts)
        for number, (var, const) in enumerate(zip(jaxpr.constvars, consts, strict=True)):
            wide = wide_consts[number] if number < len(wide_consts) else None
            env[var] = const if isinstance(const, _Cell) else self._constant(const, wide)
        env.update(zip(jaxpr.invars, given, strict=True))
        last = _last_reads(jaxpr)
        for number, eqn in enumerate(jaxpr.eqns):
            twin = _opened(better)[0].eqns[number] if better is not None else None
            inputs = [self._read(env, atom, twin.invars[i] if twin else None) for i, atom in enumerate(eqn.invars)]
            outputs = self._step(eqn, twin, inputs, around)
            env.update((var, cell) for var, cell in zip(eqn.outvars, outputs, strict=True))
            for var in last.get(number, ()):
                env.pop(var, None)
        wide_outs = _opened(better)[0].outvars if better is not None else [None] * len(jaxpr.outvars)
        return [self._read(env, atom, wide) for atom, wide in zip(jaxpr.outvars, wide_outs, strict=True)]

    def _read(self, env: dict[Any, _Cell], atom: Any, twin: Any) -> _Cell:
        if not isinstance(atom, jex.Literal):
            return env[atom]
        return self._constant(
            np.asarray(atom.val, getattr(atom.aval, "dtype", None)), twin.val if isinstance(twin, jex.Literal) else None
        )

    def _step(self, eqn: Any, twin: Any, inputs: list[_Cell], around: Site) -> list[_Cell]:
        name, params = eqn.primitive.name, eqn.params
        site = site_of(eqn, around, self._backwards)

        def inner(key: str) -> tuple[Any, Any]:
            return params[key], twin.params[key] if twin is not None else None

        if name == "cond":
            chosen = int(np.clip(int(inputs[0].own), 0, len(params["branches"]) - 1))
            better = twin.params["branches"][chosen] if twin is not None else None
            return self._run(params["branches"][chosen], better, inputs[1:], site)
        if name == "while":
            return self._while(eqn, twin, inputs, site)
        if name == "scan":
            return self._scan(eqn, twin, inputs, site)
        if name == "custom_linear_solve":
            return self._solve(eqn, twin, inputs, site)
        if name == "shard_map" and _one_device(params):
            return self._run(*inner("jaxpr"), inputs, site)
        if name in _COLLECTIVES:
            if positions := _mapped_axes(params):  # under vmap: the group lies along an axis of the array
                return self._apply(eqn.replace(params=params | {"axes": positions}), inputs, site)
            # Of a shard_map only one of one device is entered.
            return [_reshaped(cell, var.aval.shape) for cell, var in zip(inputs, eqn.outvars, strict=True)]
        if name == "axis_index":
            return [self._constant(np.zeros((), eqn.outvars[0].aval.dtype), None)]
        for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            whole = name in _KEPT_WHOLE or not hasattr(params.get(key), "eqns")
            if not whole and len(_opened(params[key])[0].invars) == len(inputs):
                return self._run(*inner(key), inputs, site)
        return self._apply(eqn, inputs, site)

    def _solve(self, eqn: Any, twin: Any, inputs: list[_Cell], site: Site) -> list[_Cell]:
        lengths, jaxprs = eqn.params["const_lengths"], eqn.params["jaxprs"]
        before = lengths.matvec + lengths.vecmat
        total = before + lengths.solve + lengths.transpose_solve
        better = twin.params["jaxprs"].solve if twin is not None else None
        given = [*inputs[before : before + lengths.solve], *inputs[total:]]
        return self._run(jaxprs.solve, better, given, site)

    def _while(self, eqn: Any, twin: Any, inputs: list[_Cell], site: Site) -> list[_Cell]:
        p, wide = eqn.params, twin.params if twin is not None else {}
        n_cond, n_body = p["cond_nconsts"], p["body_nconsts"]
        of_cond, of_body, carry = inputs[:n_cond], inputs[n_cond : n_cond + n_body], inputs[n_cond + n_body :]
        while bool(self._run(p["cond_jaxpr"], wide.get("cond_jaxpr"), [*of_cond, *carry], site)[0].own):
            carry = self._run(p["body_jaxpr"], wide.get("body_jaxpr"), [*of_body, *carry], site)
        return list(carry)

    def _scan(self, eqn: Any, twin: Any, inputs: list[_Cell], site: Site) -> list[_Cell]:
        p = eqn.params
        better = twin.params["jaxpr"] if twin is not None else None
        consts, carry, rows = _scan_inputs(p, inputs)
        n_carry, length = len(carry), p["length"]
        steps = range(length - 1, -1, -1) if p["reverse"] else range(length)
        stacked: list[list[_Cell]] = []
        for t in steps:
            row = [self._sliced(cell, t, site, eqn) for cell in rows]
            outputs = self._run(p["jaxpr"], better, [*consts, *carry, *row], site)
            carry = outputs[:n_carry]
            stacked.append(outputs[n_carry:])
        if p["reverse"]:
            stacked.reverse()
        columns = [self._stacked(list(column), site, eqn) for column in zip(*stacked, strict=True)]
        if not length:
            columns = [self._empty(var) for var in eqn.outvars[n_carry:]]
        return [*carry, *columns]

    def _sliced(self, cell: _Cell, t: int, site: Site, eqn: Any) -> _Cell:
        return self._made("scan_slice", [cell], [(cell.own[t], tuple(s[t] for s in cell.shadows))], site, eqn, True)[0]

    def _stacked(self, cells: list[_Cell], site: Site, eqn: Any) -> _Cell:
        shadows = tuple(stacked(each) for each in zip(*(cell.shadows for cell in cells), strict=True))
        made = (jnp.stack([cell.own for cell in cells]), shadows)
        return self._made("scan_stack", cells, [made], site, eqn, True)[0]

    def _empty(self, var: Any) -> _Cell:
        return self._constant(np.zeros(var.aval.shape, var.aval.dtype), None)

    # --- one primitive ------------------------------------------------------------------------------------------------

    def _apply(self, eqn: Any, inputs: list[_Cell], site: Site) -> list[_Cell]:
        name = eqn.primitive.name
        try:
            own = run(eqn, [cell.own for cell in inputs])
        except Exception as error:
            raise InputError(f"compare: JAX's {name} cannot be run by itself, at {site}: {error}") from error
        if _keeps(name, eqn, inputs, own):  # the same entries in another shape
            shadows, _ = self._shadows(eqn, inputs, own)
            return [_Cell(own[0], shadows[0], inputs[0].index)]
        shadows, shadowed = self._shadows(eqn, inputs, own)
        if self._disturbance.seeds and shadowed and jax_kind(name) != "move":
            shadows = [self._disturbed(each, name in DECISIONS) for each in shadows]
        self._narrow = self._narrow or any(each.dtype.itemsize == 2 for each in own if _is_floating(each))
        local = self._of_own_operands(eqn, inputs) if self._narrow and shadowed else None
        return self._made(name, inputs, list(zip(own, shadows, strict=True)), site, eqn, shadowed, local)

    def _of_own_operands(self, eqn: Any, inputs: list[_Cell]) -> list[Any] | None:
        """What float64 makes of the program's own operands."""
        try:
            return bind_promoted(eqn, [widened(cell.own) for cell in inputs])
        except Exception:  # then the error that it has gathered so far has to do
            return None

    def _shadows(self, eqn: Any, inputs: list[_Cell], own: list[Any]) -> tuple[list[tuple[Any, ...]], bool]:
        """One tuple of shadows for each output, and whether they could be computed."""
        if not any(is_narrow(var.aval) for var in (*eqn.invars, *eqn.outvars)) and all(
            shadow is cell.own for cell in inputs for shadow in cell.shadows
        ):
            return [tuple(each for _ in range(self._worlds)) for each in own], True  # integers, keys, float64
        worlds, shadowed = [], True
        for world in range(self._worlds):
            try:
                given = [cell.shadows[world] for cell in inputs]
                if world and eqn.primitive.name in DECOMPOSITIONS:
                    seed = self._disturbance.seeds[world - 1]
                    given = [placed(disturbed_matrix(np.asarray(each), seed)) for each in given]
                worlds.append(bind_promoted(eqn, given))
            except Exception:  # no float64 twin: the program's own result has to do
                shadowed = False
                worlds.append([widened(each) for each in own])
        return list(zip(*worlds, strict=True)), shadowed

    def _disturbed(self, shadows: tuple[Any, ...], decides: bool) -> tuple[Any, ...]:
        """The shadows of a result, moved where it is rounded; a decision is taken once for all of them."""
        exact, *others = shadows
        if decides or not jnp.issubdtype(exact.dtype, jnp.inexact):
            return (exact,) * self._worlds
        seeds = self._disturbance.seeds
        return exact, *(placed(disturbed(np.asarray(each), s)) for each, s in zip(others, seeds, strict=True))

    def _made(
        self,
        name: str,
        inputs: list[_Cell],
        made: list[tuple[Any, tuple[Any, ...]]],
        site: Site,
        eqn: Any,
        shadowed: bool,
        local: list[Any] | None = None,
    ) -> list[_Cell]:
        kind = jax_kind(name)
        read = tuple(dict.fromkeys(cell.index for cell in inputs))
        cells = []
        for number, (own, shadows) in enumerate(made):
            value = self._value(own, shadows, None, kind, read, local[number] if local else None)
            cells.append(_Cell(own, shadows, value.index))
        if len(self.tape.ops) in self._watched:
            arrays = {cell.index: cell.shadows[0] for cell in inputs}
            self.tape.operands[len(self.tape.ops)] = {
                i: np.asarray(each) for i, each in arrays.items() if not jnp.issubdtype(each.dtype, jax.dtypes.extended)
            }
        draws = name.startswith(_DRAWS)
        op = Op(name, read, tuple(cell.index for cell in cells), site, stage_of(eqn), shadowed, draws)
        self.tape.add_op(op)
        return cells

    # --- values -------------------------------------------------------------------------------------------------------

    def _constant(self, const: Any, wide: Any) -> _Cell:
        """A constant of the jaxpr: equal ones are one value."""
        if not hasattr(const, "dtype"):
            const = np.asarray(const)
        if jnp.issubdtype(const.dtype, jax.dtypes.extended):
            return self._cell_of(const, (const,) * self._worlds, "constant")
        array = np.asarray(const)
        key = (array.shape, str(array.dtype), array.tobytes()) if array.size <= 64 else None
        if key is not None and key in self._constants:
            return self._constants[key]
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            cell = self._given(const, None, "constant")
        else:
            meant, certain = self._meant(array, wide)
            moves = self._disturbance.constants and not certain
            seeds = self._disturbance.seeds
            moved = [moved_constant(meant, array.dtype, s) if moves else meant for s in seeds]
            worlds = tuple(placed(np.asarray(each)) for each in (meant, *moved))
            own = const if isinstance(const, jax.Array) else jnp.asarray(const)
            cell = self._cell_of(own, worlds, "constant")
            self.uncertain |= not certain
        if key is not None:
            self._constants[key] = cell
        return cell

    def _meant(self, array: np.ndarray, wide: Any) -> tuple[np.ndarray, bool]:
        """The float64 numbers that a constant stands for, and whether that is certain.

        They are torch's where torch's round to the same; what the trace in float64 has in its place; or what is simple.
        """
        if array.dtype in (np.float64, np.complex128):
            return array, True
        if np.iscomplexobj(array):
            parts = [(np.real(array), None), (np.imag(array), None)]
            if hasattr(wide, "dtype"):
                parts = [(np.real(array), np.real(wide)), (np.imag(array), np.imag(wide))]
            (real, one), (imaginary, other) = (self._meant(*each) for each in parts)
            return real + 1j * imaginary, one and other
        known = self._known.meant(array)
        if known is not None:
            return known, True
        if hasattr(wide, "dtype") and np.shape(wide) == array.shape:
            twin = np.asarray(wide)
            if twin.dtype == np.float64 and np.array_equal(twin.astype(array.dtype), array, equal_nan=True):
                return twin, True
        return recover(array)

    def _given(self, array: Any, shadow: np.ndarray | None, leaf: str) -> _Cell:
        """Something that the step was given, which is exact."""
        own = array if isinstance(array, jax.Array) else jnp.asarray(array)
        wide = widened(own) if shadow is None else placed(np.asarray(shadow))
        return self._cell_of(own, (wide,) * self._worlds, leaf)

    def _cell_of(self, own: Any, shadows: tuple[Any, ...], leaf: str) -> _Cell:
        return _Cell(own, shadows, self._value(own, shadows, leaf, "other", ()).index)

    def _value(
        self,
        own: Any,
        shadows: tuple[Any, ...],
        leaf: str | None,
        kind: str,
        read: tuple[int, ...],
        local: Any = None,
    ) -> Value:
        """A new value of the tape, whose summary is made beside the run: it waits for what JAX computes."""
        value = self.tape.add_value(tuple(np.shape(own)), str(own.dtype), _UNKNOWN, leaf=leaf)
        self._waiting.append((value, kind, read, self._beside.start(own.size, _measured, own, shadows, local)))
        return value

    def _settle(self) -> None:
        """Write the summaries down, in order: a scale is made of those of the operands."""
        for value, kind, read, measured in self._waiting:
            found, error, noise, lost, local = measured.result()
            scale = 0.0
            if found is not None:
                operands = [each for i in read if (each := Operand.of(self.tape.values[i])) is not None]
                scale = operand_scale(kind, operands, found.largest, found.size)
            value.summary = Summary(found, scale, error, noise, lost, local)
        self._waiting.clear()


# --- helpers ----------------------------------------------------------------------------------------------------------

_NOWHERE = Site("", "", "", 0)
_UNKNOWN = Summary(None, 0.0, 0.0, 0.0, False)
_KEPT_WHOLE = {"reduce", "reduce_window", "scatter", "pallas_call", "shard_map", "custom_root"}


def _is_floating(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def _measured(own: Any, shadows: tuple[Any, ...], of_own: Any) -> tuple[Fingerprint | None, float, float, bool, float]:
    """The fingerprint, the program's own error, the noise, whether entries were lost, and the error made here."""
    if not (jnp.issubdtype(own.dtype, jnp.floating) or jnp.issubdtype(own.dtype, jnp.complexfloating)):
        return None, 0.0, 0.0, False, 0.0
    narrow, wide, *others = (_real(each) for each in (own, *shadows))
    error, lost = own_error(narrow, wide)
    local = own_error(narrow, _real(of_own))[0] if of_own is not None else error
    found = fingerprint(wide)
    noise = max((noise_between(wide, each, found.largest) for each in others), default=0.0)
    return found, error, noise, lost, local


def _opened(closed: Any) -> Any:
    """The jaxpr and its constants, of a closed or an open one."""
    if isinstance(closed, jex.ClosedJaxpr):
        return closed.jaxpr, closed.consts
    return closed, []


def _scan_inputs(params: Any, inputs: list[_Cell]) -> list[list[_Cell]]:
    """A scan's constants, its first carry, and what it scans over."""
    if "ft_in" in params:  # jax 0.12
        return [list(each) for each in params["ft_in"].update(inputs).unpack()]
    first, second = params["num_consts"], params["num_consts"] + params["num_carry"]
    return [inputs[:first], inputs[first:second], inputs[second:]]


def _reshaped(cell: _Cell, shape: tuple[int, ...]) -> _Cell:
    return _Cell(cell.own.reshape(shape), tuple(each.reshape(shape) for each in cell.shadows), cell.index)


def _one_device(params: Any) -> bool:
    return getattr(params.get("mesh"), "size", 0) == 1


def _mapped_axes(params: Any) -> tuple[int, ...]:
    """Of the axes of a collective, those that ``vmap`` has turned into axes of the array; the others are named."""
    return tuple(axis for axis in params.get("axes", ()) if isinstance(axis, int))


def _last_reads(jaxpr: Any) -> dict[int, list[Any]]:
    """After which equation each variable is no longer needed."""
    last: dict[Any, int] = {}
    for number, eqn in enumerate(jaxpr.eqns):
        last.update((atom, number) for atom in (*eqn.invars, *eqn.outvars) if not isinstance(atom, jex.Literal))
    for atom in jaxpr.outvars:
        if not isinstance(atom, jex.Literal):
            last.pop(atom, None)
    found: dict[int, list[Any]] = {}
    for var, number in last.items():
        found.setdefault(number, []).append(var)
    return found


def _keeps(name: str, eqn: Any, inputs: list[_Cell], own: list[Any]) -> bool:
    """Whether the result has the entries of the first input: moved at most, never changed."""
    if len(own) != 1 or not inputs or np.size(own[0]) != np.size(inputs[0].own):
        return False
    if name == "convert_element_type":
        before, after = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
        both = jnp.issubdtype(before, jnp.floating) and jnp.issubdtype(after, jnp.floating)
        return bool(both and jnp.finfo(after).nmant >= jnp.finfo(before).nmant)
    return name in _SAME or name == "broadcast_in_dim"


def _real(array: Any) -> np.ndarray:
    array = np.asarray(array)
    if np.iscomplexobj(array):
        return np.stack([np.real(array), np.imag(array)], axis=-1)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def same_structure(a: Any, b: Any) -> bool:
    """Whether two jaxprs have the same primitives in the same order, also inside."""
    if len(a.eqns) != len(b.eqns) or len(a.outvars) != len(b.outvars):
        return False
    for ours, theirs in zip(a.eqns, b.eqns, strict=True):
        if ours.primitive is not theirs.primitive or len(ours.invars) != len(theirs.invars):
            return False
        for one, other in zip(_inner(ours), _inner(theirs), strict=False):
            if not same_structure(one, other):
                return False
    return True


def _inner(eqn: Any) -> list[Any]:
    found = []
    for parameter in eqn.params.values():
        for each in parameter if isinstance(parameter, (tuple, list)) else (parameter,):
            if hasattr(each, "eqns"):
                found.append(_opened(each)[0])
    return found
