"""The ControlNets of a run in parallel: an instance for each lane, whose network is on the lane's device.

The host prepares the picture of a ControlNet in its first call (it resizes the picture, and may encode it), keeps the
result on the instance, and prepares it again when a call has another size. Lanes cannot share such an instance, and
must not load a VAE while others compute. So the picture is prepared here, once a run and size, before the lanes begin.
T2I adapters count as ControlNets: their network runs in the preparation only.
"""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from comfy.controlnet import T2IAdapter
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..interrupts import check_interrupt, passed_on
from ..phrases import Phrase, message_of
from ..tree import mapped
from .groups import Group

Conds = Mapping[str, Sequence[dict[str, Any]] | None]
Size = tuple[int, ...]
"""Of the input of a call, without batch and channels."""

_MAX_NETWORKS = 4  # of which copies are kept between runs

# By the original network: when it is freed, the copies are too.
_copies: weakref.WeakKeyDictionary[nn.Module, dict[torch.device, ModelPatcher]] = weakref.WeakKeyDictionary()

_STREAMING = ("_prefetch", "_v", "_v_weight", "_v_bias", "_v_signature", "_pin_state", "_pins")
_STREAMING_OF_MODEL = ("dynamic_vbars", "dynamic_pins", "dynamic_patchers")
"""What the host keeps on a network whose weights it streams to a device. A copy must not have it."""


def chain_of(control: Any) -> Iterator[Any]:
    """A ControlNet and those before it, whose residuals it adds to its own."""
    while control is not None:
        yield control
        control = getattr(control, "previous_controlnet", None)


def controls_in(conds: Conds) -> Iterator[Any]:
    """Each ControlNet of these prompts once."""
    seen: set[int] = set()
    for cond in _all(conds):
        for control in chain_of(cond.get("control")):
            if id(control) not in seen:
                seen.add(id(control))
                yield control


def pictures_of(control: Any) -> int:
    """How many pictures a ControlNet has; 0: none was given."""
    given = getattr(control, "cond_hint_original", None)
    return 0 if given is None else int(given.shape[0])


def network_of(control: Any) -> nn.Module | None:
    """The network that a ControlNet calls in each model call; None for a T2I adapter."""
    return getattr(control, "control_model", None)


def kinds_in(cond: Mapping[str, Any]) -> tuple[tuple[type, type, int], ...]:
    """What the ControlNets of a prompt compute with: their classes, those of their networks, and how many pictures."""
    chain = chain_of(cond.get("control"))
    return tuple((type(control), type(network_of(control)), pictures_of(control)) for control in chain)


@dataclass(frozen=True, eq=False)
class _Hint:
    """A prepared picture.

    Attributes:
        picture: [N, C, H, W] or [N, C, T, H, W], as the network takes it.
        residuals: what a T2I adapter makes of it.
    """

    picture: Tensor
    residuals: dict[str, list[Tensor | None]] | None = None

    def on(self, device: torch.device) -> _Hint:
        """The same on another device."""
        return _Hint(*mapped((self.picture, self.residuals), lambda tensor: tensor.to(device)))


