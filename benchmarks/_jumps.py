"""Problems whose prediction jumps at a step: another prompt from there on, or guidance in a part of the steps only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks._cells import Cell, Pictures, network_of
from benchmarks._problems import guided_flow


@dataclass(frozen=True)
class JumpCell(Cell):
    """A model whose prediction jumps: ``other`` acts from the step ``first`` up to ``last``.

    ``other`` is "another prompt", that of the next picture, or "no guidance".
    """

    other: str = "another prompt"
    first: int = 0
    last: int = 0

    def __str__(self) -> str:
        return f"{super().__str__()}, {self.other} from step {self.first} to {self.last}"


JUMPS = tuple(
    JumpCell("flow", "simple", steps, cfg, "euler", "demo", other, first, last)
    for steps in (20, 50)
    for cfg in (3.5, 8.0)
    for other, first, last in (("another prompt", steps // 2, steps), ("no guidance", 7 * steps // 10, steps))
)


class JumpPictures(Pictures):
    """Pictures whose prediction jumps at the steps of the cell."""

    def __init__(self, cell: JumpCell, texts: Sequence[str], seed: int) -> None:
        super().__init__(cell, texts, seed)
        usual, sigmas, network = self._model, cell.sigmas(cell.steps), network_of(cell.model)
        switched = cell.other == "another prompt"
        other = guided_flow(network, [*texts[1:], texts[0]], cell.cfg) if switched else guided_flow(network, texts, 1.0)

        def switching(x: Tensor, sigma: Tensor, which: Tensor) -> Tensor:
            others = (sigma <= sigmas[cell.first]) & (sigma > sigmas[cell.last])
            predicted = torch.empty_like(x)
            for model, rows in ((usual, ~others), (other, others)):
                if rows.any():
                    predicted[rows] = model(x[rows], sigma[rows], which[rows])
            return predicted

        self._model = switching
