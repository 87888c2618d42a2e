"""The two programs that are compared, and what is refused before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.parity.pairs import as_pairs
from jaxgrad.pytrees import leaves_by_path, short

if TYPE_CHECKING:
    import optax
    import torch


@dataclass
class TorchProgram:
    """A torch training step.

    Attributes:
      module: a ``torch.nn.Module`` with parameters; given back as it was: weights, buffers, gradients, mode.
      loss: ``loss(module, *batch) -> scalar tensor``; the batch comes as torch tensors.
      optimizer: over the module's parameters; ``compare`` resets the gradients before each step.
      scheduler: stepped after each step of the optimizer.
    """

    module: torch.nn.Module
    loss: Callable[..., torch.Tensor]
    optimizer: torch.optim.Optimizer | None = None
    scheduler: Any = None


@dataclass
class JaxProgram:
    """A JAX training step.

    Attributes:
      params: any pytree; its floating arrays are the parameters, what is not an array is left alone.
      loss: ``loss(params, *batch) -> scalar array``, pure; the batch comes as JAX arrays.
      optimizer: an ``optax.GradientTransformation``.
    """

    params: Any
    loss: Callable[..., jax.Array]
    optimizer: optax.GradientTransformation | None = None


class SplitParams:
    """The parameters of a pytree apart from what else is in it: an activation function, a name, a count, a random key.

    Attributes:
      paths: of the parameters.
      arrays: the parameters.
      others: the arrays that are none, since no gradient reaches them: integers, booleans, random keys, by path.
    """

    def __init__(self, params: Any):
        leaves, self._structure = jax.tree.flatten(params)
        self._is_array = [_is_array(leaf) and _inexact(leaf) for leaf in leaves]
        self._rest = [None if array else leaf for leaf, array in zip(leaves, self._is_array, strict=True)]
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        self.paths = [path for path, array in zip(paths, self._is_array, strict=True) if array]
        self.arrays = [leaf for leaf, array in zip(leaves, self._is_array, strict=True) if array]
        self.others = {
            path: leaf
            for path, leaf, array in zip(paths, leaves, self._is_array, strict=True)
            if not array and _is_array(leaf)
        }

    def named(self) -> list[tuple[str, Any]]:
        """Each array with its path."""
        return list(zip(self.paths, self.arrays, strict=True))

    def whole(self, arrays: Sequence[Any]) -> Any:
        """The pytree with other arrays in it."""
        rest = iter(arrays)
        leaves = [next(rest) if array else kept for kept, array in zip(self._rest, self._is_array, strict=True)]
        return jax.tree.unflatten(self._structure, leaves)

    def trainable(self, arrays: Sequence[Any]) -> Any:
        """The pytree with other arrays in it, and ``None`` for what is no parameter: what an optimizer is given."""
        rest = iter(arrays)
        return jax.tree.unflatten(self._structure, [next(rest) if array else None for array in self._is_array])


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, complex))


def _inexact(leaf: Any) -> bool:
    dtype = jnp.result_type(leaf) if isinstance(leaf, (float, complex)) else leaf.dtype
    return not jnp.issubdtype(dtype, jax.dtypes.extended) and bool(jnp.issubdtype(dtype, jnp.inexact))


def check_programs(torch_program: Any, jax_program: Any) -> SplitParams:
    """Refuse programs that cannot be compared; returns JAX's parameters, taken apart."""
    import torch

    if not isinstance(torch_program, TorchProgram) or not isinstance(jax_program, JaxProgram):
        given = f"{type(torch_program).__name__} and {type(jax_program).__name__}"
        raise InputTypeError(f"compare: got {given}, expected a TorchProgram, then a JaxProgram. Wrap them.")
    module = torch_program.module
    if not isinstance(module, torch.nn.Module):
        raise InputTypeError(f"compare: TorchProgram.module is a {type(module).__name__}, expected a torch.nn.Module.")
    for side, loss in (("TorchProgram", torch_program.loss), ("JaxProgram", jax_program.loss)):
        if not callable(loss):
            raise InputTypeError(f"compare: {side}.loss is a {type(loss).__name__}, expected a function.")
    if isinstance(module, torch.jit.ScriptModule):
        raise InputTypeError(
            "compare: the module is a ScriptModule, which hides its operations. Pass the original one."
        )
    parameters = dict(module.named_parameters())
    lazy = [name for name, p in parameters.items() if isinstance(p, torch.nn.parameter.UninitializedParameter)]
    if lazy:
        raise InputError(f"compare: torch's {', '.join(lazy)} has no shape yet. Call the module once on a batch.")
    if not any(p.requires_grad for p in parameters.values()):
        have = "no parameters" if not parameters else "no parameter that requires a gradient"
        raise InputError(f"compare: the torch module {type(module).__name__} has {have}: nothing can be trained.")
    sparse = [
        f"module {name}".strip() for name, each in module.named_modules() if getattr(each, "sparse", False) is True
    ]
    if sparse:
        raise InputError(
            f"compare: {', '.join(sparse)} makes sparse gradients, expected dense ones. "
            "Set sparse=False: the numbers are the same."
        )
    devices = {str(p.device) for p in (*parameters.values(), *module.buffers())}
    if len(devices) > 1 or devices == {"meta"}:
        raise InputError(
            f"compare: the torch module's parameters are on {', '.join(sorted(devices))}, expected one real device. "
            'Move them: module.to("cpu").'
        )
    tensors = [path for path, leaf in leaves_by_path(jax_program.params).items() if isinstance(leaf, torch.Tensor)]
    if tensors:
        raise InputTypeError(
            f"compare: {', '.join(f'params{path}' for path in tensors)}: torch tensors, expected arrays. "
            "Convert each: jnp.asarray(tensor.detach().numpy())."
        )
    split = SplitParams(jax_program.params)
    whole = _whole_numbers(split, [p.numel() for p in parameters.values() if p.requires_grad])
    if not split.arrays and not whole:
        raise InputError("compare: JaxProgram.params has no arrays, expected the parameters as a pytree of arrays.")
    whole |= {path: leaf for path, leaf in zip(split.paths, split.arrays, strict=True) if not _inexact(leaf)}
    if whole:
        listed = ", ".join(f"params{path} is {short(leaf)}" for path, leaf in whole.items())
        raise InputTypeError(
            f"compare: {listed}; expected floating or complex arrays, since a gradient needs them. "
            "Close over what is not a parameter, or pass it in the batch."
        )
    for name, array in [
        *((f"torch's {n}", _whole_or_half(p.detach().resolve_conj().cpu())) for n, p in parameters.items()),
        *((f"params{path}", as_pairs(leaf)) for path, leaf in zip(split.paths, split.arrays, strict=True)),
    ]:
        if not np.isfinite(array).all():
            raise InputError(f"compare: {name} holds a number that is not finite. Start from finite parameters.")
    _check_optimizers(torch_program, jax_program)
    return split


