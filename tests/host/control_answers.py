"""What lanes get for the ControlNets of a run, in a process of its own with the host's modules and tiny networks.

Argument: the ComfyUI folder. Writes a JSON object. ``equal``: by kind, whether the residuals of four lanes at work
together are those of the host's own instance, bit for bit, and how often the VAE was asked. ``reasons``: why a kind
needs one core. ``rows``: why it needs calls of one row. ``ranges``: whether every step is called, by range.
``stripped``: what is left on a copy of a network that was streamed. ``unfit``: the problem of pictures that lanes
cannot have. ``elsewhere``: whether the other side of guidance has an instance of its own. ``own_parts``,
``another_model``: whether an instance takes parts of the model from its own lane's copy, and in each run anew.
``chains``: whether lanes and the host agree where a network is used several times, and whether each use matters.
``sizes``: whether they agree in calls of one prompt and of two in turn, or why not, by the number of pictures for two
latents. ``read``: what a patch reads of a lane's ControlNet. ``away``: where the networks of lanes are if the host's is
on another device than the model, and whether a copy counts as loaded that is not.
"""

from __future__ import annotations

import copy
import json
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from row_answers import module, start

_alive: list[Any] = []  # patchers of models in use: the host does not expect that they end
SIGMAS = (1.0, 0.8, 0.5, 0.2, 0.05)


class CountedVae:
    """A stand-in for a VAE: a latent of 16 channels, an eighth of the picture's size; of a video, with one frame."""

    def __init__(self, video: bool = False) -> None:
        self.encoded, self.video = 0, video

    def spacial_compression_encode(self) -> int:
        return 8

    def encode(self, pictures: Any) -> Any:
        import torch

        self.encoded += 1
        small = torch.nn.functional.avg_pool2d(pictures.movedim(-1, 1), 8)
        latent = small.repeat(1, 6, 1, 1)[:, :16]
        return latent[:, :, None] if self.video else latent


def randomised(network: Any, seed: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(network.named_parameters()):
            scale = 0.7 / max(weight[0].numel(), 1) ** 0.5 if weight.ndim > 1 else 0.1
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return network.eval()


def sd35(both: bool) -> tuple[Any, Any, dict[str, Any]]:
    """With an embedder that it takes from the model: of the pooled prompt, or of the picture."""
    import comfy.cldm.dit_embedder
    import comfy.controlnet
    import comfy.ops
    import torch
    from comfy.ldm.modules.diffusionmodules.mmdit import PatchEmbed, VectorEmbedder

    how = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}
    sizes = {"img_size": None, "patch_size": 2, "in_chans": 16, "attention_head_dim": 32, "num_attention_heads": 2}
    sizes |= {"adm_in_channels": 24, "num_layers": 2, "main_model_double": 2, "double_y_emb": both}
    network = comfy.cldm.dit_embedder.ControlNetEmbedder(**sizes, **how)
    model = torch.nn.Module()
    model.y_embedder = VectorEmbedder(24, 64, **how)
    model.x_embedder = PatchEmbed(None, 2, 16, 64, strict_img_size=False, **how)
    latents = {"compression_ratio": 1, "latent_format": comfy.latent_formats.SD3()}
    control = comfy.controlnet.ControlNetSD35(randomised(network, 1), load_device=torch.device("cpu"), **latents)
    return control, randomised(model, 2), {"c_crossattn": torch.randn(2, 5, 32), "y": torch.randn(2, 24)}


def qwen_fun() -> tuple[Any, Any, dict[str, Any]]:
    """Which calls parts of the model itself."""
    import comfy.controlnet
    import comfy.ldm.qwen_image.controlnet
    import comfy.ldm.qwen_image.model
    import comfy.ops
    import torch

    how = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}
    sizes = {"num_attention_heads": 4, "attention_head_dim": 32}
    network = comfy.ldm.qwen_image.controlnet.QwenImageFunControlNetModel(
        132, 128, num_control_blocks=2, main_model_double=4, injection_layers=(0, 2), **sizes, **how
    )
    model = comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=1,
        joint_attention_dim=48,
        axes_dims_rope=(8, 12, 12),
        **sizes,
        **how,
    )
    latents = {"compression_ratio": 1, "latent_format": comfy.latent_formats.Wan21(), "extra_conds": []}
    control = comfy.controlnet.QwenFunControlNet(randomised(network, 1), load_device=torch.device("cpu"), **latents)
    return control, randomised(model, 2), {"c_crossattn": torch.randn(2, 5, 48)}


