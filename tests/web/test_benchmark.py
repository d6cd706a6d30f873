"""CHORDS Benchmark in the browser: at the end, the node shows its comparison and its advice."""

from __future__ import annotations

import json
import re
from pathlib import Path

from frontend import Frontend, in_the_newest_too

API = Path(__file__).resolve().parents[2] / "workflows" / "api" / "chords_benchmark.json"
NODE = "const node = graph.nodes.find((node) => node.type === 'ChordsBenchmark');"


@in_the_newest_too
def test_the_node_shows_the_comparison_and_the_advice(frontend: Frontend, tmp_path: Path) -> None:
    prompt = json.loads(API.read_text(encoding="utf-8"))
    del prompt["7"]
    prompt["6"]["inputs"] |= {"steps": 20, "cores": "4", "repeats": 1}
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(prompt), encoding="utf-8")
    frontend.load_file(path)
    frontend.page.wait_for_function(
        "() => window.comfyAPI.app.app.rootGraph.nodes.some((node) => node.type === 'ChordsBenchmark')"
    )
    frontend.run()

    def shown() -> list[str]:
        return frontend.evaluate(f"{NODE} return (node.imgs ?? []).map((image) => image.src)")

    def finished() -> bool:
        images = shown()
        return len(images) == 1 and "type=temp" in images[0] and "/view" in images[0]

    frontend.until(finished, "the comparison is on the node", seconds=600)
    width = frontend.evaluate(f"{NODE} return node.imgs[0].naturalWidth")
    assert width == 1400
    card = frontend.page.locator(".chords-text")
    advice = re.compile(".*: .*x as fast\nTake |Stay with KSampler\n|Not settled: runs overlap\n")
    frontend.until(lambda: advice.match(card.get_attribute("title") or ""), "the advice is shown")
