"""The SDO LoRA Trainer on a live host: what it makes, and that the host can use it."""

from __future__ import annotations

from graphs import Graph
from trainings import figures_of, trainer


def test_a_training_lowers_the_objective_for_seeds_it_has_not_seen(client) -> None:
    graph = Graph()
    node = trainer(graph, iterations=12)
    graph.add("PreviewImage", images=node[3])
    graph.add("PreviewImage", images=node[2])
    run = client.run(graph.nodes)
    figures = figures_of(run, node)
    print(figures)
    before, after = figures["objective"]["before"], figures["objective"]["after"]
    assert all(b > a for b, a in zip(before, after, strict=True))
