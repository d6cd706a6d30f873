"""Compares KSampler, KSampler (CHORDS) and peers on a user's own workflow, over the HTTP API of a running ComfyUI.

Here belong: workflows of the page as prompts (`saved_to_api`), the variants of a workflow (`variants`), runs and what
is measured of them (`session`, `runs`, `pictures`), the statistics (`figures`), and what is written (`report`, `page`,
`output`). Not here: the command line (`scripts/compare.py`), and the client of the server (`scripts/comfy_client.py`).
"""
