"""SDO: optimise the starting noise for a differentiable objective (arXiv 2505.07477).

Here belong: the optimisation loop, its gradients, the update of the noise, choosing among starts.
Not here: what a picture is judged by (`objectives`), sampling itself (`chords_core.sampling`).
"""
