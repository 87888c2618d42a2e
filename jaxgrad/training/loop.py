"""``fit``: the training loop, compiled, in pieces that are long enough to be fast and short enough to be watched."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgrad.errors import DivergenceError, ProgramError
from jaxgrad.training.advice import advice
from jaxgrad.training.keeping import Keeper
from jaxgrad.training.learning_rates import reader_of
from jaxgrad.training.program import Run, program
from jaxgrad.training.progress_bar import Bar
from jaxgrad.training.setup import Setup, prepare
from jaxgrad.training.source import PIECE_STEPS, Source, size_of
from jaxgrad.training.validation import Validation
from jaxgrad.training.values import FitResult, Progress, Stopped

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


class _Loop:
    """One run, from where the setup stands."""

    def __init__(self, setup: Setup, callbacks: tuple[Callback, ...]):
        self.setup, self.callbacks = setup, callbacks
        self.source: Source = setup.source
        self.state, self.step = setup.state, setup.done
        self.losses, self.rates = [setup.losses], [setup.rates]
        self.reader = reader_of(setup.optimizer, self.state[1])
        self.started = time.perf_counter()
        self.told = 0  # pieces that callbacks have seen
        self.seconds_per_step: float | None = None
        # From here a run that diverges is made again up to its last good step.
        self.good_step, self.good = self.step, self._snapshot()
        self.room = min(setup.chunk or _ROOM, setup.steps, _ROOM if self.source.again else PIECE_STEPS)
        self.program: Run = program(
            setup.loss, setup.optimizer, self.source.batch_of, setup.loss_dtype, self.room, setup.donate
        )

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
                f"fit: after step {self.step} the processes lost each other ({said}). "
                "Look for one that died; go on from the newest checkpoint with resume=True."
            ) from error
        if self.setup.keeper is not None and self.setup.keeper.saved != self.step:
            self._save(self.setup.keeper)
        return self._result(self.state, stopped)

    def _pieces(self) -> Stopped:
        setup = self.setup
        loaded = self.source.load(self._count()) if self.step < setup.steps else None
        while self.step < setup.steps:
            if loaded is None:
                return "data ended"
            arrays, count = loaded
            before, began = self._snapshot(), time.perf_counter()
            piece = self.program(self.state, arrays, np.int32(self.step), np.int32(count), setup.rate)
            # The device works; meanwhile an iterator's next batches are gathered.
            loaded = self._load(self.step + count) if not self.source.again else None
            done = int(piece.done)
            self.seconds_per_step = (time.perf_counter() - began) / done
            losses = np.array(np.asarray(piece.losses)[:done])
            self.losses.append(losses)
            self.rates.append(self._rates(piece.rates, done))
            if not math.isfinite(losses[-1]) or (self.step + done == setup.steps and not _all_finite(piece.state[0])):
                raise self._diverged(arrays, done)
            if abs(losses[0]) <= self._limit():
                self.good_step, self.good = self.step, before
            self.state, self.step = piece.state, self.step + done
            if stopped := self._between():
                return stopped
            if self.source.again:
                loaded = self._load(self.step)
        return "finished"

    def _between(self) -> Stopped | None:
        """What happens between two pieces; why to stop, if so."""
        setup, validation = self.setup, self.setup.validation
        newest = None
        if validation is not None and (self.step % validation.every == 0 or self.step == setup.steps):
            newest = validation.measure(self.step, self._kept(self.state[0]))
        if setup.keeper is not None and self.step % setup.keeper.every == 0:
            self._save(setup.keeper)
        ended = False
        if self.callbacks:
            told = Progress(
                self.step,
                setup.steps,
                *self.state,
                np.concatenate(self.losses[-1:]),
                np.concatenate(self.rates[-1:]),
                time.perf_counter() - self.started,
                newest,
            )
            ended = [callback(told) is True for callback in self.callbacks].count(True) > 0
        if validation is not None and newest is not None and validation.is_enough:
            return "early"
        return "callback" if ended else None

    def _load(self, step: int) -> tuple[Any, int] | None:
        if step >= self.setup.steps or self.source.most == 0:
            return None
        return self.source.load(self._count(step))

    def _count(self, step: int | None = None) -> int:
        """How many steps the next piece should have."""
        setup, step = self.setup, self.step if step is None else step
        if setup.chunk is not None:
            count = setup.chunk
        elif self.seconds_per_step is None:
            count = 64 if size_of((setup.state, self.source.example())) < _SMALL else 1
        else:
            target = _WATCHED_SECONDS if self.callbacks else _SECONDS
            count = max(1, int(target / self.seconds_per_step))
        ends = [setup.steps, *(step + every - step % every for every in self._stops())]
        count = min(count, self.room, *(end - step for end in ends))
        return setup.agreed(count)

    def _stops(self) -> list[int]:
        each = (self.setup.validation, self.setup.keeper)
        return [one.every for one in each if one is not None]

    def _rates(self, rates: Any, done: int) -> np.ndarray:
        if rates is not None:
            return np.asarray(rates)[:done].astype(np.float64)
        known = self.setup.rate if self.setup.optimizer is None else self.reader
        return np.full(done, np.nan if known is None else float(np.asarray(known)))

    def _save(self, keeper: Keeper) -> None:
        keeper.save(
            self.step, self.state, np.concatenate(self.losses), np.concatenate(self.rates), self.setup.validation
        )

    def _result(self, state: Any, stopped: Stopped, losses: np.ndarray | None = None) -> FitResult:
        validation = self.setup.validation or Validation(len, [], 1, None, 0.0)
        losses = np.concatenate(self.losses) if losses is None else losses
        return FitResult(
            params=state[0],
            opt_state=state[1],
            losses=losses,
            learning_rates=np.concatenate(self.rates)[: losses.size],
            step=losses.size,
            stopped=stopped,
            validation_losses=np.asarray(validation.losses, np.float64),
            validation_steps=np.asarray(validation.steps, np.int64),
            best_params=validation.best_params,
        )

    # A run that diverged.

    def _limit(self) -> float:
        """A loss up to here is a good one: that of the run's first step."""
        first = next(each[0] for each in self.losses if each.size)
        return abs(float(first)) if math.isfinite(first) else math.inf

    def _diverged(self, arrays: Any, done: int) -> DivergenceError:
        setup = self.setup
        losses, rates = np.concatenate(self.losses), np.concatenate(self.rates)
        failed = losses.size  # counted from 1
        fine = math.isfinite(losses[-1])  # then it is the update that was not
        start = self.good_step
        good = [n for n, value in enumerate(losses[: failed - 1]) if n >= start and abs(value) <= self._limit()]
        step = good[-1] if good else start
        state = self._again(step) if self.source.again else self.good
        step = step if self.source.again else start
        batch = self._batch(arrays, failed - 1, done - 1) if jax.process_count() == 1 else None
        rate = None if math.isnan(rates[-1]) else float(rates[-1])
        told, stable = advice(setup.loss, state[0], batch, rate)
        what = "the update gave parameters that are not finite" if fine else f"the loss is {losses[-1]}"
        result = self._result(state, "diverged", losses[:step])
        return DivergenceError(
            f"fit: the run diverges at step {failed}: {what}. The parameters after {step} steps, whose loss was "
            f"{losses[step] if step < failed else math.nan:.6g}, are the last good ones (error.result). {told}",
            step=failed,
            largest_stable_rate=stable,
            result=result,
        )

    def _again(self, step: int) -> Any:
        """The state after so many steps, made again from the last good one."""
        state, at = self.good, self.good_step
        while at < step:
            arrays, count = self.source.load(min(step - at, self.room))
            if self.setup.donate:
                state = jax.tree.map(jax.numpy.array, state)
            piece = self.program(state, arrays, np.int32(at), np.int32(count), self.setup.rate)
            state, at = piece.state, at + count
        return state

    def _batch(self, arrays: Any, step: int, place: int) -> Any:
        return jax.jit(self.source.batch_of)(arrays, np.int32(step), np.int32(place))

    def _snapshot(self) -> Any:
        """The state, safe from being overwritten."""
        return jax.device_get(self.state) if self.setup.donate else self.state

    def _kept(self, tree: Any) -> Any:
        return jax.tree.map(jax.numpy.array, tree) if self.setup.donate else tree


def _all_finite(params: Any) -> bool:
    for leaf in jax.tree.leaves(params):
        if not getattr(leaf, "is_fully_addressable", True):
            continue
        array = np.asarray(leaf)
        if not np.isfinite(array if array.dtype.kind in "fc" else array.astype(np.float32)).all():
            return False
    return True
