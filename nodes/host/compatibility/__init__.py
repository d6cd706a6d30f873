"""Patches of other packs: may a run call the model at several sigmas at once?

Here belong: finding the patches, reading their code, trying them, and the reason for one core in words.
Not here: the run itself (`sampling`).
"""
