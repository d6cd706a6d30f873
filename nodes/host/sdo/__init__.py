"""SDO inside ComfyUI: gradients through its models, objectives on decoded pictures, progress, resume.

Here belong: what an SDO node needs of the host.
Not here: the optimisation itself (`chords_core/sdo`).
"""
