"""One file a model family: an adapter, which says what of the family's blocks is cut, exchanged and put together.

Nothing of the host is imported here: a network's class is found by its module and name, and an older host that lacks a
family lacks nothing else. Common code belongs into the folder above.
"""