class RunControls:
    """The ControlNets of one run, prepared for its lanes.

    Args:
        guider: the host's, in a run.
        x: [B, ...] the start of the run.
        sigma: the first of the schedule.
        devices: those on which prompts are evaluated.

    Attributes:
        problem: why the lanes cannot have them; None if they can.
    """

    def __init__(self, guider: Any, x: Tensor, sigma: Tensor, devices: Iterable[torch.device]) -> None:
        self._guider, self._devices = guider, frozenset(devices)
        self._hints: dict[tuple[int, Size, torch.device], _Hint] = {}
        self._networks: dict[tuple[int, torch.device], ModelPatcher] = {}
        self.problem: Phrase | None = None
        x = x.to(guider.model_patcher.load_device)
        try:
            with passed_on():
                for control, shape in _inputs(guider.conds, x):
                    self.problem = self.problem or self._prepare(control, x.new_zeros(shape), sigma.to(x.device))
        except Exception as error:
            check_interrupt()
            self.problem = Phrase(
                "the picture of a ControlNet could not be prepared for several lanes ({error})", error=message_of(error)
            )
            logging.getLogger("chords").warning("CHORDS: %s", self.problem)

    def networks(self) -> list[ModelPatcher]:
        """The networks of all ControlNets on the devices of the run; the host has to load them."""
        originals: list[ModelPatcher] = []
        for control in controls_in(self._guider.conds):
            if network_of(control) is not None:
                originals.append(control.control_model_wrapped)
                for device in sorted(self._devices, key=str):
                    self._networks[id(control), device] = _network_on(device, control)
        return list(dict.fromkeys((*originals, *self._networks.values())))

    def forget_networks(self) -> None:
        """Drop all copies of networks, which do not fit. The lanes are then those of the original's device."""
        self._networks.clear()
        for control in controls_in(self._guider.conds):
            if (network := network_of(control)) is not None:
                _copies.pop(network, None)

    def in_model(self, model: Any, group: Group, copies: Mapping[torch.device, ModelPatcher]) -> Any:
        """The host's KSamplerX0Inpaint with the instances of one lane; see `in_conds`."""
        model, guider = copy.copy(model), copy.copy(model.inner_model)
        model.inner_model, guider.conds = guider, self.in_conds(guider.conds, group, copies)
        return model

    def in_conds(self, conds: Conds, group: Group, copies: Mapping[torch.device, ModelPatcher]) -> dict[str, Any]:
        """The prompts of a lane with instances of its own in the place of the run's ControlNets.

        Prompts that share a ControlNet share the instance as well: the host then evaluates them in one batch.

        Args:
            conds: the prompts, on the lane's device.
            group: the devices of the lane.
            copies: the model on each device but its own, loaded.
        """
        models = {device: copies.get(device, self._guider.model_patcher).model for device in group}
        lane = _Lane(self, {device: model for device, model in models.items() if device in self._devices}, group[0])
        return {
            side: None
            if prompts is None
            else [
                {**cond, "control": lane.instance(cond["control"])} if cond.get("control") is not None else cond
                for cond in prompts
            ]
            for side, prompts in conds.items()
        }

    def hints_of(self, control: Any, device: torch.device) -> dict[Size, _Hint]:
        """The prepared pictures of a ControlNet on this device, by size."""
        found = {size: hint for (key, size, there), hint in self._hints.items() if key == id(control)}
        moved = {}
        for size, hint in found.items():
            key = id(control), size, device
            if key not in self._hints:
                self._hints[key] = hint.on(device)
            moved[size] = self._hints[key]
        return moved

    def network_on(self, control: Any, device: torch.device) -> ModelPatcher | None:
        """The network of a ControlNet on this device; None for a T2I adapter."""
        return self._networks.get((id(control), device), getattr(control, "control_model_wrapped", None))

    def _prepare(self, control: Any, x: Tensor, sigma: Tensor) -> Phrase | None:
        """Prepare the picture for calls with inputs of this shape. Returns why that is not enough for lanes."""
        is_adapter = isinstance(control, T2IAdapter)
        pictures = pictures_of(control)
        batch = x.shape[0]
        # As many pictures as a call has rows are taken as they are, and the first of each prompt in calls of other
        # sizes, and from then on. So the pictures of a prompt depend on which prompts share its call.
        if (pictures > batch and pictures % batch == 0) or (pictures > 1 and is_adapter):
            return Phrase("a ControlNet has several pictures, and the host takes some of them by the calls before")
        hint = _prepared(control, x.new_zeros(pictures, *x.shape[1:]), sigma)
        wanted = [length * control.compression_ratio for length in x.shape[2:4]]
        if list(hint.picture.shape[2:4]) == wanted:
            self._hints[id(control), tuple(x.shape[2:]), hint.picture.device] = hint
        elif is_adapter or control.vae is not None:
            return Phrase("the picture of a ControlNet does not fit the latent, and is prepared again in each call")
        return None  # without a VAE, an instance can prepare it in its lane, as in the host's own calls


class _Lane:
    """Makes the instances of one lane; ``models``: on each of its devices that evaluates prompts."""

    def __init__(self, controls: RunControls, models: Mapping[torch.device, Any], own: torch.device) -> None:
        self._controls, self._models, self._own = controls, models, own
        self._made: dict[tuple[int, torch.device], LaneControl] = {}

    def instance(self, control: Any) -> LaneControl:
        """The instance for the lane's own device, which knows those for its other devices."""
        made = self._on(control, self._own)
        made.elsewhere = {device: self._on(control, device) for device in self._models if device != self._own}
        return made

    def _on(self, control: Any, device: torch.device) -> LaneControl:
        key = id(control), device
        if key not in self._made:
            before = control.previous_controlnet
            previous = None if before is None else self._on(before, device)
            own = _instance(control, self._models[device], self._controls.network_on(control, device), previous)
            self._made[key] = LaneControl(own, self._controls.hints_of(control, device))
        return self._made[key]


