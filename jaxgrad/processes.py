"""Several processes that act as one, by ``jax.distributed``: joined by hand on several hosts, or all started here."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from jaxgrad.errors import InputError, JaxgradError

_VARIABLE = "JAXGRAD_PROCESS"  # "index of count at host:port", for the processes that ``launch`` starts

SILENCE = 10
"""Seconds without a sign of life after which a process counts as dead, and the others end."""


def join(address: str, count: int, index: int, *, local_devices: int | None = None) -> None:
    """Become one of several processes; call it before JAX is used.

    On TPU pods and under Slurm or Open MPI, ``jax.distributed.initialize()`` finds these by itself.

    Args:
      address: ``"host:port"`` of the first process, which every host can reach.
      count: of the processes.
      index: of this one, from 0 to ``count - 1``.
      local_devices: so many CPU devices in this process; one by default.

    Raises:
      InputError: if the numbers do not fit, JAX is in use already, or the others do not come.
    """
    if not 0 <= index < count:
        raise InputError(f"join: index={index} of count={count} processes, expected 0 to {count - 1}.")
    if local_devices is not None:
        set_cpu_devices(local_devices)
    try:
        jax.distributed.initialize(
            address,
            count,
            index,
            initialization_timeout=60,
            heartbeat_timeout_seconds=SILENCE,
            shutdown_timeout_seconds=SILENCE,
        )
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        raise InputError(
            f"join: process {index} of {count} could not join at {address} ({said}). Start all of them within a "
            "minute, before JAX is used, with the address of the first."
        ) from error


def set_cpu_devices(count: int) -> None:
    """Have JAX see so many devices on a CPU; before it is used.

    Raises:
      InputError: if JAX is in use already.
    """
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        raise InputError(f"devices: JAX is in use already, so its CPU cannot become {count} devices.") from error


def join_launched(local_devices: int | None = None) -> bool:
    """``join``, in a process that ``launch`` has started; elsewhere nothing happens.

    Returns:
      Whether this is such a process.
    """
    told = os.environ.get(_VARIABLE)
    if told is None:
        return False
    index, count, address = told.split(" ")
    join(address, int(count), int(index), local_devices=local_devices)
    return True


def launch(command: Sequence[str], count: int) -> int:
    """Start a program in several processes on this host, and wait for all of them.

    The first one's output is passed on. If one fails or is killed, the others are ended too.

    Args:
      command: a program and its arguments; it calls ``join_launched``.
      count: how many.

    Returns:
      The exit code: the first one that is not 0.

    Raises:
      JaxgradError: if a process was killed, or one other than the first failed; with what it said.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started: list[subprocess.Popen[Any]] = []
    with contextlib.ExitStack() as opened:
        errors = [opened.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
        opened.callback(lambda: _end(started, 0.0))
        opened.enter_context(_ended_with_this_one())
        for index in range(count):
            environment = {**os.environ, _VARIABLE: f"{index} {count} {address}"}
            streams: dict[str, Any] = {} if index == 0 else {"stdout": subprocess.DEVNULL, "stderr": errors[index]}
            started.append(subprocess.Popen(list(command), env=environment, **streams))
        try:
            return _ended(started, errors)
        except KeyboardInterrupt:  # the terminal has told the processes too, unless this one alone was told
            _end(started, 1.0, signal.SIGINT)
            raise


def _ended(started: list[subprocess.Popen[Any]], errors: list[Any]) -> int:
    """Wait for all, or for the first that fails."""
    while any(process.poll() is None for process in started) and not any(process.poll() for process in started):
        time.sleep(0.02)
    if not any(process.poll() for process in started):
        return 0
    time.sleep(0.2)  # one that was killed makes others fail, perhaps before it is seen itself
    failed = [index for index, process in enumerate(started) if process.poll()]
    index = min(failed, key=lambda each: started[each].returncode)
    if (code := started[index].returncode) < 0:
        _end(started, 0.0)
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        raise JaxgradError(
            f"process {index} of {len(started)} was ended by {name}, and with it the run. "
            "If it has checkpoints, go on from them with resume."
        )
    _end(started, SILENCE)  # the others may say more, and better
    if started[0].returncode and started[0].returncode > 0:
        return started[0].returncode
    errors[index].seek(0)
    said = errors[index].read().decode(errors="replace").strip().splitlines()
    raise JaxgradError(f"process {index} of {len(started)} failed: {said[-1] if said else started[index].returncode}")


@contextlib.contextmanager
def _ended_with_this_one() -> Iterator[None]:
    """A launcher that is told to end (by ``timeout``, Slurm or systemd) ends its processes first."""

    def told(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, told)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(started: list[subprocess.Popen[Any]], grace: float, then: signal.Signals | None = None) -> None:
    """Give the processes time to end by themselves, and again after a signal, then end them."""
    for number in (None, then) if then else (None,):
        until = time.monotonic() + grace
        for process in started:
            if number is not None and process.poll() is None:
                process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def keep_output_apart() -> None:
    """Let what C++ libraries print (gloo says who is connected) go to standard error, and Python's output alone out."""
    with contextlib.suppress(OSError):  # an output that is no file
        sys.stdout.flush()
        apart = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        sys.stdout = os.fdopen(apart, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def this_program() -> list[str]:
    """The command that started this process, for ``launch``."""
    return [sys.executable, "-m", "jaxgrad", *sys.argv[1:]]
