"""Pictures of a run while it goes: decoded beside the sampling, in one thread, and left out where that is too slow."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
import latent_preview
import torch
from comfy.model_management import InterruptProcessingException
from PIL import Image
from torch import Tensor

from .stream import Frame, RunStream

_log = logging.getLogger("chords")

_HITS_WAITING = 8
_FLUSH_SECONDS = 2.0  # how long an ended run waits for pictures that are still to be made
_ROOM = 1.5  # times what a VAE says it needs: else it could push the model out of memory


class Previews:
    """Decodes what it is given and hands it to the stream.

    Of steps only the newest waits, of hits a few: what does not fit is left out, so that nobody waits here.

    Args:
        stream: where pictures go.
        model: the host's BaseModel.
        device: where its latents are.
        to_latent: from a state at the end of the run to what a VAE decodes.
        vae: decodes hits where there is memory for it; None: the host's quick previewer does.
    """

    def __init__(
        self, stream: RunStream, model: Any, device: torch.device, to_latent: Callable[[Tensor], Tensor], vae: Any
    ) -> None:
        self._stream, self._format, self._device = stream, model.latent_format, device
        self._to_latent, self._vae = to_latent, vae
        self._changed = threading.Condition()
        self._hits: deque[tuple[int, Tensor]] = deque()
        self._step: Tensor | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="chords-previews", daemon=True)
        self._thread.start()

    def offer_step(self, denoised: Tensor) -> None:
        """Show a step's estimate on the sampler node, if the host's setting asks for previews."""
        with self._changed:
            self._step = denoised
            self._changed.notify()

    def offer_hit(self, index: int, x: Tensor, one_of_many: bool = False) -> None:
        """Show a hit; ``one_of_many``: it may be left out for a newer one."""
        with self._changed:
            if len(self._hits) == (2 if one_of_many else _HITS_WAITING):
                del self._hits[1]  # the first is being decoded, and the newest shows most
            self._hits.append((index, x))
            self._changed.notify()

    def close(self, flush: bool) -> None:
        """End the thread: with ``flush`` after the hits that wait, though not for long, else at once."""
        with self._changed:
            self._step = None
            if flush:
                self._changed.wait_for(lambda: not self._hits, _FLUSH_SECONDS)
            self._hits.clear()
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        previewer = _Lazy(lambda: latent_preview.get_previewer(self._device, self._format))
        quick = _Lazy(lambda: previewer() or rough_previewer(self._format))
        with torch.inference_mode():
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._hits or self._step is not None or self._closing)
                    if self._closing:
                        return
                    hit = self._hits[0] if self._hits else None
                    step = self._step if hit is None else None
                    if hit is None:
                        self._step = None
                with _nothing_lost():
                    if hit is not None:
                        frame = self._picture(hit[1], quick)
                        if frame is not None:
                            self._stream.send_picture(hit[0], frame)
                    elif step is not None and (frame := _decode(previewer(), step.to(self._device))) is not None:
                        self._stream.send_frame(frame)
                with self._changed:
                    if hit is not None and self._hits:  # only now: who flushes waits for the picture to be out
                        self._hits.popleft()
                        self._changed.notify_all()

    def _picture(self, x: Tensor, quick: Callable[[], Any]) -> Frame | None:
        x = x.to(self._device)
        return self._decode_fully(x) or _decode(quick(), x)

    def _decode_fully(self, x: Tensor) -> Frame | None:
        """The first picture (of a video, frame) by the VAE; None without one, or without room for it."""
        vae = self._vae
        if vae is None:
            return None
        latent = self._to_latent(x[:1, :, :1] if x.ndim == 5 else x[:1])
        needed = vae.memory_used_decode(latent.shape, vae.vae_dtype) + vae.patcher.model_size()
        if comfy.model_management.get_free_memory(vae.device) < _ROOM * needed:
            return None
        return "JPEG", to_picture(vae.decode(latent)), latent_preview.MAX_PREVIEW_RESOLUTION


@contextlib.contextmanager
def previewing(
    stream: RunStream, model: Any, device: torch.device, to_latent: Callable[[Tensor], Tensor], vae: Any
) -> Iterator[Previews]:
    """`Previews` for one run, whose last pictures come out before it ends, unless it fails."""
    previews = Previews(stream, model, device, to_latent, vae)
    try:
        yield previews
    except BaseException:
        previews.close(flush=False)
        raise
    previews.close(flush=True)


def rough_previewer(latent_format: Any) -> Any:
    """A previewer that shows a latent's colours at its own resolution; None for formats without that table."""
    if latent_format.latent_rgb_factors is None:
        return None
    return latent_preview.Latent2RGBPreviewer(
        latent_format.latent_rgb_factors,
        latent_format.latent_rgb_factors_bias,
        latent_format.latent_rgb_factors_reshape,
    )


def to_picture(images: Tensor) -> Image.Image:
    """The first of an IMAGE batch, [..., height, width, 3] in 0..1."""
    first = images.reshape(-1, *images.shape[-3:])[0]
    return Image.fromarray((255 * first.clamp(0, 1)).round().to("cpu", torch.uint8).numpy())


def _decode(previewer: Any, x: Tensor) -> Frame | None:
    # A previewer of another pack may show pictures by itself and return nothing.
    return None if previewer is None else previewer.decode_latent_to_preview_image("JPEG", x)


class _Lazy:
    """A value made when it is first asked for."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make: Callable[[], Any] | None = make
        self._value: Any = None

    def __call__(self) -> Any:
        if self._make is not None:
            make, self._make = self._make, None
            self._value = make()
        return self._value


@contextlib.contextmanager
def _nothing_lost() -> Iterator[None]:
    """A preview that fails costs a line in the log. An interrupt it happened to meet is passed on to the sampler."""
    try:
        yield
    except InterruptProcessingException:
        comfy.model_management.interrupt_current_processing()
    except Exception as error:
        _log.warning("CHORDS: no preview: %s: %s", type(error).__name__, error)
