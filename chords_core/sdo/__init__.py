"""SDO: optimise the initial noise, a conditioning or the network for a differentiable objective (arXiv 2505.07477).

Here belong: the loops of optimisation and training, their gradients, the carried trajectory, the constraints on the
noise, best of n.
Not here: objectives (`objectives`), sampling itself (`chords_core.sampling`), anything of ComfyUI (`nodes/host/sdo`).
"""