def base_model(network: Any) -> Any:
    """As the host's BaseModel, as far as ControlNets know it."""
    import comfy.model_sampling
    import torch

    model = torch.nn.Module()
    model.diffusion_model = network
    model.model_sampling = type(
        "Sampling", (comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST), {}
    )()
    return model


def run_of(control: Any, model: Any, x: Any, devices: list[Any], groups: Any = None) -> tuple[Any, list[Any]]:
    """The prepared ControlNets of a run on these devices, and an instance for each lane."""
    import comfy.model_management
    import torch
    from comfy.model_patcher import ModelPatcher

    control.pre_run(model, model.model_sampling.percent_to_sigma)
    patcher = ModelPatcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))
    conds = {"positive": [{"control": control, "model_conds": {}, "uuid": 1}], "negative": None}
    _alive.append(patcher)
    guider = types.SimpleNamespace(conds=conds, model_patcher=patcher)
    run = module("devices.controlnets").RunControls(guider, x, torch.tensor(SIGMAS[0]), devices)
    if run.problem is not None:
        return run, []
    comfy.model_management.load_models_gpu([patcher, *run.networks()])
    copies = {}
    for device in devices[1:]:
        copies[device] = ModelPatcher(copy.deepcopy(model), load_device=device, offload_device=torch.device("cpu"))
    lanes = groups or [(device,) for device in devices]
    return run, [run.in_conds(conds, group, copies)["positive"][0]["control"] for group in lanes]


def residuals(control: Any, x: Any, sigma: float, cond: dict[str, Any], prompts: int = 2) -> list[Any]:
    import torch

    batch = torch.full((x.shape[0],), sigma)
    with torch.no_grad():
        found = control.get_control(x, batch, dict(cond), prompts, {})
    if found is None:
        return []
    return [tensor.cpu() for name in ("input", "middle", "output") for tensor in found[name] if tensor is not None]


def equal(make: Callable[[], Any], shape: tuple[int, ...], ranges: tuple[float, float]) -> tuple[bool, int, bool]:
    """Whether lanes give what the host's instance gives, how often the VAE was asked, and whether that was prepared
    without a trace on the host's instance. Two lanes share each device."""
    import torch

    control, network, cond = make()
    model, vae = base_model(network), CountedVae(len(shape) == 5)
    control.set_cond_hint(torch.rand(1, 3, 100, 90), 0.7, ranges, vae=vae)
    cpu, other = torch.device("cpu"), torch.device("cpu", 1)
    places = [cpu, other, other, cpu]
    run, lanes = run_of(control, model, torch.randn(1, *shape[1:]), [cpu, other], [(place,) for place in places])
    assert run.problem is None, run.problem
    assert len({id(lane._own) for lane in lanes}) == len(lanes)
    untouched, encoded = control.cond_hint is None, vae.encoded
    inputs = [(torch.randn(shape), sigma) for sigma in (*SIGMAS, *SIGMAS[::-1])]

    def calls(lane: Any, place: Any) -> list[list[Any]]:
        return [residuals(lane, x.to(place), sigma, _on(place, cond)) for x, sigma in inputs]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(calls, lanes, places))
    wanted = [residuals(control, x, sigma, cond) for x, sigma in inputs]
    assert any(wanted) and vae.encoded == encoded + 1
    same = all(
        len(one) == len(two) and all(map(torch.equal, one, two))
        for lane in found
        for one, two in zip(lane, wanted, strict=True)
    )
    return same, encoded, untouched


def _on(device: Any, cond: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.to(device) for name, tensor in cond.items()}


