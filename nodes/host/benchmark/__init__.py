"""The benchmark: the host's own sampler and settings of ours on the same picture, their times and differences.

Here belong what is tried, the runs, and what came of them.
Not here: how it is shown (`nodes/benchmark.py`, `nodes/plots`), and which setting is recommended (`nodes`).
"""
