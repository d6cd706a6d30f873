"""Models that torch has compiled, in the ways of the host's node and of packs. No compiler of C++ is needed."""

import torch
from comfy_api.latest import io
from comfy_api.torch_helpers import set_torch_compile_wrapper

from .base import ModelNode


class TestCompiled(ModelNode):
    """A model compiled by a backend that runs what torch has traced as it is.

    ``how``: "wrapper", as the host's TorchCompileModel; "blocks", as nodes of packs that replace each block.
    """

    INPUTS = [io.String.Input("how", default="wrapper")]

    @classmethod
    def execute(cls, model, how):
        model = model.clone()
        if how == "wrapper":
            set_torch_compile_wrapper(model, backend="eager")
            return io.NodeOutput(model)
        for number in range(len(model.model.diffusion_model.double_blocks)):
            name = f"diffusion_model.double_blocks.{number}"
            model.add_object_patch(name, torch.compile(model.get_model_object(name), backend="eager"))
        return io.NodeOutput(model)


NODES = [TestCompiled]
