"""Sampling inside ComfyUI: the SAMPLER function, KSampler's steps around it, the plan's place, the record.

Here belong: what one run of a sampler node does, decides and tells.
Not here: lanes and copies (`devices`), foreign patches (`compatibility`), pictures on the way (`streaming`).
"""
