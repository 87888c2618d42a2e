"""The batches that both programs are given: what is taken for one, and what each side gets of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError, InputTypeError, ProgramError
from jaxgrad.pytrees import leaves_by_path

FIRST_BATCHES = 3
"""So many batches are taken of what is no list, which may have no end: from the second on an optimizer's moments show,
from the third on what a schedule made of the second. Whoever wants more passes a list."""

AS_INT64 = ("int16", "int32", "uint16", "uint32", "uint64")
"""Integers that torch gets as int64: its lookups and losses take no others, and it has few operations on unsigned ones.

Bytes stay bytes: sums of them wrap around on either side.
"""


def take_batches(batches: Any) -> tuple[list[Any], list[str]]:
    """The batches as a list, and a note where not all of them were taken.

    Args:
      batches: a list or tuple of batches, all of which are taken; or a ``DataLoader`` or any other iterable, of which
        the first ``FIRST_BATCHES`` are.

    Raises:
      InputError: if there is none, or it is no list of batches. ProgramError: if the iterable raises.
    """
    if isinstance(batches, (list, tuple)) and batches:
        return list(batches), []
    single = isinstance(batches, (list, tuple, str, bytes, Mapping)) or hasattr(batches, "shape")
    found: list[Any] = []
    kind = type(batches).__name__
    if not single and isinstance(batches, Iterable):
        import torch

        try:
            with torch.random.fork_rng(devices=[]):  # a loader draws its seed from torch's random numbers
                found = list(islice(batches, FIRST_BATCHES))
        except Exception as error:
            raise ProgramError(f"compare: batches, a {kind}, raised {type(error).__name__}: {error}") from error
    if not found:
        raise InputError("compare: batches is empty or not a list, expected a list of batches, one a step: [(x, y)].")
    if len(found) < FIRST_BATCHES:
        return found, []
    return found, [f"the first {FIRST_BATCHES} batches of the {kind} were compared; pass a list to compare others"]


def check_batches(batches: Sequence[Any]) -> list[list[np.ndarray]]:
    """The batches as NumPy arrays, each batch a list of leaves; refuses what is not arrays.

    Returns:
      For each batch its leaves; of a Python number an array of shape [], of a typed random key its data.

    Raises:
      InputError: an array that is not finite, an integer beyond 32 bits. InputTypeError: not arrays.
    """
    found = []
    for number, batch in enumerate(batches):
        if not isinstance(batch, (tuple, list)):
            how = "[(batch,)] where it is one argument" if isinstance(batch, Mapping) else "[(x,)] for one array"
            raise InputTypeError(
                f"compare: batches[{number}] is a {type(batch).__name__}, expected a tuple that is spread as "
                f"loss(params, *batch). Pass [(x, y)], or {how}."
            )
        found.append(
            [_as_array(f"batches[{number}]{path}", leaf) for path, leaf in leaves_by_path(tuple(batch)).items()]
        )
    return found


def _as_array(name: str, leaf: Any) -> np.ndarray:
    if type(leaf).__module__.split(".")[0] == "torch":
        leaf = leaf.detach().cpu()
        leaf = (leaf.float() if leaf.dtype.itemsize == 2 and leaf.is_floating_point() else leaf).numpy()
    if is_key(leaf):
        return np.asarray(jax.random.key_data(leaf))
    if not isinstance(leaf, (np.ndarray, np.generic, jax.Array, int, float, complex)):
        how = f"Pass dict({name})" if isinstance(leaf, Mapping) else "Pass numpy arrays"
        raise InputTypeError(f"compare: {name} is a {type(leaf).__name__}, expected an array. {how}.")
    array = np.array(leaf)
    if array.dtype == object or array.dtype.kind not in "fciub":
        raise InputTypeError(f"compare: {name} has dtype {array.dtype}, expected numbers. Pass floats or integers.")
    if array.dtype.kind in "fc" and np.isnan(array).any():  # infinities may stand in a mask
        raise InputError(f"compare: {name} holds NaN, which compares with nothing. Mend the data.")
    top = 2**32 if array.dtype.kind == "u" else 2**31
    if array.dtype.kind in "iu" and array.size and (int(array.max()) >= top or int(array.min()) < -(2**31)):
        raise InputError(f"compare: {name} holds an integer beyond 32 bits, which JAX cuts off. Pass smaller ones.")
    return array


def is_number(leaf: Any) -> bool:
    """Whether a leaf is a Python number: torch gets it as it is, JAX as a scalar of weak type, as ``jax.jit`` does."""
    return type(leaf) in (bool, int, float, complex)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed random key."""
    return isinstance(leaf, jax.Array) and bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def torch_batch(batch: Sequence[Any], arrays: Sequence[np.ndarray], device: Any) -> tuple[Any, ...]:
    """A batch with torch tensors for its leaves, copies of its own; a Python number is taken from its array."""
    import torch

    leaves, structure = jax.tree.flatten(tuple(batch))
    given = [
        type(leaf)(array.item())
        if is_number(leaf)
        else torch.tensor(array.astype(np.int64) if array.dtype.name in AS_INT64 else array).to(device)
        for leaf, array in zip(leaves, arrays, strict=True)
    ]
    return jax.tree.unflatten(structure, given)


def jax_batch(batch: Sequence[Any], arrays: Sequence[np.ndarray]) -> list[jax.Array]:
    """The leaves of a batch as JAX arrays; Python numbers have a weak type, typed keys are what they were."""
    return [
        leaf if is_key(leaf) else jnp.asarray(array.item() if is_number(leaf) else array)
        for leaf, array in zip(jax.tree.leaves(tuple(batch)), arrays, strict=True)
    ]


def say_widened(batch: Sequence[Any], arrays: Sequence[np.ndarray], names: Sequence[str]) -> list[str]:
    """A note on the integers that torch gets as int64, though they were given as others."""
    leaves = jax.tree.leaves(tuple(batch))
    wider = [
        name
        for name, leaf, array in zip(names, leaves, arrays, strict=True)
        if array.dtype.name in AS_INT64 and not is_number(leaf) and not is_key(leaf)
    ]
    return [f"torch was given {', '.join(wider)} as int64, which its losses and lookups ask for"] if wider else []