def _whole_or_half(tensor: torch.Tensor) -> np.ndarray:
    return (tensor if tensor.is_complex() else tensor.float()).numpy()


def _whole_numbers(split: SplitParams, sizes: Sequence[int]) -> dict[str, Any]:
    """Integer arrays that stand where a parameter is wanted: torch has more of that size than JAX has floating ones.

    Others (a count, a table of indices, a random key) are handed to the loss untouched.
    """
    floating = [int(np.size(leaf)) for leaf in split.arrays]
    missing = {size for size in sizes if sizes.count(size) > floating.count(size)}
    return {
        path: leaf
        for path, leaf in split.others.items()
        if np.ndim(leaf) and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended) and np.size(leaf) in missing
    }


def _check_optimizers(torch_program: TorchProgram, jax_program: JaxProgram) -> None:
    ours, theirs = torch_program.optimizer, jax_program.optimizer
    if (ours is None) != (theirs is None):
        which = "TorchProgram" if theirs is None else "JaxProgram"
        raise InputError(f"compare: only the {which} has an optimizer, expected one on both sides or none.")
    if torch_program.scheduler is not None and ours is None:
        raise InputError("compare: TorchProgram has a scheduler and no optimizer. Pass the optimizer it drives.")
    _check_torch_optimizer(torch_program)
    if theirs is not None and not (
        callable(getattr(theirs, "init", None)) and callable(getattr(theirs, "update", None))
    ):
        raise InputTypeError(
            f"compare: JaxProgram.optimizer is a {type(theirs).__name__}, expected an optax GradientTransformation. "
            "Pass optax.sgd(0.1), say."
        )


def _check_torch_optimizer(program: TorchProgram) -> None:
    import torch

    optimizer = program.optimizer
    if optimizer is None:
        return
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputTypeError(
            f"compare: TorchProgram.optimizer is a {type(optimizer).__name__}, expected a torch.optim.Optimizer. "
            "Pass torch.optim.SGD(module.parameters(), lr=0.1), say."
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InputError("compare: torch.optim.LBFGS evaluates the loss inside its step, which is not compared.")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held & {id(p) for p in program.module.parameters()}:
        raise InputError(
            "compare: the torch optimizer holds none of the module's parameters (was it made for another copy?). "
            "Make it from this module's parameters()."
        )
