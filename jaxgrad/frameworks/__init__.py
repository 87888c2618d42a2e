"""The lesson in other frameworks, each module with the same ``run(start, x, y, learning_rate, steps) -> Trace``."""
