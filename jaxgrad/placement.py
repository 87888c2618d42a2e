"""Leaves between devices and the host's memory, bit for bit, and between processes: what the first one has, all get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxgrad.errors import InputError, InputTypeError, JaxgradError
from jaxgrad.pytrees import leaves_by_path

_NUMBERS = (bool, int, float, complex)


def checked_leaves(function: str, argument: str, tree: Any, *, abstract: bool = False) -> dict[str, Any]:
    """The leaves of a tree by path, refused where one is no array or number that can be read.

    Args:
      function: the public function that was called, the start of the message.
      argument: the name of its argument.
      tree: any pytree.
      abstract: whether a ``jax.ShapeDtypeStruct`` may stand for an array.

    Raises:
      InputError: if there are no leaves, an array was donated or deleted, or two leaves have the same path.
      InputTypeError: if a leaf is not numeric, or is traced.
    """
    leaves = leaves_by_path(tree)
    if not leaves:
        raise InputError(f"{function}: {argument} has no leaves, expected at least one array.")
    if len(leaves) != len(jax.tree.leaves(tree)):
        raise InputError(
            f"{function}: two leaves of {argument} have the same path. "
            "Give the children of each pytree class different keys."
        )
    wrong = [f"{argument}{path} is {said}" for path, leaf in leaves.items() if (said := _not_numeric(leaf, abstract))]
    if wrong:
        raise InputTypeError(f"{function}: {'; '.join(wrong)}; expected arrays and numbers. Leave out what is neither.")
    gone = [f"{argument}{path}" for path, leaf in leaves.items() if isinstance(leaf, jax.Array) and leaf.is_deleted()]
    if gone:
        raise InputError(
            f"{function}: {', '.join(gone)} was donated or deleted, expected arrays that can be read. "
            "Pass what the step returned, not what was passed to it."
        )
    return leaves


def _not_numeric(leaf: Any, abstract: bool) -> str:
    if isinstance(leaf, jax.core.Tracer):
        return "traced by a transformation such as jit"
    if isinstance(leaf, jax.ShapeDtypeStruct) and not (abstract and not _is_key(leaf)):
        return f"a ShapeDtypeStruct of {leaf.dtype}"
    kinds = (jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic, *_NUMBERS)
    if not isinstance(leaf, kinds) or isinstance(leaf, np.ma.MaskedArray):  # whose mask would be lost
        return f"a {type(leaf).__name__}"
    dtype = _dtype(leaf)
    numeric = _is_key(leaf) or dtype == np.bool_ or jnp.issubdtype(dtype, np.number)
    return "" if numeric else f"of dtype {dtype}"


def described(leaf: Any) -> tuple[str, tuple[int, ...]]:
    """The name of a leaf's dtype, whatever JAX would make of it, and its shape.

    >>> described(np.zeros((2, 3)))
    ('float64', (2, 3))
    """
    return str(leaf.dtype) if _is_key(leaf) else _dtype(leaf).name, np.shape(leaf)


def on_host(leaf: Any) -> np.ndarray:
    """A leaf as one NumPy array in native byte order; of a PRNG key, its words.

    An array that is spread over processes is gathered: all of them must call this.
    """
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    value = np.asarray(leaf)
    return value.astype(value.dtype.newbyteorder("="), copy=False)


def host_type(leaf: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of what ``on_host`` makes of a leaf, or of one like it."""
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return np.shape(leaf), _dtype(leaf).newbyteorder("=")


def placed(value: np.ndarray, like: Any) -> Any:
    """The inverse of ``on_host``: a leaf of the kind of ``like``, on its devices.

    Args:
      value: an array of the ``host_type`` of ``like``.
      like: a ``jax.Array``, whose sharding and weak type are taken; a ``jax.ShapeDtypeStruct``; a NumPy array or
        scalar; a Python number.
    """
    if isinstance(like, np.ndarray):
        return value
    if isinstance(like, np.generic):
        return value[()]
    if isinstance(like, _NUMBERS):
        return value.item()
    if _is_key(like):
        words = placed(value, jax.random.key_data(like))
        return jax.random.wrap_key_data(words, impl=str(jax.random.key_impl(like)))
    # An array that is on the default device because none was named must stay free to move.
    sharding = None if isinstance(like, jax.Array) and not like.committed else like.sharding
    with jax.enable_x64(True):  # or 64 bits would become 32
        if sharding is None:
            array = jnp.asarray(value)
        else:
            array = jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
        # There is no public call that makes a weakly typed array of given values; writing into one keeps its type.
        return like.at[...].set(array) if isinstance(like, jax.Array) and like.weak_type else array


def from_first(make: Callable[[], bytes]) -> bytes:
    """What ``make`` returns in the first process, in all of them; or its error, in all of them.

    Raises:
      InputError: if ``make`` raised it in the first process.
      JaxgradError: if it raised another error there; the first process raises that error itself.
    """
    if jax.process_count() == 1:
        return make()
    content, error = b"", None
    if jax.process_index() == 0:
        try:
            content = make()
        except Exception as raised:  # raised again below, once the other processes know
            content, error = (str(raised) or type(raised).__name__).encode(), raised
    kind = 0 if error is None else 1 if isinstance(error, InputError) else 2
    kind, *size = (int(number) for number in _broadcast(np.array([kind, *divmod(len(content), 2**31)], np.uint32)))
    told = np.frombuffer(content, np.uint8) if content else np.zeros(size[0] * 2**31 + size[1], np.uint8)
    content = _broadcast(told).tobytes()
    if error is not None:
        raise error
    if kind:
        raise (InputError if kind == 1 else JaxgradError)(content.decode())
    return content


def array_from_first(value: np.ndarray | None, like: Any) -> np.ndarray:
    """An array that the first process holds, in all of them, bit for bit.

    Args:
      value: the array; used in the first process only.
      like: a leaf whose ``host_type`` it has.
    """
    if jax.process_count() == 1:
        assert value is not None
        return value
    shape, dtype = host_type(like)
    held = np.zeros(shape, dtype) if value is None else value
    return _broadcast(as_bytes(held)).view(dtype).reshape(shape)


def as_bytes(value: np.ndarray) -> np.ndarray:
    """The memory of an array, row by row -> ``uint8[n]``; no copy if it lies so already."""
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)


def _broadcast(value: np.ndarray) -> np.ndarray:
    if not value.size:
        return value
    # It sums over the processes, in a wider dtype: exact for bytes and counts, not for a float's -0.0.
    return np.asarray(multihost_utils.broadcast_one_to_all(value)).astype(value.dtype)


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
