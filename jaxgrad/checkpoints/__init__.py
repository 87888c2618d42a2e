"""Checkpoints of a training run: whole or not there, restored bit for bit, refused with the reason where damaged.

A checkpoint is a folder ``step-00000040``, written aside under another name and renamed when all of it is on disk. A
finished one is never changed, only removed when it is old. ``files.py`` says what is in it.

With several processes (``jax.distributed``) all of them call each function; the first one reads and writes, and the
others need not see the folder. Each holds the whole state in its host's memory for a moment.
"""

from jaxgrad.checkpoints.store import check_folder, newest, restore, save

__all__ = ["check_folder", "newest", "restore", "save"]
