"""Lanes on the machines of a Ray cluster, through a child process that may end at any time.

Here belong: the pool, the child process and its messages, the actors. Only the child imports Ray.
Not here: what a worker loads and computes; the host gives that as a factory.
"""
