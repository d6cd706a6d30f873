"""Pictures of a run while it samples. They are made in threads beside it: sampling never waits for a picture, and
pictures are left out where that is too slow."""

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
from comfy.cli_args import LatentPreviewMethod, args
from comfy.model_management import InterruptProcessingException
from comfy.utils import unpack_latents
from PIL import Image
from torch import Tensor

from .preview_thread import PreviewRequest, PreviewThread
from .stream import Frames, RunStream

_log = logging.getLogger("chords")

_MAX_WAITING_HITS = 7
_MAX_WAITING_ROUNDS = 1  # of hits that a newer one may replace
_FLUSH_SECONDS = 2.0  # how long the end of a run waits for quick pictures, which take milliseconds
_VAE_FLUSH_SECONDS = 1.0  # how long it waits for a VAE whose last picture took less than this
_VAE_LATE_SECONDS = 2.0  # if a VAE takes longer for the pictures of one hit, the hits are shown without it
_MAX_ITEMS = 8  # of a batch whose pictures are made during the run; the decoded ones at its end are all there
_MEMORY_MARGIN = 1.5  # times what a VAE says it needs: with less, it could push the model out of memory

Shapes = Sequence[Sequence[int]]


class Previews:
    """Makes pictures of steps and hits, and sends them to the stream.

    Of the steps only the newest waits, and of the hits only a few: the rest is left out, so that no caller waits. A VAE
    has a thread of its own. While it is late, the quick previewer shows the hits. Where the host's preview method is
    "none", the sampler node shows nothing, and the preview nodes show the hits all the same.

    Args:
        stream: receives the pictures.
        model: the host's BaseModel.
        device: the device of its latents.
        to_latent: turns a state at the end of the run into a latent that a VAE decodes.
        vae: decodes hits where there is memory for it; None: the host's quick previewer shows them.
        shapes: the shapes of the parts of a latent of several parts (video and sound), which is sampled packed into one
            tensor; the first part is shown.
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
        self._logged: set[str] = set()
        self._sequence = itertools.count(1)
        self._show_lock = threading.Lock()
        self._newest_shown = 0  # the sequence number of the hit that is shown
        self._on_sampler = args.preview_method is not LatentPreviewMethod.NoPreviews
        latent_format = model.latent_format
        self._step_previewer = _Lazy(lambda: latent_preview.get_previewer(device, latent_format))
        self._hit_previewer = _Lazy(lambda: self._step_previewer() or rough_previewer(latent_format))
        self._quick: PreviewThread[Frames] = PreviewThread("chords-previews", self._make_quickly, self._show)
        self._full: PreviewThread[Frames] | None = None
        if vae is not None:
            self._full = PreviewThread("chords-preview-vae", self._make_fully, self._show_or_make_quickly, math.inf)

    def offer_step(self, denoised: Tensor) -> None:
        """Show the estimate of a step on the sampler node, if the host's setting asks for previews."""
        self._quick.submit(PreviewRequest(None, denoised))

    def offer_hit(self, index: int, x: Tensor, one_of_many: bool = False) -> None:
        """Show a hit; ``one_of_many``: a newer hit may replace it before it is shown."""
        request = PreviewRequest(index, x, next(self._sequence))
        max_waiting = _MAX_WAITING_ROUNDS if one_of_many else _MAX_WAITING_HITS
        if self._full is None:
            self._quick.submit(request, max_waiting)
        elif self._full.busy_seconds() < _VAE_LATE_SECONDS:
            self._full.submit(request, max_waiting)
        else:
            for late in (*self._full.drop_hits(), request):
                self._quick.submit(late, max_waiting)

    def close(self, flush: bool) -> None:
        """End the threads: with ``flush`` after the hits that wait, for a short time at most; without it at once.

        A thread that is making a picture ends after it, and that picture is dropped.
        """
        if self._full is not None:
            for late in self._full.close(_VAE_FLUSH_SECONDS if flush else 0.0):
                self._quick.submit(late, _MAX_WAITING_HITS)
        self._quick.close(_FLUSH_SECONDS if flush else 0.0)
        self._to_latent = None  # it holds the model: a VAE that hangs must not keep the model alive

    def _make_quickly(self, request: PreviewRequest) -> Frames | None:
        with self._errors_logged():
            previewer = self._step_previewer() if request.hit_index is None else self._hit_previewer()
            if previewer is not None:
                latent = self._first_part(request.x).to(self._device)
                shown = previewer.decode_latent_to_preview_image("JPEG", latent)  # of the first item, as in the host
                if shown is None:
                    return None  # a previewer of another pack may show the whole batch by itself
                count = 1 if request.hit_index is None else min(self._items(), len(latent))
                others = (latent[item : item + 1] for item in range(1, count))
                return (shown, *(previewer.decode_latent_to_preview_image("JPEG", each) for each in others))
        return None

    def _items(self) -> int:
        """How many items of a batch are shown: a node that shows a run has a place for each."""
        return _MAX_ITEMS if self._stream.viewed else 1

    def _make_fully(self, request: PreviewRequest) -> Frames | None:
        """The pictures (the first frames of videos) by the VAE; None where the VAE is in use or has no memory."""
        vae, to_latent = self._vae, self._to_latent
        with self._errors_logged(), _exclusive_use(vae) as is_free:
            if is_free and to_latent is not None:
                latent = self._first_part(to_latent(request.x[: self._items()].to(self._device)))
                del to_latent
                latent = latent[:, :, :1] if latent.ndim == 5 else latent
                needed = vae.memory_used_decode(latent[:1].shape, vae.vae_dtype) + vae.patcher.model_size()
                if _free_memory(vae) >= _MEMORY_MARGIN * needed:
                    pictures = [to_picture(vae.decode(item)) for item in latent.split(1)]
                    return tuple(("JPEG", each, latent_preview.MAX_PREVIEW_RESOLUTION) for each in pictures)
        return None

    def _show(self, request: PreviewRequest, frames: Frames | None) -> None:
        with self._errors_logged():
            if frames is None:
                return
            if request.hit_index is None:
                self._stream.send_frame(frames[0])
                return
            with self._show_lock:  # two threads show hits: an older one must not replace a newer one
                if request.sequence > self._newest_shown:
                    self._newest_shown = request.sequence
                    self._stream.send_picture(request.hit_index, frames, self._on_sampler)

    def _show_or_make_quickly(self, request: PreviewRequest, frames: Frames | None) -> None:
        if frames is None:
            self._quick.submit(request, _MAX_WAITING_HITS)
        else:
            self._show(request, frames)

    @contextlib.contextmanager
    def _errors_logged(self) -> Iterator[None]:
        """Log the error of a preview that fails, once for each reason, and go on. An interrupt that the preview happens
        to receive is passed on to the sampler."""
        try:
            yield
        except InterruptProcessingException:
            comfy.model_management.interrupt_current_processing()
        except BaseException as error:  # a VAE that calls sys.exit would end this thread silently
            reason = f"{type(error).__name__}: {error}"
            if reason not in self._logged:
                self._logged.add(reason)
                _log.warning("CHORDS: no preview: %s", reason)

    def _first_part(self, x: Tensor) -> Tensor:
        if self._shapes is None:
            return x
        first: Tensor = unpack_latents(x, self._shapes)[0]
        return first


