"""Local devices: which are used, model copies on them, one lane a device, two devices a guided call, timings.

Here belong: everything about this machine's devices.
Not here: other machines (`ray`), and which devices a run takes (`sampling.placement`).
"""
