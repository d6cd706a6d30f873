"""Ray workers: which clusters are allowed, what a worker is sent, and what it loads and computes.

Here belong: ComfyUI's side of a cluster.
Not here: actors, messages and the child process (`chords_core/execution/ray`).
"""
