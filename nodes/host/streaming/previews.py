"""Pictures of a run while it goes: made beside the sampling, which never waits for one, and left out where that is too
slow."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import comfy.model_management
import latent_preview
import torch
from comfy.model_management import InterruptProcessingException
from comfy.utils import unpack_latents
from PIL import Image
from torch import Tensor

from .preview_thread import Desk, Shot
from .stream import Frame, RunStream

_log = logging.getLogger("chords")

_WAITING = 7  # hits, at most
_OF_MANY = 1  # of hits that a newer one may replace
_FLUSH_SECONDS = 2.0  # how long the end of a run waits for quick pictures, which take milliseconds
_VAE_SECONDS = 1.0  # how long it waits for a VAE that has shown in this run that it is faster
_LATE_SECONDS = 2.0  # of a VAE at one picture: from there on the hits are shown without it
_ROOM = 1.5  # times what a VAE says it needs: else it could push the model out of memory

Shapes = Sequence[Sequence[int]]


class Previews:
    """Makes pictures of what it is given and hands them to the stream.

    Of steps only the newest waits, of hits a few: what does not fit is left out, so that nobody waits here. A VAE has a
    thread of its own. Where it is late, the quick previewer takes over until it is back.

    Args:
        stream: where pictures go.
        model: the host's BaseModel.
        device: where its latents are.
        to_latent: from a state at the end of the run to what a VAE decodes.
        vae: decodes hits where there is memory for it; None: the host's quick previewer does.
        shapes: of the parts of a latent of several (video and sound), which is sampled packed flat; the first is shown.
    """

    def __init__(
        self,
        stream: RunStream,
        model: Any,
        device: torch.device,
        to_latent: Callable[[Tensor], Tensor],
        vae: Any,
        shapes: Shapes | None,
    ) -> None:
        self._stream, self._device = stream, device
        self._to_latent: Callable[[Tensor], Tensor] | None = to_latent
        self._vae, self._shapes = vae, shapes
        self._told: set[str] = set()
        self._numbers = itertools.count(1)
        self._showing = threading.Lock()
        self._newest = 0  # the number of the hit that is shown
        latent_format = model.latent_format
        self._previewer = _Lazy(lambda: latent_preview.get_previewer(device, latent_format))
        self._quick_one = _Lazy(lambda: self._previewer() or rough_previewer(latent_format))
        self._quick: Desk[Frame] = Desk("chords-previews", self._make_quickly, self._show)
        self._full: Desk[Frame] | None = None
        if vae is not None:
            self._full = Desk("chords-preview-vae", self._make_fully, self._show_or_make_quickly, math.inf)

    def offer_step(self, denoised: Tensor) -> None:
        """Show a step's estimate on the sampler node, if the host's setting asks for previews."""
        self._quick.put(Shot(None, denoised))

    def offer_hit(self, index: int, x: Tensor, one_of_many: bool = False) -> None:
        """Show a hit; ``one_of_many``: it may be left out for a newer one."""
        shot, most = Shot(index, x, next(self._numbers)), _OF_MANY if one_of_many else _WAITING
        if self._full is None:
            self._quick.put(shot, most)
        elif self._full.busy_for() < _LATE_SECONDS:
            self._full.put(shot, most)
        else:
            for late in (*self._full.give_up(), shot):
                self._quick.put(late, most)

    def close(self, flush: bool) -> None:
        """End the threads: with ``flush`` after the hits that wait, though not for long, else at once. A thread that is
        at a picture ends by itself, and that picture is dropped."""
        if self._full is not None:
            for late in self._full.finish(_VAE_SECONDS if flush else 0.0):
                self._quick.put(late, _WAITING)
        self._quick.finish(_FLUSH_SECONDS if flush else 0.0)
        self._to_latent = None  # holds the model: a VAE that hangs must not keep it alive

    def _make_quickly(self, shot: Shot) -> Frame | None:
        with self._nothing_lost():
            previewer = self._previewer() if shot.index is None else self._quick_one()
            # A previewer of another pack may show pictures by itself and return nothing.
            if previewer is not None:
                return previewer.decode_latent_to_preview_image("JPEG", self._first_part(shot.x).to(self._device))
        return None

    def _make_fully(self, shot: Shot) -> Frame | None:
        """The first picture (of a video, frame) by the VAE; None where it is in use or has no room."""
        vae, to_latent = self._vae, self._to_latent
        with self._nothing_lost(), _alone_with(vae) as free:
            if free and to_latent is not None:
                latent = self._first_part(to_latent(shot.x[:1].to(self._device)))
                del to_latent
                latent = latent[:, :, :1] if latent.ndim == 5 else latent
                needed = vae.memory_used_decode(latent.shape, vae.vae_dtype) + vae.patcher.model_size()
                if comfy.model_management.get_free_memory(vae.device) >= _ROOM * needed:
                    return "JPEG", to_picture(vae.decode(latent)), latent_preview.MAX_PREVIEW_RESOLUTION
        return None

    def _show(self, shot: Shot, frame: Frame | None) -> None:
        with self._nothing_lost():
            if frame is None:
                return
            if shot.index is None:
                self._stream.send_frame(frame)
                return
            with self._showing:  # two threads show hits: an older one does not replace a newer one
                if shot.number > self._newest:
                    self._newest = shot.number
                    self._stream.send_picture(shot.index, frame)

    def _show_or_make_quickly(self, shot: Shot, frame: Frame | None) -> None:
        if frame is None:
            self._quick.put(shot, _WAITING)
        else:
            self._show(shot, frame)

    @contextlib.contextmanager
    def _nothing_lost(self) -> Iterator[None]:
        """A preview that fails costs a line in the log, once for each reason. An interrupt that it happened to meet is
        passed on to the sampler."""
        try:
            yield
        except InterruptProcessingException:
            comfy.model_management.interrupt_current_processing()
        except BaseException as error:  # a VAE that wants to exit would end this thread only, without a word
            reason = f"{type(error).__name__}: {error}"
            if reason not in self._told:
                self._told.add(reason)
                _log.warning("CHORDS: no preview: %s", reason)

    def _first_part(self, x: Tensor) -> Tensor:
        return x if self._shapes is None else unpack_latents(x, self._shapes)[0]


@contextlib.contextmanager
def previewing(
    stream: RunStream,
    model: Any,
    device: torch.device,
    to_latent: Callable[[Tensor], Tensor],
    vae: Any,
    shapes: Shapes | None = None,
) -> Iterator[Previews]:
    """`Previews` for one run, whose last pictures are shown before it ends, unless it fails or they take too long."""
    previews = Previews(stream, model, device, to_latent, vae, shapes)
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


def shapes_of_parts(conds: Mapping[str, Any]) -> Shapes | None:
    """The shapes of the parts of a latent of several, if a guider's processed conditionings say them."""
    for cond in (cond for side in conds.values() for cond in side or ()):
        held = cond.get("model_conds", {}).get("latent_shapes")
        if held is not None and len(held.cond) > 1:
            return held.cond
    return None


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


_in_use: set[int] = set()  # networks of VAEs
_in_use_lock = threading.Lock()


@contextlib.contextmanager
def _alone_with(vae: Any) -> Iterator[bool]:
    """Whether no preview uses this VAE's network, which this one then does. A call that hangs keeps it for good."""
    network = id(getattr(vae, "first_stage_model", None) or vae)
    with _in_use_lock:
        free = network not in _in_use
        _in_use.add(network)
    try:
        yield free
    finally:
        if free:
            with _in_use_lock:
                _in_use.remove(network)