def reasons() -> dict[str, str | None]:
    """Of kinds, and of ControlNets that something was changed on."""
    import comfy.controlnet
    import comfy.hooks
    import torch

    class Newer(comfy.controlnet.ControlNet):
        """A class of the host that is not known."""

    Newer.__module__ = "comfy.controlnet"
    for function in vars(Newer).values():
        assert not callable(function)

    def with_patch(control: Any) -> Any:
        control.control_model_wrapped.patches["weight"] = [()]
        return control

    def with_part(control: Any) -> Any:
        control.control_model.x_embedder = type("Own", (torch.nn.Linear,), {"__module__": "__main__"})(2, 2)
        return control

    def compiled(control: Any) -> Any:
        control.control_model = torch.compile(control.control_model, backend="eager")
        return control

    def compiled_in_place(control: Any) -> Any:
        control.control_model.x_embedder.compile(backend="eager")
        return control

    def newer(control: Any) -> Any:
        control.__class__ = Newer
        return control

    def without_hint(control: Any) -> Any:
        return control

    cases = {"sd35": without_hint, "patched": with_patch, "part": with_part, "newer": newer}
    cases |= {"compiled": compiled, "compiled in place": compiled_in_place}
    found = {name: change(sd35(True)[0]) for name, change in cases.items()}
    found["qwen_fun"] = qwen_fun()[0]
    found["of no class of the host"] = types.SimpleNamespace()
    found["lora"] = comfy.controlnet.ControlLora({"lora_controlnet": torch.zeros(1)})
    found["before"] = sd35(True)[0].set_previous_controlnet(found["lora"])
    against = module("compatibility.controlnets").reason_in_controls
    told = {name: against({"positive": [{"control": control}]}) for name, control in found.items()}
    usual, method = comfy.controlnet.broadcast_image_to, comfy.controlnet.ControlBase.control_merge
    harmless = comfy.controlnet.ControlBase.cleanup
    conds = {"positive": [{"control": sd35(True)[0]}]}
    comfy.controlnet.broadcast_image_to = lambda *args: usual(*args)
    told["function"], comfy.controlnet.broadcast_image_to = against(conds), usual
    comfy.controlnet.ControlBase.control_merge = lambda *args: method(*args)
    told["method"], comfy.controlnet.ControlBase.control_merge = against(conds), method
    comfy.controlnet.ControlBase.cleanup = lambda self: harmless(self)
    told["cleanup"], comfy.controlnet.ControlBase.cleanup = against(conds), harmless
    return told


def reason_of_models() -> str | None:
    """Why prompts with models that no ControlNet has need one core."""
    guider = types.SimpleNamespace(conds={"positive": [{"additional_models": [object()]}], "negative": None})
    found: str | None = module("compatibility.lane_parts").reason_in_conds(guider)
    return found


def rows() -> dict[str, list[str]]:
    import comfy.controlnet
    import torch

    def control(pictures: int, ranges: tuple[float, float] = (0.0, 1.0), adapter: bool = False) -> Any:
        made = comfy.controlnet.T2IAdapter(None, 3, 8, "nearest-exact", "cpu") if adapter else sd35(True)[0]
        return made.set_cond_hint(torch.rand(pictures, 3, 8, 8), 1.0, ranges, vae=CountedVae())

    cases = {
        "one for all": control(1),
        "one for each": control(3),
        "two": control(2),
        "a part of the steps": control(1, (0.0, 0.5)),
        "an adapter": control(1, adapter=True),
        "an adapter for each": control(3, adapter=True),
        "before": control(1).set_previous_controlnet(control(2)),
    }
    against = module("compatibility.rows")._reasons_in_conds
    return {
        name: list(against(types.SimpleNamespace(conds={"positive": [{"control": made}], "negative": None}), 3))
        for name, made in cases.items()
    }


def ranges() -> dict[str, str | None]:
    """Of a schedule that begins in the middle."""
    import torch

    control, network, _ = sd35(True)
    model = base_model(network)
    sigma_of = model.model_sampling.percent_to_sigma
    sigmas = torch.tensor([float(sigma_of(percent)) for percent in (0.5, 0.6, 0.7, 0.8, 0.9)] + [0.0])
    cases = {"all": (0.0, 1.0), "over before": (0.0, 0.3), "ends": (0.0, 0.65), "begins": (0.65, 1.0)}
    cases |= {"from before": (0.2, 1.0)}
    found = {}
    for name, wanted in cases.items():
        control.timestep_percent_range = wanted
        control.pre_run(model, sigma_of)
        conds = {"positive": [{"control": control}]}
        found[name] = module("compatibility.controlnets").reason_for_range(conds, sigmas)
    return found


def stripped() -> list[str]:
    """What the host keeps on a network to stream its weights, and that is still on a copy."""
    import torch

    network = sd35(True)[0].control_model
    network.dynamic_vbars, network.dynamic_pins = {"cpu": object()}, {"cpu": {}}
    part = network.x_embedder.proj
    part._v, part._v_signature, part._pin_state = (1, 2), 7, network.dynamic_pins["cpu"]
    part.kept = 7
    copied = module("devices.controlnets")._without_streaming(network)
    assert copied.x_embedder.proj.kept == 7 and torch.equal(copied.x_embedder.proj.weight, part.weight)
    assert copied.x_embedder.proj.weight is not part.weight and part._v == (1, 2)
    return [
        name
        for each in copied.modules()
        for name in vars(each)
        if name.startswith(("_v", "_pin", "dynamic_vbars", "dynamic_pins"))
    ]


