"""Trying patches: calls on each lane before the first run in parallel, and the verdicts of earlier trials.

Here belong: the calls, the conditions that they must meet, and restoring what they changed.
Not here: reading the code of a patch (`reading`).
"""
