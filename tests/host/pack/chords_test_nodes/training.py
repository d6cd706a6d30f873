"""The SDO LoRA Trainer's parts, checked inside the host: layers of families, gradients, and what a training leaves."""

import copy
import importlib
import itertools
import threading

import comfy.lora
import comfy.model_management
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.ldm.lumina.model import NextDiT
from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from comfy.ldm.wan.model import WanModel
from comfy_api.latest import io

from .sdo import _pack


def _training(name):
    return _pack(f"nodes.host.sdo.training.{name}")


def _core(name):
    return _pack(f"chords_core.{name}")


def _families(device="meta"):
    """A small network of each family."""
    frame = {"device": device, "dtype": torch.float32, "operations": comfy.ops.disable_weight_init}
    embedder = {"target": "torch.nn.Linear", "params": {"in_features": 32, "out_features": 128}}
    unet = {"image_size": 8, "in_channels": 4, "model_channels": 32, "out_channels": 4, "num_res_blocks": 1}
    unet |= {"channel_mult": (1, 2), "num_heads": 2, "use_spatial_transformer": True, "transformer_depth": [1, 1]}
    unet |= {"transformer_depth_middle": 1, "transformer_depth_output": [1, 1, 1, 1], "context_dim": 32}
    return {
        "sd": UNetModel(**unet, **frame),
        "sdxl": UNetModel(**unet, use_linear_in_transformer=True, **frame),
        "sd3": MMDiT(depth=2, context_embedder_config=embedder, context_size=32, **frame),
        "wan": WanModel(dim=64, ffn_dim=64, num_heads=2, num_layers=2, text_dim=32, **frame),
        "qwen": QwenImageTransformer2DModel(
            num_layers=2, attention_head_dim=128, num_attention_heads=2, joint_attention_dim=32, **frame
        ),
        "lumina": NextDiT(dim=64, n_layers=2, n_heads=2, axes_dims=(8, 12, 12), cap_feat_dim=32, **frame),
    }


class TestAttentionLayers(io.ComfyNode):
    """The linear layers that "attention" chooses in each family, and how many there are in all."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="TestAttentionLayers", category="tests", inputs=[], outputs=[], is_output_node=True)

    @classmethod
    def execute(cls):
        choose = _training("layers").choose_layers
        families = _families()
        chosen = {name: list(choose(network, "attention")) for name, network in families.items()}
        every = {name: len(choose(network, "all linear")) for name, network in families.items()}
        return io.NodeOutput(ui={"chosen": [chosen], "every": [every]})


class TestLoraGradient(io.ComfyNode):
    """Gradients of guided evaluations with a LoRA: by the pack, and by the demo's own network with the LoRA added to
    its weights. Of one evaluation, of a chain of two kept steps with what holds the network, and of full
    backpropagation through three steps; and which blocks have a graph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model"), io.Conditioning.Input("positive"), io.Conditioning.Input("negative")]
        inputs += [io.String.Input("pattern")]
        return io.Schema(node_id="TestLoraGradient", category="tests", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, model, positive, negative, pattern):
        network = model.model.diffusion_model
        layers = _training("layers").choose_layers(network, "pattern", pattern)
        lora = _training("lora").new_lora(layers, 4, 1)
        generator = torch.Generator().manual_seed(0)
        with torch.inference_mode(False):
            for layer in lora.layers:
                layer.up.copy_(0.05 * torch.randn(layer.up.shape, generator=generator))
            x, weight = (torch.randn(1, 16, 16, 16, generator=generator) for _ in range(2))
        ours, graphs = _by_the_pack(model, positive, negative, lora, x, weight)
        theirs = _by_the_network(positive, negative, lora, x, weight)
        errors = {
            name: max(float((a - b).norm() / b.norm()) for a, b in zip(ours[name], theirs[name], strict=True))
            for name in theirs
        }
        clean = not any(module._forward_hooks for module in network.modules())
        return io.NodeOutput(ui={"errors": [errors], "graphs": [graphs], "clean": [clean]})


_SIGMAS = (0.8, 0.6, 0.3, 0.0)
_KEPT = (0.6, 0.3)  # the steps of the chain, whose states are x and half of x
_HOLD = 0.3


def _jump(x, denoised, sigma, following):
    """One step of Euler."""
    return denoised + following / sigma * (x - denoised)


