"""Nodes for the live tests only: faults, odd models, patches of other packs, and nodes that show what they get."""

import sys

import comfy.model_management
import torch
from comfy_api.latest import ComfyExtension, io

from . import (
    compat,
    controlnets,
    families,
    gguf_loader,
    gpu,
    host_state,
    kept,
    lanes,
    latent_kinds,
    memory,
    models,
    networks,
    newer,
    patches,
    previews,
    rows,
    schedules,
    sdo,
    tiny_clip,
    training,
)


class TestObjective(io.ComfyNode):
    """Takes an objective and tells its kind."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Custom("SDO_OBJECTIVE").Input("objective")]
        return io.Schema(node_id="TestObjective", category="tests", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, objective):
        return io.NodeOutput(ui={"kind": [type(objective).__name__]})


class TestSlope(io.ComfyNode):
    """An objective at a latent, and along its gradient there: the slope it should have, and the one measured.

    ``prompts``: the texts of the items' prompts, one a line; without them they are not known. ``frames``: as if each
    picture were a video of so many equal frames.
    """

    STEP = 0.02

    @classmethod
    def define_schema(cls):
        inputs = [io.Custom("SDO_OBJECTIVE").Input("objective"), io.Vae.Input("vae"), io.Latent.Input("latent")]
        inputs += [io.String.Input("prompts", default="", multiline=True), io.Int.Input("frames", default=1)]
        return io.Schema(node_id="TestSlope", category="tests", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, objective, vae, latent, prompts="", frames=1):
        prompts = prompts.splitlines()
        pack = type(objective).__module__.rpartition(".")[0]  # its name is the path it was loaded from
        models = sys.modules[f"{pack}.context"]
        context = models.ObjectiveContext(objective, vae, latent["samples"].shape, prompts=prompts or None)
        comfy.model_management.load_models_gpu(context.patchers)
        bound, decode = objective.bind(context), context.decode
        context.decode = lambda latent: decode(latent).repeat_interleave(frames, 0)

        def value(latent):
            objective_of = models.StateObjective(bound, context, lambda state: state)
            return objective_of(latent, prompts=range(len(prompts)))

        with sys.modules[f"{pack}.autograd"].differentiable([patcher.model for patcher in context.patchers]):
            here = latent["samples"].clone().requires_grad_()
            values = value(here)
            (gradient,) = torch.autograd.grad(values.sum(), here)
            direction = gradient / gradient.norm()
            with torch.no_grad():
                ahead, behind = (value(here + side * cls.STEP * direction) for side in (1, -1))
        measured = float((ahead - behind).sum()) / (2 * cls.STEP)
        return io.NodeOutput(ui={"values": values.tolist(), "slope": [float(gradient.norm())], "measured": [measured]})


NODES = [
    TestObjective,
    TestSlope,
    *compat.NODES,
    *controlnets.NODES,
    *families.NODES,
    *gguf_loader.NODES,
    *gpu.NODES,
    *host_state.NODES,
    *kept.NODES,
    *lanes.NODES,
    *latent_kinds.NODES,
    *memory.NODES,
    *models.NODES,
    *networks.NODES,
    *newer.NODES,
    *patches.NODES,
    *previews.NODES,
    *rows.NODES,
    *schedules.NODES,
    *sdo.NODES,
    *tiny_clip.NODES,
    *training.NODES,
]


class TestNodes(ComfyExtension):
    async def get_node_list(self):
        names = [node.define_schema().node_id for node in NODES]
        twice = {name for name in names if names.count(name) > 1}
        assert not twice, f"the host keeps the last node of a name only: {twice}"
        return NODES


async def comfy_entrypoint():
    return TestNodes()
