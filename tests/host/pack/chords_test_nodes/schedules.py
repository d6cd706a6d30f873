"""Shows SIGMAS to a test."""

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


NODES = [TestShowSigmas]
