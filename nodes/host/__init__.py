"""The only code that touches ComfyUI's internals: devices, model replicas, lanes, sampling, reporting."""
