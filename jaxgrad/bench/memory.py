"""The memory of this process: what is resident now, and the most that was since it was last asked to forget."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident() -> int:
    """Bytes that are resident now; where the system does not tell, the most that ever were."""
    return _status("VmRSS") or _most()


def peak() -> int:
    """The most bytes that were resident since ``reset_peak``, or ever."""
    return _status("VmHWM") or _most()


def reset_peak() -> bool:
    """Forget the peak, after handing free memory back; False where the system (all but Linux) cannot."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not the C library of GNU
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM; see proc(5)
    except OSError:
        return False
    return True


def _status(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), flags=re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _most() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
