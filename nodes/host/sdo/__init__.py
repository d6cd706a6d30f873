"""SDO inside ComfyUI: gradients through its models, objectives of decoded pictures, progress, cancelled searches.

Here belong: what an SDO node needs of the host.
Not here: the optimisation itself (`chords_core/sdo`), schemas and tooltips (`nodes/sdo`).
"""
