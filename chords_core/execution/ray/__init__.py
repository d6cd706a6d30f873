"""Lanes on the machines of a Ray cluster, through a child process that may end at any time.

Here belong: the pool (`workers`, `pool`, `link`), the child process (`child`, `actors`, `worker_set`, `cluster`), what
runs on a cluster's machines (`actor`), and their messages. Only the child process imports Ray. It does not import
torch, so this file has no imports.
Not here: what a worker loads and computes. The host gives that as a factory.
"""
