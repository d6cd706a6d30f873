"""One file a model family: an adapter, which says what of the family's blocks is cut, exchanged and put together.

Here belong: adapters. Nothing of the host is imported: a network's class is found by its module and name, so that an
older host that lacks a family lacks nothing else.
Not here: what families have in common (the folder above).
"""
