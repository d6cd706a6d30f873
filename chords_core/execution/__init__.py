"""Execution: the driver between a method and a pool, the pools, timeouts, and the record of times.

Here belong: threads, lanes, clocks, lost and slow lanes. This file has no imports: a child process imports
`chords_core.execution.ray` without torch.
Not here: the mathematics of sampling (`methods`, `solvers`).
"""