def _chain_by_the_pack(denoise, parameters, switch, x, weight):
    gradients = _core("sdo.gradients")
    kept = tuple(
        gradients.KeptStep(state, torch.tensor(sigma), torch.tensor(following), torch.zeros_like(x))
        for state, sigma, following in zip((x, 0.5 * x), _KEPT, (*_KEPT[1:], 0.0), strict=True)
    )

    def old(state, sigma):
        with switch.off():
            return denoise(state, sigma)

    core = _core("sdo.parameter_gradients")
    return core.shortcut_of_parameters(denoise, parameters, kept, weight, core.Staying(old, _HOLD)).gradients


def _full_by_the_pack(denoise, parameters, x, weight):
    core = _core("sdo.parameter_gradients")
    step = _core("solvers").find_step("euler")
    end = core.full_of_parameters(denoise, x, torch.tensor(_SIGMAS), step)
    return core.gradient_of_full(end, parameters, weight).gradients


def _chain_by_the_network(denoise, parameters, x, weight):
    """As one expression: the second state is the first step's result plus a constant."""
    first = denoise(x, _KEPT[0], parameters)
    state = _jump(x, first, *_KEPT)
    state = state + (0.5 * x - state).detach()
    second = denoise(state, _KEPT[1], parameters)
    held = 0.0
    for kept, sigma in zip((x, 0.5 * x), _KEPT, strict=True):
        now, before = denoise(kept, sigma, parameters), denoise(kept, sigma, None)
        held = held + (now - before.detach()).square().sum() / 2
    return (second * weight).sum() + _HOLD * held


def _full_by_the_network(denoise, parameters, x, weight):
    state = x
    for sigma, following in itertools.pairwise(_SIGMAS):
        state = _jump(state, denoise(state, sigma, parameters), sigma, following)
    return (state * weight).sum()


def _by_the_pack(model, positive, negative, lora, x, weight):
    autograd, model_call = _pack("nodes.host.sdo.autograd"), _pack("nodes.host.sdo.model_call")
    found, graphs = {}, {}

    def watch(name):
        def seen(module, args, output):
            first = output[0] if isinstance(output, tuple) else output
            if torch.is_grad_enabled():  # once more in the backward pass, of which the first one counts
                graphs.setdefault(name, [first.requires_grad, type(first.grad_fn).__name__])

        return seen

    def sampler(wrapped, state, sigmas, extra_args, **_):
        network = wrapped.inner_model.inner_model.diffusion_model
        own = lora.beside(network)
        names = [*(f"double_blocks.{i}" for i in range(2)), *(f"single_blocks.{i}" for i in range(2))]
        watched = [network.get_submodule(name).register_forward_hook(watch(name)) for name in names]
        with autograd.differentiable([wrapped.inner_model.inner_model], own.trained(network)), torch.enable_grad():
            with _training("hooks").attached(network, own) as switch:
                for parameter in own.parameters:
                    parameter.requires_grad_(True)
                call = model_call.DifferentiableModelCall.of(wrapped, extra_args)
                state = x.to(state.device, copy=True)
                factor = weight.to(state.device, copy=True)
                value = (call(state, 0.6) * factor).sum()
                found["one"] = torch.autograd.grad(value, own.parameters)
                with torch.no_grad(), switch.off():
                    call(state, 0.6)
                for handle in watched:
                    handle.remove()
                found["chain"] = _chain_by_the_pack(call, own.parameters, switch, state, factor)
                found["full"] = _full_by_the_pack(call, own.parameters, state, factor)
        return state

    comfy.sample.sample_custom(
        autograd.plain(model),
        torch.zeros_like(x),
        4.0,
        comfy.samplers.KSAMPLER(sampler),
        torch.tensor([0.6, 0.0]),
        positive,
        negative,
        torch.zeros_like(x),
        disable_pbar=True,
        seed=0,
    )
    return {name: [gradient.cpu() for gradient in gradients] for name, gradients in found.items()}, graphs


