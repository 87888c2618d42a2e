"""The recorder of a torch step: every ATen operation, with a float64 shadow computed beside it.

A ``TorchDispatchMode`` sees each operation below autograd, forward, backward and in the optimizer. The program itself
runs undisturbed, in its own precision. Beside it, the same operation runs on *shadows*: to each storage belongs one of
the same length in float64, and a tensor's shadow is the same view of it. So views, in-place operations and the tensors
that autograd saves need no rule: what aliases in the program aliases in the shadow.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from os import sep
from pathlib import Path
from types import FrameType
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from jaxgrad.parity.beside import side_by_side
from jaxgrad.parity.constants import KnownConstants, moved_constant, recover
from jaxgrad.parity.fingerprints import fingerprint, noise_between, own_error
from jaxgrad.parity.kinds import DECISIONS, DECOMPOSITIONS, base_name, torch_kind
from jaxgrad.parity.rounding import Disturbance, Operand, disturbed, disturbed_matrix, operand_scale
from jaxgrad.parity.source_lines import is_installed, users_line
from jaxgrad.parity.tape import Op, Summary, Tape, Value
from jaxgrad.parity.torch_shadows import run_wide
from jaxgrad.report.values import Site

_WIDE = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
}
_HIDDEN = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
_DRIVER = str(Path(__file__).with_name("run_torch.py"))  # what called it is no part of the program

# Of what these read, only the shape matters.
_FILLS = set(
    "ones_like zeros_like empty_like full_like rand_like randn_like new_ones new_zeros new_empty new_full "
    "new_empty_strided zero_ fill_ scalar_tensor".split()
)


class _Store:
    """A storage of the program and its shadows."""

    def __init__(self, reference: StorageWeakRef, shadows: list[torch.Tensor], leaf: str | None):
        self.reference = reference
        self.shadows = shadows  # flat: the exact one, then the disturbed ones
        self.leaf = leaf
        self.views: dict[Any, int] = {}  # which value each view of it holds
        self.owners: list[tuple[int, Any]] = []  # the values written to it and where, the last one first


class TorchRecorder(TorchDispatchMode):
    """Records what runs inside ``with recorder.recording(tape, phase):``; see the module's docstring.

    Args:
      module: the program's module; its submodules name the places.
      disturbance: which disturbed shadows run beside; ``Summary.noise`` is how far they are from the exact one.
      given: tells whether a table is, entry for entry, one of the arrays that the other side is given.
      shared: tells whether a table is, entry for entry, one of the other side's constants.
      watched: the operations, by their number, whose operands the tape keeps.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        disturbance: Disturbance = Disturbance(),
        given: Callable[[np.ndarray], bool] = lambda array: False,
        shared: Callable[[np.ndarray], bool] = lambda array: False,
        watched: Container[int] = (),
    ):
        super().__init__()
        self.tape = Tape(framework=f"torch {torch.__version__}")
        self._modules = list(module.modules())
        self._names = {id(each): name for name, each in module.named_modules()}
        self._stores: dict[int, _Store] = {}
        self._phase = "forward"
        self._inside: list[str] = []
        self._forward_sites: dict[int, Site] = {}
        self.uncertain = False
        self._narrow = False  # whether values of two bytes were met
        self._local: dict[int, float] = {}  # the errors that the operation at hand makes itself
        self.known = KnownConstants()
        self.closed_over: dict[int, torch.Tensor] = {}
        self.numbers: set[float] = set()
        self._disturbance = disturbance
        self._worlds = range(1 + len(disturbance.seeds))
        self._given, self._shared = given, shared
        self._watched = watched

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import all of torch.compile, in two seconds, to keep it out of ``__torch_dispatch__``."""
        return False

    @classmethod
    def _keep_compiler_out(cls) -> None:
        """Where the program may be compiled, the recorder must not be."""
        if "torch._dynamo" in sys.modules and cls.__torch_dispatch__ is cls._dispatched:
            cls.__torch_dispatch__ = torch.compiler.disable(cls._dispatched)  # pyright: ignore[reportAttributeAccessIssue]

    # --- what the engine calls ----------------------------------------------------------------------------------------

    def begin(self, leaves: Mapping[str, tuple[torch.Tensor, bool]]) -> None:
        """Start a new tape; shadows of what lives on are kept.

        Args:
          leaves: the tensors the step is given, by name, and whether each is live (a parameter, or floating data).
        """
        self.tape = Tape(framework=f"torch {torch.__version__}")
        self._forward_sites = {}
        self._inside = []
        self.closed_over = {}
        for store in self._stores.values():
            store.views, store.owners = {}, []
        for name, (tensor, live) in leaves.items():
            value = self._value_of(tensor, leaf=name)
            value.leaf, value.live = name, live
            self.tape.leaves[name] = value.index

    @contextmanager
    def recording(self, phase: str) -> Iterator[None]:
        """Record what runs inside; ``phase`` is ``"forward"``, ``"backward"`` or ``"update"``.

        What an update is made of is gathered in ``numbers``: every Python float that an operation is given.
        """
        self._phase = phase
        self._keep_compiler_out()
        hooks = []
        for module in self._modules:
            hooks.append(module.register_forward_pre_hook(self._enter))
            hooks.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def index_of(self, tensor: torch.Tensor) -> int:
        """The value that a tensor holds now."""
        return self._value_of(tensor).index

    def set_shadow(self, tensor: torch.Tensor, shadow: float | torch.Tensor) -> None:
        """Say what a tensor stands for: a number before it was rounded, or the tensor itself from now on."""
        with torch.no_grad():
            for world in self._worlds:
                own = self._shadow(tensor, world)
                own.copy_(torch.as_tensor(shadow, dtype=own.dtype))

    def shadow_of(self, tensor: torch.Tensor) -> np.ndarray:
        """The float64 shadow of a tensor; valid until the tensor is written again."""
        with torch.no_grad():
            return self._shadow(tensor).detach().resolve_conj().cpu().numpy()

    # --- hooks --------------------------------------------------------------------------------------------------------

    def _enter(self, module: torch.nn.Module, inputs: Any) -> None:
        if id(module) in self._names:
            self._inside.append(self._names[id(module)])

    def _leave(self, module: torch.nn.Module, inputs: Any, outputs: Any) -> None:
        if id(module) in self._names and self._inside:
            self._inside.pop()

    def _dispatched(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch.no_grad():
            read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
            inputs = [self._value_of(tensor).index for tensor in read]
            shadow_args = [self._widened(args, kwargs, world) for world in self._worlds]
            number = len(self.tape.ops)
            if number in self._watched:  # now: what runs may write to them
                self.tape.operands[number] = {
                    i: self.shadow_of(tensor).copy() for i, tensor in zip(inputs, read, strict=True)
                }
        made = func(*args, **kwargs)  # in the program's own grad mode, which some kernels ask for
        if self._phase == "update" and func is torch.ops.aten._local_scalar_dense.default:
            return self._read_out(made, shadow_args[0][0][0])
        with torch.no_grad():
            self._record(func, args, kwargs, shadow_args, read, inputs, made)
        return made

    __torch_dispatch__ = _dispatched

    def _read_out(self, number: Any, shadow: torch.Tensor) -> Any:
        """What ``item()`` gives an optimizer: the shadow's number, so that what Python makes of it is not rounded."""
        if not isinstance(number, float) or not math.isfinite(number) or not bool(torch.isfinite(shadow).all()):
            return number
        return float(shadow)

    # --- one operation ------------------------------------------------------------------------------------------------

    def _record(
        self, func: Any, args: Any, kwargs: Any, shadow_args: list[Any], read: list[Any], inputs: list[int], made: Any
    ) -> None:
        written = _written(func, args, kwargs)
        known = {tensor.untyped_storage()._cdata for tensor in read}
        outputs = [t for t in tree_flatten(made)[0] if isinstance(t, torch.Tensor)]
        if not outputs and not written:
            return
        site, stage = self._where(func)
        if not written and outputs and all(t.untyped_storage()._cdata in known and t.numel() for t in outputs):
            self._look(func, read, inputs, outputs, site, stage)
            return

        draws = _draws(func, args, kwargs)
        shadowed = True
        if draws:
            self._take_own([*written, *outputs])
        else:
            shadowed = self._run_shadows(func, shadow_args, written, outputs)
        self._narrow = self._narrow or any(t.is_floating_point() and t.element_size() == 2 for t in outputs)
        self._local = {}
        if self._narrow and shadowed and not draws and not written:
            self._local = self._local_errors(func, args, kwargs, outputs)
        fresh = [t for t in outputs if not any(t is w for w in written)] if written else outputs
        self._note(func, inputs, written, fresh, site, stage, shadowed, draws)

    def _run_shadows(self, func: Any, given: list[tuple[Any, Any]], written: list[Any], outputs: list[Any]) -> bool:
        """Run an operation on each of the shadows; whether that could be done."""
        same = True
        for world in self._worlds:
            try:
                with _default_dtype(torch.float64):  # what integers and factories become
                    made = run_wide(func, *self._off(func, given[world], world))
            except Exception:  # whatever it is, the operation has no float64 twin: its own result has to do
                self._take_own([*written, *outputs])
                return False
            same &= self._keep_shadows(made, given[world], written, outputs, world)
        if self._disturbance.seeds and torch_kind(str(func)) != "move":
            for tensor in {id(each): each for each in (*written, *outputs)}.values():
                self._disturb(tensor, base_name(str(func)) in DECISIONS)
        return same

    def _off(self, func: Any, given: Any, world: int) -> Any:
        """The operands of a disturbed shadow: those of a decomposition are moved themselves."""
        if not world or base_name(str(func)) not in DECOMPOSITIONS:
            return given
        seed = self._disturbance.seeds[world - 1]

        def move(each: Any) -> Any:
            if not isinstance(each, torch.Tensor) or not (each.is_floating_point() or each.is_complex()):
                return each
            moved = disturbed_matrix(each.detach().resolve_conj().resolve_neg().cpu().numpy(), seed)
            return torch.from_numpy(moved).to(each.device)

        return tree_map(move, given)

    def _local_errors(self, func: Any, args: Any, kwargs: Any, outputs: list[Any]) -> dict[int, float]:
        """How far each result is from what float64 makes of the program's own operands."""

        def widen(each: Any) -> Any:
            if isinstance(each, torch.Tensor):
                return each.detach().to(_WIDE.get(each.dtype, each.dtype))
            return _WIDE.get(each, each) if isinstance(each, torch.dtype) else each

        try:
            with _default_dtype(torch.float64):
                made = run_wide(func, *tree_map(widen, (args, kwargs)))
        except Exception:  # then the error that it has gathered so far has to do
            return {}
        pairs = zip(outputs, (t for t in tree_flatten(made)[0] if isinstance(t, torch.Tensor)), strict=False)
        floating = ((t, wide) for t, wide in pairs if t.shape == wide.shape and t.is_floating_point())
        return {id(t): own_error(_array(t.detach()), _array(wide))[0] for t, wide in floating}

    def _keep_shadows(self, made: Any, given: Any, written: list[Any], outputs: list[Any], world: int) -> bool:
        shadows = [t for t in tree_flatten(made)[0] if isinstance(t, torch.Tensor)]
        held = {t.untyped_storage()._cdata for t in tree_leaves(given) if isinstance(t, torch.Tensor)}
        same = True
        for tensor, shadow in zip(outputs, shadows, strict=False):
            if any(tensor is w for w in written):
                continue
            if shadow.shape != tensor.shape:
                same = same and not tensor.is_floating_point()  # a workspace of bytes has no meaning to others
                shadow = tensor.detach()
            self._set_shadow(tensor, shadow, world, shadow.untyped_storage()._cdata not in held)
        return same and len(shadows) == len(outputs)

    def _take_own(self, tensors: list[Any]) -> None:
        for tensor in tensors:
            for world in self._worlds:
                self._set_shadow(tensor, tensor.detach(), world)

    def _disturb(self, tensor: Any, decides: bool) -> None:
        """Move the disturbed shadows of a result where it is rounded; a decision is taken once for all of them."""
        exact = self._shadow(tensor)
        for world, seed in zip(self._worlds[1:], self._disturbance.seeds, strict=True):
            shadow = self._shadow(tensor, world)
            if decides or not (exact.is_floating_point() or exact.is_complex()):
                shadow.copy_(exact)
            else:
                moved = disturbed(shadow.detach().resolve_conj().resolve_neg().cpu().numpy(), seed)
                shadow.copy_(torch.from_numpy(moved))

    def _look(self, func: Any, read: list[Any], inputs: list[int], outputs: list[Any], site: Site, stage: str) -> None:
        """A view: the same value if it has the same entries, else a value that reads the other."""
        for tensor in outputs:
            store = self._store(tensor)
            key = _key(tensor)
            source = next(i for t, i in zip(read, inputs, strict=True) if _same_storage(t, tensor))
            whole = next(t for t in read if _same_storage(t, tensor))
            same = (whole.numel(), whole.dtype, _bits(whole)) == (tensor.numel(), tensor.dtype, _bits(tensor))
            if same and not _overlaps(tensor, whole):
                store.views[key] = source
            elif key not in store.views:
                owners = store.owners
                self._add(func, [source], [tensor], site, stage, shadowed=True, draws=False)
                store.owners = owners  # nothing was written

    def _note(
        self,
        func: Any,
        inputs: list[int],
        written: list[Any],
        outputs: list[Any],
        site: Site,
        stage: str,
        shadowed: bool,
        draws: bool,
    ) -> None:
        copies = func._overloadpacket.__name__ in ("clone", "_to_copy") and len(inputs) == 1
        if copies and _precision(outputs[0].dtype) >= _precision_of(self.tape.values[inputs[0]].dtype):
            store = self._store(outputs[0])  # the same entries elsewhere in memory
            key = _key(outputs[0])
            store.views, store.owners = {key: inputs[0]}, [(inputs[0], key)]
            return
        for tensor in written:
            self._store(tensor).views = {}
        self._add(func, inputs, [*written, *outputs], site, stage, shadowed, draws)

    def _add(
        self, func: Any, inputs: list[int], tensors: list[Any], site: Site, stage: str, shadowed: bool, draws: bool
    ) -> None:
        if func._overloadpacket.__name__ in _FILLS:
            inputs = []
        operands = [each for i in inputs if (each := Operand.of(self.tape.values[i])) is not None]
        kind = torch_kind(str(func))
        made = []
        for tensor in tensors:
            store = self._store(tensor)
            value = self._new_value(tensor, lambda largest, size: operand_scale(kind, operands, largest, size))
            store.views[_key(tensor)] = value.index
            whole = tensor.numel() == store.shadows[0].numel()
            store.owners = [(value.index, _key(tensor)), *([] if whole else store.owners)]
            made.append(value.index)
        self.tape.add_op(Op(str(func), tuple(dict.fromkeys(inputs)), tuple(made), site, stage, shadowed, draws))

    # --- values -------------------------------------------------------------------------------------------------------

    def _value_of(self, tensor: torch.Tensor, leaf: str | None = None) -> Value:
        store = self._store(tensor, leaf)
        key = _key(tensor)
        if key not in store.views:
            value = self._new_value(tensor, lambda largest, size: largest)
            store.views[key] = value.index
            if store.owners:  # another view of something written before
                owners = _overlapping(store, key)
                writer = self.tape.values[owners[0]].op  # what made these entries, or the last of them
                if writer is None:
                    self.tape.add_op(Op("view", owners, (value.index,), *self._where(None)))
                else:
                    op = self.tape.ops[writer]
                    self.tape.add_op(Op(op.name, owners, (value.index,), op.site, op.stage))
            else:
                value.leaf = store.leaf or leaf or "constant"
                if value.leaf == "constant" and tensor.numel() > 1:
                    self.closed_over[value.index] = tensor.detach()
                store.owners = [(value.index, key)]
        return self.tape.values[store.views[key]]

    def _new_value(self, tensor: torch.Tensor, scale_of: Callable[[float, int], float]) -> Value:
        summary = Summary(None, 0.0, 0.0, 0.0, False)
        if tensor.is_floating_point() or tensor.is_complex():
            shadow = _array(self._shadow(tensor))
            found, (error, lost) = side_by_side(
                lambda: fingerprint(shadow), lambda: own_error(_array(tensor.detach()), shadow), shadow.size
            )
            others = (_array(self._shadow(tensor, world)) for world in self._worlds[1:])
            noise = max((noise_between(shadow, each, found.largest) for each in others), default=0.0)
            local = self._local.get(id(tensor))
            summary = Summary(
                found, scale_of(found.largest, found.size), error, noise, lost, error if local is None else local
            )
        name = str(tensor.dtype).removeprefix("torch.")
        return self.tape.add_value(tuple(tensor.shape), name, summary)

    # --- shadows ------------------------------------------------------------------------------------------------------

    def _store(self, tensor: torch.Tensor, leaf: str | None = None) -> _Store:
        storage = tensor.untyped_storage()
        known = self._stores.get(storage._cdata)
        if known is None:
            flat = _flat(tensor)
            shadows = self._first_shadows(flat, leaf)
            known = self._stores[storage._cdata] = _Store(StorageWeakRef(storage), shadows, leaf)
            if len(self._stores) % 512 == 0:
                self._forget()
        return known

    def _first_shadows(self, flat: torch.Tensor, leaf: str | None) -> list[torch.Tensor]:
        """The shadows of something that the tape did not make: exact data, or a constant that was rounded."""
        wide = flat.to(_WIDE.get(flat.dtype, flat.dtype), copy=True)
        if not (flat.is_floating_point() or flat.is_complex()) or (leaf is not None and not leaf.startswith("buffer ")):
            return [wide, *(wide.clone() for _ in self._disturbance.seeds)]
        made = [self._meant(part) for part in _parts(flat)]  # exact, then moved; of a complex one both parts
        joined = [each[0] if len(each) == 1 else each[0] + 1j * each[1] for each in zip(*made, strict=True)]
        return [torch.tensor(each, dtype=wide.dtype, device=flat.device) for each in joined]

    def _meant(self, own: np.ndarray) -> list[np.ndarray]:
        """The float64 numbers that a constant stands for, and those of the disturbed shadows."""
        meant, certain = np.asarray(own, np.float64), True
        if not self._given(meant):
            recovered, certain = recover(own)
            certain = certain or self._shared(meant)
            meant = recovered
        self.uncertain |= not certain
        self.known.add(own, meant)
        moves = self._disturbance.constants and not certain
        return [meant, *(moved_constant(meant, own.dtype, s) if moves else meant for s in self._disturbance.seeds)]

    def _forget(self) -> None:
        """Drop the shadows of storages that the program has freed."""
        for cdata in [cdata for cdata, store in self._stores.items() if store.reference.expired()]:
            del self._stores[cdata]

    def _shadow(self, tensor: torch.Tensor, world: int = 0) -> torch.Tensor:
        base = self._store(tensor).shadows[world]
        if tensor.is_complex() and not base.is_complex():
            base = torch.view_as_complex(base.view(-1, 2))
        elif base.is_complex() and not tensor.is_complex():
            base = torch.view_as_real(base).view(-1)
        if tensor.is_floating_point() != base.is_floating_point() and not tensor.is_complex():
            return tensor.detach().to(_WIDE.get(tensor.dtype, tensor.dtype))  # bits read as another type
        view = torch.as_strided(base, tensor.size(), tensor.stride(), tensor.storage_offset())
        view = view.conj() if tensor.is_conj() else view
        return view.neg() if tensor.is_neg() else view

    def _set_shadow(self, tensor: torch.Tensor, shadow: torch.Tensor, world: int, fresh: bool = False) -> None:
        """Give a tensor that was just made its shadow, in the same layout of memory; a fresh one may be kept itself."""
        storage = tensor.untyped_storage()
        wide = _WIDE.get(tensor.dtype, tensor.dtype)
        known = self._stores.get(storage._cdata)
        if known is not None and not known.reference.expired() and world < len(known.shadows):
            self._shadow(tensor, world).copy_(shadow)
            return
        length = storage.nbytes() // max(tensor.element_size(), 1)
        if fresh and _laid_out_alike(tensor, shadow, length, wide):
            flat = torch.as_strided(shadow, (length,), (1,), 0)
        else:
            flat = torch.zeros(length, dtype=wide, device=tensor.device)
            view = torch.as_strided(flat, tensor.size(), tensor.stride(), tensor.storage_offset())
            view.copy_(_stored(tensor, shadow))
        if world:
            self._stores[storage._cdata].shadows.append(flat)
        else:
            self._stores[storage._cdata] = _Store(StorageWeakRef(storage), [flat], None)
            if len(self._stores) % 512 == 0:
                self._forget()

    def _widened(self, args: Any, kwargs: Any, world: int) -> tuple[Any, Any]:
        def widen(each: Any) -> Any:
            if isinstance(each, torch.Tensor):
                return self._shadow(each, world)
            if isinstance(each, float):
                self.known.add_scalar(each)
                if self._phase == "update":
                    self.numbers.add(each)
            return _WIDE.get(each, each) if isinstance(each, torch.dtype) else each

        return tree_map(widen, args), tree_map(widen, kwargs)

    # --- places -------------------------------------------------------------------------------------------------------

    def _where(self, func: Any) -> tuple[Site, str]:
        name = str(func) if func is not None else "view"
        line = users_line(_lines(sys._getframe(1)))
        if self._phase == "forward":
            site = Site(name, self._inside[-1] if self._inside else "", *line)
            self._forward_sites.setdefault(_sequence_number() - 1, site)  # that of the node just made for it
            return site, "forward" if self._inside else "loss"
        if self._phase == "backward":
            node = torch._C._current_autograd_node()
            made = self._forward_sites.get(node._sequence_nr()) if node is not None else None
            if made is None or (line[0] and not is_installed(line[0])):  # a backward, or a hook, that somebody wrote
                return Site(name, made.module if made else "", *line), "gradient"
            return replace(made, op=name), "gradient"
        return Site(name, "", *_line_in_update(sys._getframe(1))), "update"


