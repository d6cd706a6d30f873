"""SDO of the network inside ComfyUI: a LoRA of a model's linear layers, trained towards an objective.

Here belong: the LoRA (its layers, its file, its part in a model call), the prompts of a training, and the training as
the host calls it.
Not here: the training loop (`chords_core/sdo`), what other SDO nodes need too (`nodes/host/sdo`).
"""