def unfit() -> dict[str, str | None]:
    import torch

    class Wrong(CountedVae):
        def encode(self, pictures: Any) -> Any:
            return super().encode(pictures)[..., :-1]

    class Broken(CountedVae):
        def encode(self, pictures: Any) -> Any:
            raise RuntimeError("broken on purpose")

    found = {}
    for name, vae, pictures in (("size", Wrong(), 1), ("error", Broken(), 1), ("several", CountedVae(), 2)):
        control, network, _ = sd35(True)
        control.set_cond_hint(torch.rand(pictures, 3, 64, 64), 1.0, vae=vae)
        cpu = torch.device("cpu")
        found[name] = run_of(control, base_model(network), torch.randn(1, 16, 8, 8), [cpu])[0].problem
    return found


def elsewhere() -> bool:
    """Whether the instance of a lane knows one for the device that evaluates the other side of guidance."""
    import torch

    control, network, _ = sd35(True)
    control.set_cond_hint(torch.rand(1, 3, 64, 64), 1.0, vae=CountedVae())
    cpu, other = torch.device("cpu"), torch.device("cpu", 1)
    _, lanes = run_of(control, base_model(network), torch.randn(1, 16, 8, 8), [cpu, other], [(cpu, other)])
    there = lanes[0].get_instance_for_device(other)
    own = lanes[0]._own.control_model, there._own.control_model
    return there is not lanes[0] and lanes[0].get_instance_for_device(cpu) is lanes[0] and own[0] is not own[1]


def own_parts() -> bool:
    """Whether an instance that calls parts of the model calls those of its own lane's copy."""
    import torch

    control, network, _ = qwen_fun()
    control.set_cond_hint(torch.rand(1, 3, 64, 64), 1.0, vae=CountedVae(video=True))
    cpu, other = torch.device("cpu"), torch.device("cpu", 1)
    _, lanes = run_of(control, base_model(network), torch.randn(1, 16, 1, 8, 8), [cpu, other])
    first, second = (lane._own.extra_args["base_model"] for lane in lanes)
    return first is network and second is not network


def another_model() -> bool:
    """Whether a run with another model has that one's embedder, although copies of the network are kept."""
    import torch

    control, network, cond = sd35(True)
    control.set_cond_hint(torch.rand(1, 3, 64, 64), 1.0, vae=CountedVae())
    x, same = torch.randn(2, 16, 8, 8), []
    cpu, other = torch.device("cpu"), torch.device("cpu", 1)
    for model in (base_model(network), base_model(randomised(copy.deepcopy(network), 9)), base_model(network)):
        _, lanes = run_of(control, model, x, [cpu, other])
        wanted = residuals(control, x, 0.5, cond)
        found = residuals(lanes[1], x.to(other), 0.5, _on(other, cond))
        same.append(all(map(torch.equal, found, wanted)))
    copies = module("devices.controlnets")._copies
    return all(same) and len(copies[control.control_model]) == 1


def _same(one: list[Any], two: list[Any]) -> bool:
    import torch

    return len(one) == len(two) > 0 and all(map(torch.equal, one, two))


def chains() -> dict[str, bool]:
    """One network, used at two strengths in a chain, of which one ends, and at a third one in the other prompt."""
    import torch

    first, network, cond = sd35(True)
    model, vae = base_model(network), CountedVae()
    first.set_cond_hint(torch.rand(1, 3, 96, 80), 0.7, (0.0, 0.5), vae=vae)
    second = first.copy().set_cond_hint(torch.rand(1, 3, 96, 80), 0.4, vae=vae).set_previous_controlnet(first)
    third = first.copy().set_cond_hint(torch.rand(1, 3, 96, 80), 1.5, vae=vae).set_previous_controlnet(first)
    cpu, other = torch.device("cpu"), torch.device("cpu", 1)
    x, found = torch.randn(2, 16, 12, 10), {}
    for name, control in (("second", second), ("third", third)):
        _, lanes = run_of(control, model, x, [cpu, other])
        wanted = {sigma: residuals(control, x, sigma, cond) for sigma in SIGMAS}
        for lane, place in zip(lanes, (cpu, other), strict=True):
            same = [_same(residuals(lane, x.to(place), sigma, _on(place, cond)), wanted[sigma]) for sigma in SIGMAS]
            found[f"{name} {place}"] = all(same)
        alone = control.copy().set_previous_controlnet(None)
        alone.pre_run(model, model.model_sampling.percent_to_sigma)
        differs = [not _same(residuals(alone, x, sigma, cond), wanted[sigma]) for sigma in SIGMAS]
        found[f"{name} differs where the first acts"] = differs == [True, True, True, False, False]
    return found