def _by_the_network(positive, negative, lora, x, weight):
    flow_module = importlib.import_module(".flow", _pack("demo.prompts").__package__)
    with torch.inference_mode(False), torch.enable_grad():
        flow = flow_module.Flow().eval().requires_grad_(False)
        weights = comfy.utils.load_torch_file(str(_pack("nodes.host.demo")._FLOW))
        weights = {name: value.float() for name, value in weights.items()}
        parameters = [tensor.clone().requires_grad_() for tensor in lora.parameters]
        context = torch.cat((positive[0][0], negative[0][0])).clone()
        x, weight = x.clone(), weight.clone()

        def denoise(state, sigma, tensors):
            own = dict(weights)
            pairs = () if tensors is None else zip(lora.layers, tensors[::2], tensors[1::2], strict=True)
            for layer, down, up in pairs:
                own[f"{layer.path}.weight"] = own[f"{layer.path}.weight"] + up @ down
            arguments = (state.repeat(2, 1, 1, 1), torch.full((2,), sigma), context)
            wanted, unwanted = torch.func.functional_call(flow, own, arguments).chunk(2)
            return state - sigma * (unwanted + 4.0 * (wanted - unwanted))

        values = {
            "one": (denoise(x, 0.6, parameters) * weight).sum(),
            "chain": _chain_by_the_network(denoise, parameters, x, weight),
            "full": _full_by_the_network(denoise, parameters, x, weight),
        }
        return {name: torch.autograd.grad(value, parameters) for name, value in values.items()}


class TestCheckpointedLora(io.ComfyNode):
    """For some families: how far a LoRA's gradients through checkpointed blocks are from plain ones, and the share of
    the graph's operations that is kept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="TestCheckpointedLora", category="tests", inputs=[], outputs=[], is_output_node=True)

    @classmethod
    def execute(cls):
        networks, found = _families("cpu"), {}
        generator = torch.Generator().manual_seed(0)
        context, times = torch.randn(2, 5, 32, generator=generator), torch.tensor([0.3, 0.7])
        latents = {"sd": (4, 8, 8), "lumina": (4, 8, 8), "qwen": (16, 1, 8, 8)}
        for name, shape in latents.items():
            network = networks[name]
            for weight in network.parameters():
                scale = 0.5 / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0.1
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale + (weight.ndim == 1))
            lora = _training("lora").new_lora(_training("layers").choose_layers(network, "all linear"), 2, 0)
            x, tokens = torch.randn(2, *shape, generator=generator), {"num_tokens": 5} if name == "lumina" else {}
            with torch.inference_mode(False):
                for layer in lora.layers:
                    layer.up.copy_(0.05 * torch.randn(layer.up.shape, generator=generator))
                arguments = [tensor.clone() for tensor in (x, times, context)]
            kept, plain = (
                _lora_gradient(network, lora, arguments, tokens, checkpointed) for checkpointed in (True, False)
            )
            found[name] = [float((kept[0] - plain[0]).norm() / plain[0].norm()), kept[1] / plain[1]]
        return io.NodeOutput(ui={"found": [found]})


def _lora_gradient(network, lora, arguments, tokens, checkpointed):
    """The gradient of all the LoRA's tensors as one, and the number of operations in the graph."""
    own = lora.beside(network)
    if not checkpointed:  # a network whose blocks are never checkpointed
        network.temporal_cache_state = None
    try:
        with _pack("nodes.host.sdo.autograd").differentiable([network], own.trained(network)), torch.enable_grad():
            with _training("hooks").attached(network, own):
                for parameter in own.parameters:
                    parameter.requires_grad_(True)
                answer = network(*(tensor.clone() for tensor in arguments), **tokens, transformer_options={})
                seen, ahead = set(), [answer.grad_fn]
                while ahead:
                    node = ahead.pop()
                    if node is not None and node not in seen:
                        seen.add(node)
                        ahead += [following for following, _ in node.next_functions]
                value = (answer * answer.detach().roll(1)).sum()
                gradients = torch.autograd.grad(value, own.parameters, allow_unused=True)
    finally:
        vars(network).pop("temporal_cache_state", None)
    pairs = zip(gradients, own.parameters, strict=True)
    parts = [torch.zeros_like(parameter) if part is None else part for part, parameter in pairs]
    return torch.cat([part.flatten() for part in parts]), len(seen)


