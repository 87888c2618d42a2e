"""``fit``: the training loop, compiled, in pieces that are long enough to be fast and short enough to be watched."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgrad.errors import DivergenceError, ProgramError
from jaxgrad.training.finite import finite
from jaxgrad.training.keeping import Keeper
from jaxgrad.training.learning_rates import reader_of
from jaxgrad.training.program import Run, program, skips_bad_steps
from jaxgrad.training.progress_bar import Bar
from jaxgrad.training.setup import Setup, prepare
from jaxgrad.training.source import PIECE_STEPS, Source, size_of
from jaxgrad.training.values import FitResult, Progress, Stopped
from jaxgrad.training.way_back import WayBack

if TYPE_CHECKING:
    import optax

Callback = Callable[[Progress], Any]

_ROOM = 2**18
_WATCHED_SECONDS, _SECONDS = 0.25, 1.0
_SMALL = 2**16
"""Bytes of state and batch below which the first piece has several steps."""


def fit(
    loss: Callable[..., jax.Array],
    params: Any,
    data: Any,
    optimizer: optax.GradientTransformation | float | jax.Array,
    *,
    steps: int,
    batch_size: int | None = None,
    key: jax.Array | int | None = None,
    opt_state: Any = None,
    validation: Any = None,
    validate_every: int | None = None,
    patience: int | None = None,
    min_improvement: float = 0.0,
    callbacks: Callback | Iterable[Callback] = (),
    progress: bool = False,
    chunk: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    keep: int = 3,
    resume: bool = False,
    mesh: jax.sharding.Mesh | None = None,
    donate: bool = False,
    allow_unused: bool = False,
) -> FitResult:
    """Train: the loop of ``make_step``'s steps, many of them in one compiled program.

    Args:
      loss: pure function ``loss(params, *batch) -> []``, floating.
      params: any pytree of floating arrays; they are not changed.
      data: a tuple of arrays ``[rows, ...]`` (or pytrees of them), all of it each step or, with ``batch_size``,
        shuffled rows; or ``batches(...)``; or an iterable of batches, each such a tuple, which is begun again at its
        end unless it is an iterator. Memory maps stay on disk.
      optimizer: an ``optax.GradientTransformation``, such as ``optax_from_torch`` gives; or a rate for the update by
        hand.
      steps: how many to make in all, those before a resumed run's checkpoint included.
      batch_size: rows of a batch, drawn as ``batches`` draws them; None for all rows each step.
      key: of the shuffling, a ``jax.random`` key or a whole number; 0 by default.
      opt_state: to go on from; ``optimizer.init(params)`` by default.
      validation: a tuple of arrays as for ``loss``, or a list of such batches.
      validate_every: steps between validations; by default an epoch, or a tenth of all steps.
      patience: stop early once so many validations in a row, and one more, have brought no improvement.
      min_improvement: how much lower the validation loss must be to count.
      callbacks: functions of ``Progress``, called between pieces of the loop; one that returns True ends the run.
      progress: draw a bar on standard error.
      chunk: steps of a piece; by default what takes a second, or a quarter of one if somebody watches.
      checkpoint: a folder of their own for the checkpoints (extra ``checkpoint``).
      checkpoint_every: steps between them, by default a tenth of all; one is written at the end in any case.
      keep: how many to keep.
      resume: go on from the newest checkpoint in the folder, if there is one: bit for bit as if never stopped.
      mesh: devices, of which those along the first axis share each batch's rows; parameters are on all of them.
      donate: hold the state once, not twice, in the devices' memory; the way back from a divergence is then kept in the
        host's.
      allow_unused: accept parameters that the loss does not use.

    Returns:
      What was reached. Ctrl-C ends the run with what was reached too.

    Raises:
      DivergenceError: at the first loss that is not finite. Its ``step`` counts from 1; its ``result`` has the
        parameters before that, of the last step whose loss was not above the first one's.
      InputError, InputTypeError: for what cannot be trained on, before any step.
      MissingExtraError: if checkpoints are asked for and orbax-checkpoint is not installed.

    Source: the lesson's loop; in torch, for each batch, ``optimizer.zero_grad(); loss.backward(); optimizer.step()``.

    >>> import jax.numpy as jnp
    >>> from jaxgrad import LinearParams, loss
    >>> x = jnp.array([1.0, 2.0, 3.0])
    >>> found = fit(loss, LinearParams(2.0, 6.0), (x, 4 * x + 1), 0.1, steps=1000)
    >>> round(found.params.w.item(), 3), round(found.params.b.item(), 3), found.losses.shape
    (4.0, 1.0, (1000,))
    """
    setup = prepare(
        loss,
        params,
        data,
        optimizer,
        steps=steps,
        batch_size=batch_size,
        key=0 if key is None else key,
        opt_state=opt_state,
        validation=validation,
        validate_every=validate_every,
        patience=patience,
        min_improvement=min_improvement,
        callbacks=callbacks,
        chunk=chunk,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        keep=keep,
        resume=resume,
        mesh=mesh,
        donate=donate,
        allow_unused=allow_unused,
    )
    bar = Bar(setup.steps, setup.done) if progress else None
    try:
        return _Loop(setup, (*setup.callbacks, bar) if bar else setup.callbacks).run()
    finally:
        if bar is not None:
            bar.close()


class CallbackError(Exception):
    """What a callback raised, on its way to whoever called ``fit``."""

    def __init__(self, cause: Exception):
        super().__init__(str(cause))
        self.cause = cause


class _Loop:
    """One run, from where the setup stands."""

    def __init__(self, setup: Setup, callbacks: tuple[Callback, ...]):
        self.setup, self.callbacks = setup, callbacks
        self.source: Source = setup.source
        self.reached: tuple[Any, int] = setup.state, setup.done
        self.losses, self.rates = [setup.losses], [setup.rates]
        self.reader = reader_of(setup.optimizer, setup.state[1])
        self.started = time.perf_counter()
        self.pace = None if setup.on_mesh else setup.plan.pace  # seconds a step
        self.room = min(setup.chunk or _ROOM, setup.steps, _ROOM if self.source.again else PIECE_STEPS)
        self.program: Run = program(
            setup.loss, setup.optimizer, self.source.batch_of, setup.plan.loss_dtype, self.room, setup.donate
        )
        self.way_back = WayBack(setup, self.program, self.room, self._safe(setup.state))

    def run(self) -> FitResult:
        """All steps, or as many as there will be."""
        stopped: Stopped = "finished"
        try:
            stopped = self._pieces()
        except KeyboardInterrupt:
            if jax.process_count() > 1:  # the others go on, and must not wait for this one's checkpoint
                raise
            stopped = "interrupted"
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1:
                raise
            said = (str(error).splitlines() or [""])[0]
            raise ProgramError(
                f"fit: after step {self.reached[1]} the processes lost each other ({said}). "
                "Look for one that died; go on from the newest checkpoint with resume=True."
            ) from error
        except CallbackError as error:
            self._save_last()
            raise error.cause from None
        if not self.setup.on_mesh:
            self.setup.plan.pace = self.pace
        with contextlib.suppress(KeyboardInterrupt):  # if it came while the checkpoint was written, that is whole now
            self._save_last()
        return self._result(*self.reached, stopped)

    def _save_last(self) -> None:
        state, step = self.reached
        if self.setup.keeper is not None and self.setup.keeper.saved != step:
            self._save(self.setup.keeper, state, step)

    def _pieces(self) -> Stopped:
        setup, (state, step) = self.setup, self.reached
        loaded = self._load(step)
        while step < setup.steps:
            if loaded is None:
                return "data ended"
            arrays, count = loaded
            before, began = self._safe(state), time.perf_counter()
            self.reached = before, step  # what an interruption finds
            piece = self.program(state, arrays, np.int32(step), np.int32(count), setup.rate)
            # The device works; meanwhile an iterator's next batches are gathered.
            loaded = self._load(step + count) if not self.source.again else None
            done = int(piece.done)
            self.pace = (time.perf_counter() - began) / done
            losses, rates = _host(piece.losses, done), self._rates(piece.rates, done)
            self.losses.append(losses)
            self.rates.append(rates)
            last = step + done == setup.steps
            failed = not math.isfinite(losses[-1]) and not skips_bad_steps(state[1])
            if failed or (last and not _all_finite(piece.state[0])):
                raise self._diverged((step, before, arrays), done)
            self.way_back.passed(step, before, losses)
            state, step = piece.state, step + done
            self.reached = state, step
            if stopped := self._between(state, step, losses, rates):
                return stopped
            if self.source.again:
                loaded = self._load(step)
        return "finished"

    def _between(self, state: Any, step: int, losses: np.ndarray, rates: np.ndarray) -> Stopped | None:
        """What happens between two pieces; why to stop, if so."""
        setup, validation = self.setup, self.setup.validation
        newest = None
        if validation is not None and (step % validation.every == 0 or step == setup.steps):
            kept = jax.tree.map(jax.numpy.array, state[0]) if setup.donate else state[0]
            newest = validation.measure(step, kept)
        if setup.keeper is not None and step % setup.keeper.every == 0:
            self._save(setup.keeper, state, step)
        seconds = time.perf_counter() - self.started
        told = Progress(step, setup.steps, state[0], state[1], losses, rates, seconds, newest)
        try:
            ended = [callback(told) for callback in self.callbacks]
        except Exception as error:
            raise CallbackError(error) from error
        if validation is not None and newest is not None and validation.is_enough:
            return "early"
        return "callback" if any(each is True for each in ended) else None

    def _load(self, step: int) -> tuple[Any, int] | None:
        if step >= self.setup.steps or self.source.most == 0:
            return None
        return self.source.load(self._count(step))

    def _count(self, step: int) -> int:
        """How many steps the piece that begins after ``step`` should have."""
        setup = self.setup
        if setup.chunk is not None:
            count = setup.chunk
        elif self.pace is None:
            count = 64 if size_of((setup.state, self.source.example())) < _SMALL else 1
        else:
            target = _WATCHED_SECONDS if self.callbacks else _SECONDS
            count = max(1, int(target / self.pace))
        stops = [each.every for each in (setup.validation, setup.keeper) if each is not None]
        ends = [setup.steps, *(step + every - step % every for every in stops)]
        return setup.agreed(min(count, self.room, *(end - step for end in ends)))

    def _rates(self, rates: Any, done: int) -> np.ndarray:
        if rates is not None:
            return _host(rates, done).astype(np.float64)
        known = self.setup.rate if self.setup.optimizer is None else self.reader
        number = np.nan if known is None or callable(known) else known
        return np.broadcast_to(np.float64(number), done)

    def _save(self, keeper: Keeper, state: Any, step: int) -> None:
        losses, rates = (_joined(each)[:step] for each in (self.losses, self.rates))
        keeper.save(step, state, losses, rates, self.setup.validation)

    def _result(self, state: Any, step: int, stopped: Stopped) -> FitResult:
        validation = self.setup.validation
        return FitResult(
            params=state[0],
            opt_state=state[1],
            losses=_joined(self.losses)[:step],
            learning_rates=_joined(self.rates)[:step],
            step=step,
            stopped=stopped,
            validation_losses=np.asarray(validation.losses if validation else [], np.float64),
            validation_steps=np.asarray(validation.steps if validation else [], np.int64),
            best_params=validation.best_params if validation else None,
        )

    def _diverged(self, piece: tuple[int, Any, Any], done: int) -> DivergenceError:
        losses, rate = _joined(self.losses), float(self.rates[-1][-1])
        step, state = self.way_back.find(losses, piece)
        result = self._result(state, step, "diverged")
        return self.way_back.error(step, state[0], losses, rate, piece[2], done - 1, result)

    def _safe(self, state: Any) -> Any:
        """The state, where the program does not overwrite it."""
        return jax.device_get(state) if self.setup.donate else state


def _host(values: Any, count: int) -> np.ndarray:
    """The first values of a device's array. On a CPU they stay where they are, unless most of their room is empty."""
    found = np.asarray(values)[:count]
    return found if 2 * count >= len(values) else found.copy()


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    """One array of all of them; a single one is not copied."""
    filled = [piece for piece in pieces if piece.size] or pieces[:1]
    return filled[0] if len(filled) == 1 else np.concatenate(filled)


def _all_finite(params: Any) -> bool:
    """Whether they are, as far as this process holds them."""
    held = [leaf for leaf in jax.tree.leaves(params) if getattr(leaf, "is_fully_addressable", True)]
    return all(finite(leaf).all() for leaf in held)
