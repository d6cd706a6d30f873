"""The pack's nodes, one small module a group."""

from comfy_api.latest import ComfyExtension, io

from .demo import ChordsDemoModel, ChordsDemoPrompt
from .devices import ChordsDevices
from .samplers import ChordsKSampler, ChordsKSamplerAdvanced, ChordsSampler


class ChordsExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            ChordsKSampler,
            ChordsKSamplerAdvanced,
            ChordsSampler,
            ChordsDevices,
            ChordsDemoModel,
            ChordsDemoPrompt,
        ]


async def comfy_entrypoint() -> ChordsExtension:
    return ChordsExtension()