def sizes() -> dict[int, bool | str]:
    """Of calls of one prompt with two latents, and of two prompts: the host splits a call that has no memory, a prompt
    can be left out, and devices share sides."""
    import torch

    found: dict[int, bool | str] = {}
    for pictures in (1, 2, 3, 4, 6):
        control, network, cond = sd35(True)
        control.set_cond_hint(torch.rand(pictures, 3, 96, 80), 0.7, vae=CountedVae())
        cpu, other = torch.device("cpu"), torch.device("cpu", 1)
        x = torch.randn(2, 16, 12, 10)
        run, lanes = run_of(control, base_model(network), x, [cpu, other])
        found[pictures] = run.problem or True
        for prompts in (2, 1, 2) if lanes else ():
            inputs = {name: tensor.repeat(prompts, *[1] * (tensor.ndim - 1)) for name, tensor in cond.items()}
            rows = x.repeat(prompts, 1, 1, 1)
            wanted = residuals(control, rows, 0.5, inputs, prompts)
            alike = [_same(residuals(lane, rows, 0.5, inputs, prompts), wanted) for lane in lanes]
            found[pictures] = found[pictures] is True and all(alike)
    return found


def read() -> list[Any]:
    import torch

    control, network, _ = sd35(True)
    control.set_cond_hint(torch.rand(1, 3, 64, 64), 0.7, (0.1, 0.9), vae=CountedVae())
    second = control.copy().set_cond_hint(torch.rand(1, 3, 64, 64), 0.4, vae=CountedVae())
    second.set_previous_controlnet(control)
    _, lanes = run_of(second, base_model(network), torch.randn(1, 16, 8, 8), [torch.device("cpu")])
    before = lanes[0].previous_controlnet
    return [lanes[0].strength, before.strength, before.timestep_percent_range, before.previous_controlnet]


def away() -> tuple[list[str], float]:
    import comfy.model_management
    import torch
    from comfy.model_patcher import ModelPatcher

    control, network, _ = sd35(True)
    control.set_cond_hint(torch.rand(1, 3, 64, 64), 1.0, vae=CountedVae())
    cpu, other, third = torch.device("cpu"), torch.device("cpu", 1), torch.device("cpu", 2)
    control.control_model_wrapped = ModelPatcher(control.control_model, load_device=third, offload_device=cpu)
    _, lanes = run_of(control, base_model(network), torch.randn(1, 16, 8, 8), [cpu, other])
    places = [str(lane._own.control_model_wrapped.load_device) for lane in lanes]
    control, *_ = sd35(True)
    comfy.model_management.load_models_gpu([control.control_model_wrapped])
    management = comfy.model_management
    usual = management.get_torch_device, management.get_all_torch_devices
    management.get_torch_device, management.get_all_torch_devices = lambda: other, lambda *_, **__: [cpu, other]
    try:
        copied = module("devices.controlnets")._network_on(other, control)
    finally:
        management.get_torch_device, management.get_all_torch_devices = usual
    return places, copied.loaded_size()


def main() -> None:
    start(sys.argv[1])
    import comfy.controlnet  # noqa: F401

    shape, video = (2, 16, 12, 10), (2, 16, 1, 12, 10)
    kinds: dict[str, tuple[Callable[[], Any], tuple[int, ...], tuple[float, float]]] = {
        "sd35": (lambda: sd35(True), shape, (0.0, 1.0)),
        "sd35 of the picture": (lambda: sd35(False), shape, (0.0, 1.0)),
        "sd35 with a range": (lambda: sd35(True), shape, (0.1, 0.9)),
        "qwen_fun": (qwen_fun, video, (0.0, 1.0)),
    }
    answers: dict[str, Any] = {"equal": {name: equal(*case) for name, case in kinds.items()}}
    answers |= {"reasons": reasons(), "rows": rows(), "ranges": ranges(), "stripped": stripped(), "unfit": unfit()}
    answers |= {"elsewhere": elsewhere(), "own_parts": own_parts(), "another_model": another_model()}
    answers |= {"chains": chains(), "sizes": sizes(), "read": read(), "away": away(), "models": reason_of_models()}
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
