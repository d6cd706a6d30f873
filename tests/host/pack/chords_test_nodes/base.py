"""What several of the test nodes share."""

import sys
import threading
import time

from comfy_api.latest import io


class ModelNode(io.ComfyNode):
    """A node with a MODEL as its first input and its output. Its id is the name of the class."""

    INPUTS: list[io.Input] = []

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model"), *cls.INPUTS]
        return io.Schema(node_id=cls.__name__, category="tests", inputs=inputs, outputs=[io.Model.Output()])


class SaltedOutputNode(io.ComfyNode):
    """An output node without other inputs than a salt: the host does not repeat a node with the same inputs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=cls.__name__, category="tests", inputs=[io.Int.Input("salt")], outputs=[], is_output_node=True
        )


def wait_for_threads(*kinds: str) -> None:
    """Wait until threads of earlier runs have ended, those whose names begin so. A run that is cancelled does not wait
    for a call or a picture that is being made. Threads that never end are waited for a minute, and are still there."""
    limit = time.monotonic() + 60
    for thread in threading.enumerate():
        if thread.name.startswith(kinds) and thread.name != "chords-monitoring":  # which counts all runs, and stays
            thread.join(max(0.0, limit - time.monotonic()))


def lane_number() -> int | None:
    """The number of the lane whose thread this is; None in other threads, such as the host's own."""
    name = threading.current_thread().name
    return int(name.rsplit("-", 1)[1]) if name.startswith("chords-lane-") else None


def core_number() -> int:
    """The core whose evaluation this thread makes, 1 for the slowest; 0 outside of an evaluation on a lane."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "_evaluate" and "evaluation" in frame.f_locals:
            return frame.f_locals["evaluation"].core
        frame = frame.f_back
    return 0
