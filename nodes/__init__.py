"""The pack's nodes, one small module a group."""

from comfy_api.latest import ComfyExtension, io

from .demo import ChordsDemoModel, ChordsDemoPrompt
from .devices import ChordsDevices
from .host import routes
from .report import ChordsReport
from .samplers import ChordsKSampler, ChordsKSamplerAdvanced, ChordsSampler
from .stream import ChordsStreamPreview


class ChordsExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            ChordsKSampler,
            ChordsKSamplerAdvanced,
            ChordsSampler,
            ChordsDevices,
            ChordsStreamPreview,
            ChordsReport,
            ChordsDemoModel,
            ChordsDemoPrompt,
        ]


async def comfy_entrypoint() -> ChordsExtension:
    routes.register()
    return ChordsExtension()
