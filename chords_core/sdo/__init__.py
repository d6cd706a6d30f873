"""SDO: optimise the initial noise (or a conditioning) for a differentiable objective (arXiv 2505.07477).

Here belong: the optimisation loop, its gradients, the carried trajectory, the constraints on the noise, best of n.
Not here: objectives (`objectives`), sampling itself (`chords_core.sampling`), anything of ComfyUI (`nodes/host/sdo`).
"""
