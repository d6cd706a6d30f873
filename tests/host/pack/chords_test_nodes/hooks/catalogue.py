"""The catalogue of hooks: their makers by name."""

MUST_BE_FOUND = {}
"""Makers of hooks that keep state or draw random numbers: reading has to find each."""
HARMLESS = {}
"""Makers of hooks that are the same in every call: reading must not find anything."""


def must_be_found(maker):
    MUST_BE_FOUND[maker.__name__] = maker
    return maker


def harmless(maker):
    HARMLESS[maker.__name__] = maker
    return maker
