"""Objectives: differentiable functions of a batch of samples, one value an item, lower is better.

Here belong: the mathematics of an objective, checked where it is made.
Not here: models and decoders that an objective needs; they are passed in.
"""