class TestModelState(io.ComfyNode):
    """What a MODEL's network has that a training may leave behind, and a digest of its weights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model"), io.Int.Input("salt")]
        return io.Schema(node_id="TestModelState", category="tests", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, model, salt):
        network = model.model
        modules, weights = list(network.modules()), list(network.parameters())
        state = {
            "hooks": sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules),
            "forwards": sum("forward" in vars(module) for module in modules),
            "gradients": sum(weight.requires_grad or weight.grad is not None for weight in weights),
            "weights": sum(float(weight.double().sum()) for weight in weights),
            "squares": sum(float(weight.double().square().sum()) for weight in weights),
            "training": comfy.model_management.in_training,
        }
        return io.NodeOutput(ui={"state": [state]})


class TestFails(io.ComfyNode):
    """A MODEL that fails, or cancels the prompt, at its call number ``call`` with a graph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model"), io.Int.Input("call"), io.Boolean.Input("cancel"), io.Int.Input("salt")]
        return io.Schema(node_id="TestFails", category="tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, call, cancel, salt):
        model = model.clone()
        left = threading.Semaphore(call - 1)  # a counter would be state that the pack refuses

        def called(apply_model, args):
            if torch.is_grad_enabled() and not left.acquire(blocking=False):
                if cancel:
                    raise comfy.model_management.InterruptProcessingException
                raise ValueError("failed as asked")
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(called)
        return io.NodeOutput(model)


class TestFailingVae(io.ComfyNode):
    """A VAE that runs out of memory when it decodes pictures for a user."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestFailingVae", category="tests", inputs=[io.Vae.Input("vae")], outputs=[io.Vae.Output()]
        )

    @classmethod
    def execute(cls, vae):
        vae = copy.copy(vae)

        def decode(*_args, **_kwargs):
            raise torch.OutOfMemoryError("no memory, as asked")

        vae.decode = decode
        return io.NodeOutput(vae)


class TestUntrainable(io.ComfyNode):
    """A MODEL that a training refuses: with a part replaced, or split between devices by the host."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model"), io.Combo.Input("kind", options=["block", "network", "multi-GPU"])]
        return io.Schema(node_id="TestUntrainable", category="tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, kind):
        model = model.clone()
        if kind == "multi-GPU":
            model.model_options["multigpu_clones"] = {}
        else:
            key = "diffusion_model" + (".double_blocks.0" if kind == "block" else "")
            model.add_object_patch(key, torch.nn.Identity())
        return io.NodeOutput(model)


class TestDemoLora(io.ComfyNode):
    """A LORA_MODEL of a model's attention, which changes nothing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        outputs = [io.Custom("LORA_MODEL").Output()]
        return io.Schema(node_id="TestDemoLora", category="tests", inputs=[io.Model.Input("model")], outputs=outputs)

    @classmethod
    def execute(cls, model):
        layers = _training("layers").choose_layers(model.model.diffusion_model, "attention")
        return io.NodeOutput(_training("lora").new_lora(layers, 2, 0).file())


class TestLoraNames(io.ComfyNode):
    """A LORA_MODEL under other names: those of kohya's or diffusers' files, or with something that is no LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        kinds = ["kohya", "peft", "convolution", "with text encoder", "dora", "other model", "incomplete"]
        inputs = [io.Custom("LORA_MODEL").Input("lora"), io.Combo.Input("kind", options=kinds)]
        outputs = [io.Custom("LORA_MODEL").Output()]
        return io.Schema(node_id="TestLoraNames", category="tests", inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, lora, kind):
        found = {}
        for name, tensor in lora.items():
            path, _, end = name.removeprefix("diffusion_model.").partition(".lora_")
            if kind == "kohya":
                path, end = (path, f".lora_{end}") if end else (path.removesuffix(".alpha"), ".alpha")
                found[f"lora_unet_{path.replace('.', '_')}{end}"] = tensor
            elif kind == "peft":
                other = {"up.weight": "lora_B.weight", "down.weight": "lora_A.weight"}.get(end)
                found |= {} if other is None else {f"diffusion_model.{path}.{other}": tensor}
            elif kind == "convolution":
                found[name] = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
            elif kind == "other model":
                found[name.replace("blocks.", "layers.")] = tensor
            else:
                found[name] = tensor
                if kind == "dora" and name.endswith(".alpha"):
                    found[name.replace(".alpha", ".dora_scale")] = torch.ones(1)
        if kind == "incomplete":
            del found[next(name for name in found if name.endswith("lora_down.weight"))]
        if kind == "with text encoder":
            found["lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"] = torch.zeros(2, 2)
        return io.NodeOutput(found)


NODES = [
    TestAttentionLayers,
    TestLoraGradient,
    TestCheckpointedLora,
    TestModelState,
    TestFails,
    TestFailingVae,
    TestUntrainable,
    TestDemoLora,
    TestLoraNames,
]
