"""Streaming: the events of a run, pictures of its results while it runs, and the HTTP routes.

Here belong: what clients and the browser see before a run ends.
Not here: the record that a run outputs (`sampling`).
"""