# --- helpers ----------------------------------------------------------------------------------------------------------


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


_sequence_number: Callable[[], int] = torch.autograd._get_sequence_nr  # pyright: ignore[reportPrivateImportUsage]


def _written(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """The tensors that an operation writes to, by its schema."""
    found: list[Any] = []
    if not func._schema.is_mutable:
        return found
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[number] if number < len(args) else kwargs.get(argument.name)
            found += [t for t in tree_leaves(given) if isinstance(t, torch.Tensor)]
    return found


def _draws(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation draws random numbers; dropout with a probability of zero does not."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    for number, argument in enumerate(func._schema.arguments):
        if argument.name in ("dropout_p", "p") and func._overloadpacket.__name__ != "bernoulli":
            given = args[number] if number < len(args) else kwargs.get(argument.name, argument.default_value)
            return given != 0
    return True


def _key(tensor: torch.Tensor) -> Any:
    return tensor.storage_offset(), tuple(tensor.size()), tuple(tensor.stride()), tensor.dtype, _bits(tensor)


def _bits(tensor: torch.Tensor) -> tuple[bool, bool]:
    """Whether the entries in memory are to be read conjugated, and negated."""
    return tensor.is_conj(), tensor.is_neg()


def _overlapping(store: _Store, key: Any) -> tuple[int, ...]:
    """The values that share memory with a view, the last one written first; all of them if none does."""
    everything = tuple(dict.fromkeys(i for i, _ in store.owners))
    if len({each[3].is_complex for each in (key, *(where for _, where in store.owners))}) > 1:
        return everything  # counted in other units
    offset, size, stride = key[:3]
    here = torch.zeros(store.shadows[0].numel(), dtype=torch.bool)
    torch.as_strided(here, size, stride, offset).fill_(True)
    shared = [i for i, (start, sizes, steps, *_) in store.owners if torch.as_strided(here, sizes, steps, start).any()]
    return tuple(dict.fromkeys(shared)) or everything


def _same_storage(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


def _overlaps(tensor: torch.Tensor, whole: torch.Tensor) -> bool:
    """Whether a view with as many entries shows some of them more than once (``expand`` after ``select``)."""

    def repeats(each: torch.Tensor) -> bool:
        return any(n > 1 and step == 0 for n, step in zip(each.size(), each.stride(), strict=True))

    return repeats(tensor) and not repeats(whole)


def _laid_out_alike(tensor: torch.Tensor, shadow: torch.Tensor, length: int, wide: torch.dtype) -> bool:
    """Whether a shadow lies in its memory as its tensor does, and fills it."""
    return (
        (shadow.dtype, shadow.stride(), shadow.storage_offset()) == (wide, tensor.stride(), tensor.storage_offset())
        and shadow.storage_offset() == 0
        and _bits(shadow) == _bits(tensor) == (False, False)
        and shadow.untyped_storage().nbytes() == length * shadow.element_size()
    )


def _stored(tensor: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """What lies in memory where a tensor with a conjugate or a negative bit reads something; undone by itself."""
    stored = read._neg_view() if tensor.is_neg() else read
    return stored.conj() if tensor.is_conj() else stored


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor's storage, as one row."""
    whole = _stored(tensor, tensor.detach())
    length = whole.untyped_storage().nbytes() // max(whole.element_size(), 1)
    return torch.as_strided(whole, (length,), (1,), 0)


def _array(tensor: torch.Tensor) -> np.ndarray:
    real = torch.view_as_real(tensor.resolve_conj().resolve_neg()) if tensor.is_complex() else tensor.resolve_neg()
    real = real.float() if real.dtype == torch.bfloat16 else real
    return real.detach().cpu().numpy()


def _parts(flat: torch.Tensor) -> list[np.ndarray]:
    """A constant as NumPy holds it, in its own dtype; of a complex one the real and the imaginary part."""
    flat = flat.detach().cpu()
    if flat.is_complex():
        return [part.contiguous().numpy() for part in (flat.real, flat.imag)]
    if flat.dtype in (torch.float64, torch.float32, torch.float16):
        return [flat.numpy()]
    return [flat.float().numpy().astype(jnp.bfloat16)]  # and eight bits, which it holds exactly


def _precision(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits if dtype.is_floating_point else 128 if dtype.is_complex else 0


def _precision_of(name: str) -> int:
    return _precision(getattr(torch, name))


def _line_in_update(frame: FrameType | None) -> tuple[str, int]:
    """The innermost line of the optimizer or hook that is running: the user's own, if it is; else torch's."""
    ours, torchs = str(Path(__file__).parent), ("", 0)
    while frame is not None and frame.f_code.co_filename.startswith(ours):
        frame = frame.f_back
    while frame is not None and not frame.f_code.co_filename.startswith(ours):
        file, line = frame.f_code.co_filename, frame.f_lineno
        if not file.startswith(_HIDDEN) and not file.startswith("<frozen"):
            return file, line
        if not torchs[0] and f"{sep}optim{sep}" in file and not file.endswith(f"{sep}optimizer.py"):
            torchs = file, line
        frame = frame.f_back
    return torchs


def _lines(frame: FrameType | None) -> Iterator[tuple[str, int]]:
    """The lines of the program that is run, the innermost first: those that are neither torch's nor ours."""
    while frame is not None and frame.f_code.co_filename != _DRIVER:
        file = frame.f_code.co_filename
        if not file.startswith(_HIDDEN) and not file.startswith("<frozen"):
            yield file, frame.f_lineno
        frame = frame.f_back
