"""The SDO nodes: the optimizer, and one node for each objective.

Here belong: schemas, tooltips and outputs.
Not here: calls into ComfyUI (`nodes/host/sdo`), mathematics (`chords_core/sdo`).
"""
