"""Lumina 2 and Z-Image (with omni's references): one sequence of caption and picture, shared as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..adapter import Adapter, Arguments
from ..shares import Segment


class LuminaAdapter(Adapter):
    """Hooks only: the host lets nobody replace these blocks. The picture is refined by itself first, and put together
    before the caption joins it. Patches between the blocks find the picture by the length of the whole caption, so with
    them the caption stays whole."""

    name = "Lumina 2"
    networks = ("comfy.ldm.lumina.model.NextDiT",)
    hooked = ("noise_refiner", "layers")
    head = "final_layer"
    patches = frozenset({"double_block", "noise_refiner"})
    _refined = 0  # the picture's tokens, with those of references

    def patched(self) -> Mapping[str, int]:
        return {"img": self.picture} | ({"txt": 0} if self.picture else {})

    def before(self, name: str, index: int, arguments: Arguments) -> Arguments:
        if index == 0:
            tokens = arguments["x"].shape[1]
            if name == "noise_refiner":
                self._refined = tokens
            patched = name == "layers" and self.given.get("patches", {}).get("double_block")
            caption = tokens - self._refined if patched else 0
            whole = [Segment(caption, shared=False)] if caption else []
            self.begin([*whole, Segment(tokens - caption)])
            arguments["x"] = self.layout.cut(arguments["x"], 1).contiguous()
        arguments["freqs_cis"] = self.layout.cut(arguments["freqs_cis"], 1)
        if arguments.get("timestep_zero_index") is not None:
            arguments["timestep_zero_index"] = [
                (self.layout.place_in_all(first), self.layout.place_in_all(end))
                for first, end in arguments["timestep_zero_index"]
            ]
        return arguments

    def after(self, name: str, index: int, output: Any) -> Any:
        last = name == "noise_refiner" and index == len(self.network.noise_refiner) - 1  # type: ignore[arg-type]
        return self.finish(output) if last else output
