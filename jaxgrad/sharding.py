"""Many devices: a mesh whose first axis shares the rows, and many processes that act as one."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxgrad.errors import InputError, InputTypeError


def rows_mesh(devices: int | None = None, *, function: str = "rows_mesh") -> Mesh:
    """A mesh of one axis, ``"rows"``, for ``fit``, ``sweep`` and ``value_and_grad_in_blocks``.

    Args:
      devices: how many; by default all that JAX sees, in all processes.
      function: the public function that was called, the start of the message.

    Raises:
      InputError: if there are not so many devices. InputTypeError: if ``devices`` is not a whole number.
    """
    present = jax.devices()
    if devices is None:
        devices = len(present)
    if isinstance(devices, bool) or not isinstance(devices, (int, np.integer)):
        raise InputTypeError(f"{function}: devices is {devices!r}, expected a whole number. Pass 2, say.")
    if not 1 <= devices <= len(present):
        raise InputError(
            f"{function}: devices={devices}, expected 1 to {len(present)}, the devices that JAX sees "
            f"({present[0].platform}). On a CPU, set jax.config.update('jax_num_cpu_devices', {max(devices, 1)}) first."
        )
    return Mesh(np.asarray(present[:devices]), ("rows",))


def checked_mesh(function: str, mesh: Any) -> Mesh:
    """The mesh that was given, its axes left to the compiler; refused if it is none.

    ``jax.make_mesh`` makes axes that are explicit in the types of arrays, which a loss would have to speak of.
    """
    if not isinstance(mesh, Mesh):
        raise InputTypeError(
            f"{function}: mesh is a {type(mesh).__name__}, expected a jax.sharding.Mesh. "
            "Pass jax.make_mesh((jax.device_count(),), ('rows',))."
        )
    if not mesh.axis_names:
        raise InputError(f"{function}: mesh has no axis, expected one over which rows are shared.")
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def shares(mesh: Mesh) -> int:
    """Over how many devices the rows are shared: the length of the first axis."""
    return mesh.shape[mesh.axis_names[0]]


def check_shared(function: str, what: str, rows: int, mesh: Mesh) -> None:
    """Refuse a number of rows that the devices do not divide."""
    if rows % shares(mesh):
        raise InputError(
            f"{function}: {what} has {rows} rows, which {shares(mesh)} devices do not divide. "
            f"Pass {rows - rows % shares(mesh) or shares(mesh)}, say, or a mesh of {math.gcd(rows, shares(mesh))}."
        )


def by_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Arrays whose ``axis``-th axis is shared along the mesh's first one."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names[0]))


def everywhere(mesh: Mesh) -> NamedSharding:
    """Arrays of which each device holds all."""
    return NamedSharding(mesh, PartitionSpec())


def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """A leaf on its devices; with several processes each has the whole of it, and puts its own part.

    A ``jax.Array`` that lies on the mesh's devices already, shared over them in whatever way, stays as it is.
    """
    if isinstance(leaf, jax.Array) and leaf.sharding.device_set == sharding.device_set:
        of = leaf.sharding
        if isinstance(of, NamedSharding) and of.mesh.axis_names == sharding.mesh.axis_names:
            return jax.device_put(leaf, NamedSharding(sharding.mesh, of.spec))
        return leaf
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
