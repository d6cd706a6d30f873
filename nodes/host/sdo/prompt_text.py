"""A text that pictures are compared with, which may be the prompt of the picture at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....chords_core import InvalidInput
from .clip_text import PAIRS, text_embedding
from .objective_inputs import check_vision, embedding_width

PROMPT = "{prompt}"
"""Stands for the prompt of the picture at hand."""


@dataclass(frozen=True, eq=False)
class PromptText:
    """A text, in which ``{prompt}`` stands for the prompt of each picture (`prompt_text` makes and checks it).

    ``embedding`` [1, D]: of the text as it stands; ``clip``: the host's text encoder, D wide.
    """

    clip: Any
    text: str
    embedding: Tensor

    def embeddings(self, prompts: Sequence[str] | None) -> Tensor:
        """The embeddings [P, D] of the text with each of P prompts; [1, D], for all prompts, without ``{prompt}``.

        Each different text is embedded once, and without ``{prompt}`` none is.

        Raises:
            InvalidInput: naming ``text``, if it needs a prompt and none is known.
        """
        if PROMPT not in self.text:
            return self.embedding
        if not prompts:
            raise InvalidInput(
                "text",
                f"has {PROMPT}, but the prompts are connected as conditionings, so their texts are not known here. "
                f"Write what should be in the picture instead of {PROMPT}",
            )
        texts = [self.text.replace(PROMPT, prompt) for prompt in prompts]
        width = self.embedding.shape[1]
        embedded = {text: text_embedding(self.clip, text, width) for text in dict.fromkeys(texts)}
        return torch.cat([embedded[text] for text in texts])


def prompt_text(clip: Any, clip_vision: Any, text: str) -> PromptText:
    """A text for pictures that ``clip_vision`` embeds. It is embedded here once, so that what cannot work is refused.

    Raises:
        InvalidInput: for an empty text, or where text and picture have no common space.
    """
    if not text.strip():
        raise InvalidInput("text", f"is empty; say what should be in the picture, or write {PROMPT} for its prompt")
    if clip is None:
        raise InvalidInput("clip", "is empty: the checkpoint has no text encoder. Load one with Load CLIP")
    check_vision(clip_vision)
    width = embedding_width(clip_vision)
    if width is None:
        raise InvalidInput(
            "clip_vision",
            f"has no embedding in a space that it shares with texts; SigLIP and DINO models are not supported. {PAIRS}",
        )
    return PromptText(clip, text, text_embedding(clip, text, width))
