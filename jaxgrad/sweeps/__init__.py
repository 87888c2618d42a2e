"""Many runs of one training loop, each with its own learning rate and start, in one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxgrad.errors import InputError
from jaxgrad.pytrees import check_floating
from jaxgrad.sharding import checked_mesh
from jaxgrad.sweeps.checks import check_settings, checked_rates, checked_starts
from jaxgrad.sweeps.engine import Job, Runs, lanes_for, run_all
from jaxgrad.sweeps.result import Best as Best, SweepResult as SweepResult
from jaxgrad.updates import check_batch

if TYPE_CHECKING:
    import optax


def sweep(
    loss: Callable[..., jax.Array],
    params: Any,
    data: tuple[Any, ...],
    optimizer: Callable[[Any], optax.GradientTransformation] | optax.GradientTransformation | None = None,
    *,
    steps: int,
    learning_rates: Any = None,
    starts: Any = None,
    paired: bool = False,
    mesh: Mesh | None = None,
    record: str = "last",
) -> SweepResult:
    """Train from every start with every learning rate: k x m runs of full-batch descent, in one compiled program.

    Each run is the loop of ``make_step``. The runs lie side by side in vector registers, a block of them at a time; on
    a CPU the blocks are spread over its cores. A run that diverges ends in infinities of its own and disturbs no other.

    Args:
      loss: pure function ``loss(params, *data) -> []``, floating.
      params: any pytree of floating arrays: the start, where ``starts`` is None; else its tree, shapes and dtypes.
      data: a tuple, spread as arguments of the loss: the full batch of each step.
      optimizer: a function from a rate to an ``optax.GradientTransformation``, such as ``optax.adam`` or
        ``lambda rate: optax.sgd(rate, momentum=0.9)``; None for gradient descent by hand (``sgd_update``). A finished
        ``GradientTransformation`` sweeps over starts alone.
      steps: of each run.
      learning_rates: ``[k]``, positive and finite.
      starts: a tree like ``params`` with an axis ``[m]`` in front of each leaf; None for one start, m = 1.
      paired: run i has rate i and start i, so k = m, instead of each rate with each start.
      mesh: its first axis splits the runs over its devices; what it does not divide is added by all of them.
      record: ``"last"`` keeps the loss of the last step, ``"all"`` those of all steps.

    Returns:
      ``SweepResult``: parameters and losses ``[k, m]`` (paired: ``[k]``), who diverged, and the ``best`` run.

    Raises:
      InputError: for rates that are not positive and finite, no rates or starts at all, starts that do not match
        ``params``, steps below 1, a loss that is not a scalar, an unknown ``record``, or pairs of different numbers.
      InputTypeError: for parameters that are not floating, or a loss, optimizer, data or mesh of the wrong kind.

    Source: the lesson's loop with learning rates from 1e-1 to 1e-5.

    >>> from jaxgrad import LinearParams, loss
    >>> x = jnp.array([1.0, 2.0, 3.0])
    >>> guess = LinearParams(jnp.array(2.0), jnp.array(6.0))
    >>> result = sweep(loss, guess, (x, 4 * x + 1), steps=100, learning_rates=[1e-3, 1e-2, 1e-1, 1.0])
    >>> result.losses.shape, result.diverged[:, 0].tolist(), result.best.index
    ((4, 1), [False, False, False, True], (2, 0))
    """
    check_floating("sweep", "params", params)
    check_batch("sweep", data)
    check_settings(steps, record)
    mesh = None if mesh is None else checked_mesh("sweep", mesh)
    rates = checked_rates(learning_rates, optimizer)
    params = jax.tree.map(jnp.asarray, params)
    given = jax.tree.map(lambda leaf: leaf[None], params) if starts is None else checked_starts(starts, params)
    k, m = 1 if rates is None else len(rates), len(jax.tree.leaves(given)[0])
    if paired and (rates is None or starts is None or k != m):
        raise InputError(
            f"sweep: paired=True with {'no' if rates is None else k} rates and {'no' if starts is None else m} starts, "
            "expected as many of one as of the other. Leave paired out for each rate with each start."
        )
    shape = (k,) if paired else (k, m)
    of_rate, of_start = (np.arange(k), np.arange(k)) if paired else (i.ravel() for i in np.indices(shape))
    data = jax.tree.map(jnp.asarray, data)
    job = Job(loss, optimizer, int(steps), record)
    used = jnp.ones(1) if rates is None else rates
    lanes = lanes_for(job, params, data, used[0])
    ends = run_all(job, lanes, data, Runs(used, given, of_rate, of_start), mesh)

    ends = jax.tree.map(lambda leaf: leaf.reshape(shape + leaf.shape[1:]), ends)
    first = None
    if record == "all":
        finite = np.asarray(jnp.isfinite(ends.losses))
        first = np.where(finite.all(-1), 0, finite.argmin(-1) + 1)
    return SweepResult(ends.params, ends.losses, rates, int(steps), ~np.asarray(ends.sound), first)
