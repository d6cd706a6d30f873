"""Replaces the stock samplers of a ComfyUI workflow by the CHORDS samplers, and back.

Here belong: the two formats of a workflow (`api_format`, `saved_format`), their validation, and reading and writing
workflow files. Not here: the command line (`scripts/swap.py`). Standard library only.
"""
