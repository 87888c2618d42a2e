"""Batches drawn ahead, so that what makes them runs while the device computes."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.pytrees import short

_END = object()


def prefetch(batches: Iterable[Any], size: int = 2, *, device: Any = None) -> Prefetch:
    """The same batches in the same order, up to ``size`` of them drawn ahead in a thread.

    Use it in a ``with`` block, or call ``close()``, when not all batches are drawn: both wait for the draw in progress
    and leave no thread behind. Without either, the thread ends once the iterator is collected, or the program ends.

    An error of the source is raised where its batch would have come, and ends the iteration.

    Args:
      batches: any iterable or iterator of pytrees, endless or not. It is drawn from in the other thread, one batch at a
        time, and should not be drawn from elsewhere meanwhile. What was drawn ahead when the iteration is closed
        is lost to it: an iterator from ``batches`` makes any step's batch again.
      size: so many batches at most are held ahead of the one in use, at least 1.
      device: where each batch is put, by ``jax.device_put``: a device, or a sharding over devices of this process.
        None leaves them as they are.

    Returns:
      An iterator, which is a context manager too.

    Raises:
      InputError: if ``size`` is below 1.
      InputTypeError: for what cannot be iterated over, or a size or device of the wrong kind.

    >>> with prefetch(n * n for n in range(4)) as squares:
    ...     list(squares)
    [0, 1, 4, 9]
    """
    if not isinstance(size, (int, np.integer)) or isinstance(size, bool):
        raise InputTypeError(f"prefetch: size is {size!r}, expected a whole number. Pass 2, say.")
    if size < 1:
        raise InputError(f"prefetch: size={size}, expected at least 1, the batches drawn ahead. Pass 2, say.")
    if device is not None and not isinstance(device, (jax.Device, jax.sharding.Sharding)):
        raise InputTypeError(
            f"prefetch: device is {device!r}, expected a device or a sharding. Pass jax.devices()[0], say."
        )
    try:
        source = iter(batches)
    except TypeError as error:
        raise InputTypeError(
            f"prefetch: batches is {short(batches)}, expected something to iterate over. Pass batches(data, 32)."
        ) from error
    return Prefetch(_Draw(source, device), int(size))


class _Draw:
    """Draws from the source; knows nothing of who consumes, so that the thread keeps no consumer alive."""

    def __init__(self, source: Iterator[Any], device: Any):
        self._source, self._device = source, device
        # JAX keeps these for each thread by itself; a batch should be made as it would be without the thread.
        config: Any = jax.config
        self._x64, self._default = config.jax_enable_x64, config.jax_default_device
        self.ended = False

    def __call__(self) -> Any:
        if self.ended:
            return _END
        try:
            with jax.enable_x64(self._x64), jax.default_device(self._default):
                batch = next(self._source)
                return batch if self._device is None else jax.device_put(batch, self._device)
        except StopIteration:
            self.ended = True
            return _END
        except BaseException:
            self.ended = True
            raise

    def end(self) -> None:
        self.ended = True


class Prefetch:
    """An iterator whose batches are drawn ahead; made by ``prefetch``."""

    def __init__(self, draw: _Draw, size: int):
        self._draw = draw
        # An executor's thread is woken when the executor is collected, and joined when the program ends.
        self._executor = ThreadPoolExecutor(1, "jaxgrad-prefetch")
        self._ahead: deque[Future[Any]] = deque()
        weakref.finalize(self, draw.end)
        for _ in range(size):
            self._ahead.append(self._executor.submit(draw))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._ahead:
            raise StopIteration
        first = self._ahead[0]
        try:
            batch = first.result()
        except BaseException as error:
            # Ctrl-C while waiting is no end: the batch is still to come.
            if first.done() and first.exception() is error:
                self.close()
            raise
        if batch is _END:
            self.close()
            raise StopIteration
        self._ahead.popleft()
        self._ahead.append(self._executor.submit(self._draw))
        return batch

    def close(self) -> None:
        """End the iteration: wait for the draw in progress, drop what was drawn ahead, and end the thread."""
        self._draw.end()
        self._ahead.clear()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
