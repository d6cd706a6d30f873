"""Krea 2: one sequence of text and picture, shared as one."""

from __future__ import annotations

from ..adapter import Adapter, Arguments
from ..shares import Segment


class Krea2Adapter(Adapter):
    """Hooks only: the host lets nobody replace these blocks."""

    name = "Krea 2"
    networks = ("comfy.ldm.krea2.model.SingleStreamDiT",)
    hooked = ("blocks",)
    head = "last"
    patches = frozenset({"post_input"})

    def before(self, name: str, index: int, arguments: Arguments) -> Arguments:
        if index == 0:
            self.begin([Segment(arguments["x"].shape[1])])
            arguments["x"] = self.take(arguments["x"])
        arguments["freqs"] = self.own(arguments["freqs"], 2)
        if arguments.get("timestep_zero_index") is not None:
            arguments["timestep_zero_index"] = self.layout.place(arguments["timestep_zero_index"], 0)
        return arguments
