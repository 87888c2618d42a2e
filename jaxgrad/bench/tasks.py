"""The tasks, in the order in which they are run."""

from __future__ import annotations

from jaxgrad.bench import batches, first, lesson, rows, sweep

TASKS = {task.name: task for task in (lesson.TASK, rows.TASK, sweep.TASK, batches.TASK, first.TASK)}
