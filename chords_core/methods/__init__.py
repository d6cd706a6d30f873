"""Methods: which model calls a run makes, what follows from each answer, and which result ends the run.

Here belong: state machines without threads, devices or clocks, and the rules that they follow.
Not here: making the calls (`execution`), one step of the ODE (`solvers`).
"""
