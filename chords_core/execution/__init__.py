"""Execution: the driver between a method and a pool, the pools, timeouts, and the record of times.

Here belong: threads, lanes, clocks, lost and slow lanes.
Not here: any mathematics of sampling (`methods`, `solvers`).
"""
