"""The pack's own nodes."""


class NeighbourBefore:
    CATEGORY = "testing"
    FUNCTION = "run"
    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return ()


NODE_CLASS_MAPPINGS = {"NeighbourBefore": NeighbourBefore}