@contextlib.contextmanager
def previewing(
    stream: RunStream,
    model: Any,
    device: torch.device,
    to_latent: Callable[[Tensor], Tensor],
    vae: Any,
    shapes: Shapes | None = None,
) -> Iterator[Previews]:
    """`Previews` for one run. At its end the last pictures are shown, unless the run fails or they take too long."""
    previews = Previews(stream, model, device, to_latent, vae, shapes)
    try:
        yield previews
    except BaseException:
        previews.close(flush=False)
        raise
    previews.close(flush=True)


def rough_previewer(latent_format: Any) -> Any:
    """A previewer that shows the approximate colours of a latent at its own resolution; None for latent formats without
    a table of colours."""
    if latent_format.latent_rgb_factors is None:
        return None
    return latent_preview.Latent2RGBPreviewer(
        latent_format.latent_rgb_factors,
        latent_format.latent_rgb_factors_bias,
        latent_format.latent_rgb_factors_reshape,
    )


def _free_memory(vae: Any) -> float:
    """Bytes that a VAE can have. Its patcher also counts the weights that the host can move out of its way."""
    ask = getattr(vae.patcher, "get_free_memory", comfy.model_management.get_free_memory)
    return float(ask(vae.device))


def to_picture(images: Tensor) -> Image.Image:
    """The first picture of an IMAGE batch, [..., height, width, 3] in 0..1."""
    first = images.reshape(-1, *images.shape[-3:])[0]
    return Image.fromarray((255 * first.clamp(0, 1)).round().to("cpu", torch.uint8).numpy())


def shapes_of_parts(conds: Mapping[str, Any]) -> Shapes | None:
    """The shapes of the parts of a latent of several parts, if the processed conditionings of a guider hold them."""
    for cond in (cond for side in conds.values() for cond in side or ()):
        held = cond.get("model_conds", {}).get("latent_shapes")
        if held is not None and len(held.cond) > 1:
            shapes: Shapes = held.cond
            return shapes
    return None


def shapes_on_model(model: Any, x: Tensor) -> Shapes | None:
    """The same where the host keeps them on the model, if they are those of the packed latent ``x``."""
    shapes: Shapes | None = getattr(model, "latent_shapes", None)
    if shapes is None or len(shapes) < 2 or sum(math.prod(shape[1:]) for shape in shapes) != x[:1].numel():
        return None
    return shapes


class _Lazy:
    """A value that is computed at the first call. If that call fails, later calls return None."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make: Callable[[], Any] | None = make
        self._value: Any = None

    def __call__(self) -> Any:
        if self._make is not None:
            make, self._make = self._make, None
            self._value = make()
        return self._value


_in_use: set[int] = set()  # the networks of VAEs, by id
_in_use_lock = threading.Lock()


@contextlib.contextmanager
def _exclusive_use(vae: Any) -> Iterator[bool]:
    """Use the network of a VAE in one preview at a time; yields False if another preview uses it. A call that never
    returns keeps it."""
    network = id(getattr(vae, "first_stage_model", None) or vae)
    with _in_use_lock:
        is_free = network not in _in_use
        _in_use.add(network)
    try:
        yield is_free
    finally:
        if is_free:
            with _in_use_lock:
                _in_use.remove(network)
