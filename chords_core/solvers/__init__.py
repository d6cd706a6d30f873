"""Solvers: one step of the sampling ODE, and what follows from a solver's linearity.

Here belong: a solver (one file each), the registry of their names, the rows of a linear solver.
Not here: which steps are called, by whom and in which order (`methods`).
"""
