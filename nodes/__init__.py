"""The pack's nodes, one small module a group."""

from comfy_api.latest import ComfyExtension, io

from .benchmark import ChordsBenchmark
from .demo import ChordsDemoModel, ChordsDemoPrompt
from .devices import ChordsDevices
from .host import error_names as errors
from .host.streaming import routes
from .report import ChordsReport
from .samplers import ChordsKSampler, ChordsKSamplerAdvanced, ChordsSampler
from .scheduler import ChordsScheduler
from .sdo import head_objectives, objectives
from .sdo.optimizer import SDOLatentOptimizer
from .sdo.trainer import SDOTrainLoRA
from .stream_preview import ChordsStreamPreview


class ChordsExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            ChordsKSampler,
            ChordsKSamplerAdvanced,
            ChordsSampler,
            ChordsScheduler,
            ChordsDevices,
            ChordsStreamPreview,
            ChordsReport,
            ChordsBenchmark,
            ChordsDemoModel,
            ChordsDemoPrompt,
            SDOLatentOptimizer,
            SDOTrainLoRA,
            objectives.SDOObjectiveReference,
            objectives.SDOObjectiveSimilarity,
            objectives.SDOObjectiveText,
            objectives.SDOObjectiveStyle,
            objectives.SDOObjectiveColour,
            objectives.SDOObjectiveBrightness,
            objectives.SDOObjectiveContrast,
            objectives.SDOObjectiveSharpness,
            head_objectives.SDOObjectiveAesthetic,
            head_objectives.SDOObjectivePreference,
            objectives.SDOObjectiveCombine,
        ]


async def comfy_entrypoint() -> ChordsExtension:
    errors.show_by_name()
    routes.register()
    return ChordsExtension()
