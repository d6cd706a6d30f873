"""The pack's own nodes; the host's module of this name is where it was."""

from nodes import KSampler


class NeighbourAfter:
    CATEGORY = "testing"
    FUNCTION = "run"
    RETURN_TYPES = KSampler.RETURN_TYPES[:0]

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return ()


NODE_CLASS_MAPPINGS = {"NeighbourAfter": NeighbourAfter}