class LaneControl:
    """A ControlNet in the prompts of a lane. Each call begins with the prepared picture, whatever calls came before.

    Args:
        own: the lane's instance of the host's class.
        hints: the prepared pictures, by the size of a call.

    Attributes:
        elsewhere: the instances for the other devices that evaluate the lane's prompts.
    """

    def __init__(self, own: Any, hints: Mapping[Size, _Hint]) -> None:
        self._own, self._hints = own, hints
        self.elsewhere: dict[torch.device, LaneControl] = {}

    def get_control(self, x_noisy: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The residuals of the host's class for this call, or None outside of its range."""
        own, hint = self._own, self._hints.get(tuple(x_noisy.shape[2:]))
        if hint is not None:
            own.cond_hint = hint.picture
            if hint.residuals is not None:
                own.control_input = hint.residuals
        elif isinstance(own, T2IAdapter) or own.vae is not None:
            shape = str(tuple(x_noisy.shape))
            raise RuntimeError(Phrase("no picture of the ControlNet was prepared for a call of {shape}", shape=shape))
        else:
            own.cond_hint = None
        return own.get_control(x_noisy, *args, **kwargs)

    def get_instance_for_device(self, device: torch.device) -> LaneControl:
        """The instance for calls on this device, as the host's code for several GPUs asks for it."""
        return self.elsewhere.get(device, self)

    def __getattr__(self, name: str) -> Any:
        """What patches may read of a prompt's ControlNet: its strength, its range, those before it."""
        if name == "_own":  # not set yet, as in a copy
            raise AttributeError(name)
        return getattr(self._own, name)


def _all(conds: Conds) -> Iterator[dict[str, Any]]:
    return (cond for prompts in conds.values() for cond in prompts or ())


def _inputs(conds: Conds, x: Tensor) -> Iterator[tuple[Any, Size]]:
    """Each ControlNet with the shape of the input that it gets in a call of one prompt; several if areas differ."""
    seen: set[tuple[int, Size]] = set()
    for cond in _all(conds):
        part = {name: cond[name] for name in ("area",) if name in cond}
        for control in chain_of(cond.get("control")):
            found = comfy.samplers.get_area_and_mult({**part, "model_conds": {}, "uuid": None}, x, x.new_zeros(1))
            shape = tuple(found.input_x.shape)
            if (id(control), shape) not in seen:
                seen.add((id(control), shape))
                yield control, shape


@dataclass(frozen=True, eq=False)
class _NoNetwork:
    """Stands for the network of a ControlNet while only its picture is prepared."""

    dtype: torch.dtype

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        return {}


def _prepared(control: Any, x: Tensor, sigma: Tensor) -> _Hint:
    """The picture as the host's class prepares it for inputs like x, one item for each picture."""
    probe = _copied(control)
    probe.timestep_range = None  # in every call
    probe.extra_args, probe.extra_conds = {}, []
    network = network_of(control)
    if network is not None:
        probe.control_model = _NoNetwork(control.control_model.dtype)
    else:
        probe.control_input = None
    text = {"c_crossattn": x.new_zeros(x.shape[0], 1, 1)}
    probe.get_control(x, sigma.reshape(1).repeat(x.shape[0]), text, 1, {})
    return _Hint(probe.cond_hint, getattr(probe, "control_input", None))


def _instance(control: Any, model: Any, network: ModelPatcher | None, previous: LaneControl | None) -> Any:
    """A ControlNet of the host's class for calls of ``model``, the BaseModel of a lane."""
    own = _copied(control)
    if network_of(control) is not None and network is not None:
        own.control_model, own.control_model_wrapped = network.model, network
    own.pre_run(model, model.model_sampling.percent_to_sigma)
    own.previous_controlnet = previous
    return own


def _copied(control: Any) -> Any:
    """The ControlNet with a state of its own, without those before it and without a prepared picture."""
    own = copy.copy(control)
    own.extra_args, own.extra_conds = dict(control.extra_args), list(control.extra_conds)
    own.multigpu_clones, own.previous_controlnet, own.cond_hint = {}, None, None
    return own


def _network_on(device: torch.device, control: Any) -> ModelPatcher:
    """The network of a ControlNet on a device. Copies are kept while the original exists."""
    original: ModelPatcher = control.control_model_wrapped
    if device == original.load_device:
        return original
    copies = _copies.pop(control.control_model, {})
    _copies[control.control_model] = copies  # last in order: the most recently used
    for oldest in list(_copies.keys())[:-_MAX_NETWORKS]:
        _copies.pop(oldest, None)
    if device not in copies:
        comfy.model_management.unload_model_and_clones(original, all_devices=True)
        network = _without_streaming(control.control_model)
        offload = comfy.model_management.unet_offload_device()
        copies[device] = ModelPatcher(network, load_device=device, offload_device=offload)
    return copies[device]


def _without_streaming(network: nn.Module) -> nn.Module:
    """A deep copy of a network in memory, without what the host keeps on it to stream its weights."""
    memo: dict[int, Any] = {}
    for part in network.modules():
        for name in (*_STREAMING, *_STREAMING_OF_MODEL):
            value = vars(part).get(name)
            if value is not None and not isinstance(value, int | float | str | bool):
                memo[id(value)] = ()
    copied = copy.deepcopy(network, memo)
    for part in copied.modules():
        for name in (*_STREAMING, *_STREAMING_OF_MODEL):
            vars(part).pop(name, None)
    return copied
