"""Pictures that the nodes output: the timeline of a run, the convergence of an optimisation, a comparison.

Here belong: drawing from records and figures.
Not here: measuring them, and anything of ComfyUI but the IMAGE that comes out.
"""
