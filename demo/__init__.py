"""The demo: scenes the pack draws itself, the tiny networks that learn them, and a check of what a picture shows.

Nothing here needs ComfyUI. A prompt becomes conditioning without a text encoder (``prompts``), so a newcomer gets
pictures from two small files and nothing to download, and a test can ask whether a picture shows its prompt.
"""

SHIFT = 3.0  # of the flow schedule the model is sampled with
