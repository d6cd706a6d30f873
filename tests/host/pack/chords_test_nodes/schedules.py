"""Shows SIGMAS to a test, or returns the values that a test gives."""

import json

import torch
from comfy_api.latest import io


class TestShowSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestShowSigmas",
            category="tests",
            inputs=[io.Sigmas.Input("sigmas")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, sigmas):
        return io.NodeOutput(ui={"sigmas": sigmas.tolist()})


class TestSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.String.Input("values"), io.String.Input("dtype", default="float32")]
        return io.Schema(node_id="TestSigmas", category="tests", inputs=inputs, outputs=[io.Sigmas.Output()])

    @classmethod
    def execute(cls, values, dtype):
        return io.NodeOutput(torch.tensor(json.loads(values), dtype=getattr(torch, dtype)))


NODES = [TestShowSigmas, TestSigmas]
