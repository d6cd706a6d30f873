"""Sampling inside ComfyUI: the SAMPLER function, KSampler's steps around it, the placement, the record, the messages.

Here belongs what one run of a sampler node does, decides and tells.
Not here: lanes and model copies (`devices`), patches of other packs (`compatibility`), previews (`streaming`).
"""
