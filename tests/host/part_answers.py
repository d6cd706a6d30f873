"""What the pack says of parts that lanes get copies of, and the copies: in a process of its own, with the host.

Argument: the ComfyUI folder. Writes a JSON object: see `main`.
"""

from __future__ import annotations

import gc
import inspect
import json
import sys
import types
from typing import Any

from row_answers import module, start


def gligen() -> dict[str, bool]:
    """Copies of GLIGEN: what is true of them."""
    import torch
    from comfy.gligen import Gligen, PositionNet
    from comfy.model_patcher import ModelPatcher

    copies = module("devices.gligen_copies")
    devices = [torch.device("cpu", 1), torch.device("cpu", 2)]
    network = Gligen([], PositionNet(8, 8), 8)
    for weight in network.parameters():
        torch.nn.init.normal_(weight)
    patcher = ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))
    texts = [(torch.randn(1, 8), 8, 8, 0, 0)]
    conds = {"positive": [{"gligen": ("position", patcher, texts)}, {}], "negative": None}
    found = copies.gligen_models(conds, devices)
    weights = [dict(each.model.named_parameters()) for each in found]
    moved = {"positive": [{"gligen": "moved", "mask": 1}, {}], "negative": None}
    own = copies.with_copies(moved, conds, devices[1])
    kind, there, given = own["positive"][0]["gligen"]
    answers = {
        "one for each device": [each.load_device for each in found] == [patcher.load_device, *devices],
        "equal": all(torch.equal(each[name], weights[0][name]) for each in weights for name in weights[0]),
        "apart": len({each[name].data_ptr() for each in weights for name in each}) == 3 * len(weights[0]),
        "kept": copies.gligen_models(conds, devices) == found,
        "a lane has its own": kind == "position" and there is found[2] and own["positive"][0]["mask"] == 1,
        "texts stay": given is texts,
        "others stay": own["positive"][1] == {} and own["negative"] is None,
    }
    copies.forget_gligen(conds)
    answers["forgotten"] = copies.gligen_models(conds, devices)[1] is not found[1]
    del patcher, network, conds, found, own, there, weights
    gc.collect()
    answers["freed"] = not list(copies._kept)
    return answers


def lane() -> dict[str, bool]:
    """Whose parts the call of a lane on another device is made with."""
    import comfy.context_windows as host
    import torch
    from comfy.gligen import Gligen, PositionNet
    from comfy.model_patcher import ModelPatcher

    seen: list[Any] = []

    class Model:
        """As the host's, as far as a lane uses it."""

        noise = latent_image = sigmas = torch.zeros(1)

        def __call__(self, x: Any, sigma: Any, model_options: Any) -> Any:
            seen.append((self.inner_model, model_options))
            return x

    there, home = torch.device("cpu", 1), torch.device("cpu")
    gligen = ModelPatcher(Gligen([], PositionNet(8, 8), 8), home, home)
    chosen = host.get_matching_context_schedule("batched"), host.get_matching_fuse_method("pyramid")
    options = {
        "context_handler": host.IndexListContextHandler(*chosen),
        "transformer_options": {"sample_sigmas": torch.ones(1)},
    }
    guider = types.SimpleNamespace(
        conds={"positive": [{"gligen": ("position", gligen, [])}]}, model_patcher="own", inner_model="own"
    )
    model = Model()
    model.inner_model = guider
    replica = types.SimpleNamespace(model="replica")
    denoiser = module("devices.lanes").lane_denoiser
    for device, patcher in ((there, replica), (home, None)):
        denoiser(model, {"model_options": options}, device, patcher)(torch.zeros(1), 1.0)
    (away, away_options), (own, own_options) = seen
    copied = module("devices.gligen_copies")._copy_on(there, gligen)
    handlers = [each["context_handler"] for each in (options, away_options, own_options)]
    return {
        "its own handler": len(set(map(id, handlers))) == 3,
        "its own gligen": away.conds["positive"][0]["gligen"][1] is copied,
        "the host's gligen": own.conds["positive"][0]["gligen"][1] is gligen,
        "its own model": away.inner_model == "replica" and own.inner_model == "own",
    }


def bypass_lora() -> dict[str, Any]:
    """A LoRA in bypass mode on two networks: what is true of the second one, and reasons against other injections."""
    import torch
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import PatcherInjection
    from comfy.weight_adapter.bypass import BypassInjectionManager
    from comfy.weight_adapter.lora import LoRAAdapter

    class OfAPack(LoRAAdapter):  # this file is none of the host's
        pass

    def patcher(number: int) -> Any:
        torch.manual_seed(0)
        network = torch.nn.Module()
        network.layer = torch.nn.Linear(4, 4)
        device = torch.device("cpu", number) if number else torch.device("cpu")
        return ModelPatcher(network, device, torch.device("cpu"))

    def injected(kind: type) -> Any:
        primary, manager = patcher(0), BypassInjectionManager()
        weights = (torch.randn(4, 2), torch.randn(2, 4), None, None, None, None)
        manager.add_adapter("layer.weight", kind(set(), weights), 0.5)
        primary.set_injections("bypass_lora", manager.create_injections(primary.model))
        return primary

    against = module("compatibility.lane_parts").reason_in_injections
    primary, replica, x = injected(LoRAAdapter), patcher(1), torch.randn(3, 4)
    plain = replica.model.layer(x)
    replica.injections = module("devices.bypass_lora").injections_on(replica, primary)
    replica.inject_model()
    alone = replica.model.layer(x)
    primary_plain = torch.equal(primary.model.layer(x), plain)
    primary.inject_model()
    both = primary.model.layer(x), replica.model.layer(x)
    primary.eject_model()
    after = primary.model.layer(x), replica.model.layer(x)
    replica.eject_model()
    other = patcher(0)
    other.set_injections("other", [PatcherInjection(lambda patcher: None, lambda patcher: None)])
    return {
        "copied": against(primary) is None and not torch.equal(alone, plain),
        "not into the primary": primary_plain,
        "as the primary": torch.equal(both[0], both[1]) and torch.equal(both[1], alone),
        "taken off alone": torch.equal(after[0], plain) and torch.equal(after[1], alone),
        "taken off": torch.equal(replica.model.layer(x), plain),
        "of a pack": against(injected(OfAPack)),
        "another injection": against(other),
        **_failed_injection(injected(LoRAAdapter), patcher),
    }


def _failed_injection(primary: Any, patcher: Any) -> dict[str, bool]:
    """What is true where the weights of a LoRA do not fit on the device of a copy."""
    from contextlib import ExitStack

    import torch

    replicas, opened, bypass = map(module, ("devices.replicas", "sampling.opened_lanes", "devices.bypass_lora"))
    home, there = torch.device("cpu"), torch.device("cpu", 1)
    replica, x = patcher(1), torch.randn(3, 4)
    plain = replica.model.layer(x)
    on_own_device = bypass._on_own_device

    def too_large(inject: Any, manager: Any, device: Any) -> Any:
        def inject_some(patcher: Any) -> None:
            inject(patcher)
            raise RuntimeError("out of memory")

        return on_own_device(inject_some, manager, device)

    placed = module("sampling.placement").Placement
    plan = opened.SequentialPlan(4, ("why",))
    call = types.SimpleNamespace(guider=types.SimpleNamespace(model_patcher=primary), x=x, primary=home, steps=4)
    request = types.SimpleNamespace(call=call, options=types.SimpleNamespace(cores=0), request=None)
    request.facts = types.SimpleNamespace(primary=home, steps=4)
    announcer = request.announcer = module("sampling.announcer").Announcer(shown=False)
    kept = types.SimpleNamespace(timings=None, keep_splits=None, keep_rows=None)
    usual = opened.copies_on
    opened.copies_on = lambda *arguments: ({there: replica}, None)
    bypass._on_own_device = too_large
    primary.model.model_lowvram = replica.model.model_lowvram = False
    try:
        with ExitStack() as stack:
            problem = replicas.prepare_copies(stack, primary, {there: replica})
            opener = opened.LaneOpener(stack, request, kept, None)
            placement, copies = opener._copied(placed(plan, ((home,), (there,))), False, None)
    finally:
        opened.copies_on, bypass._on_own_device = usual, on_own_device
    return {
        "one that failed is taken off": torch.equal(replica.model.layer(x), plain) and not replica.is_injected,
        "it is told": problem == "the copies of the model could not be prepared (out of memory)",
        "then the run is on the own device": placement.groups == ((home,),)
        and not copies
        and problem in announcer.message,
    }


def hooks() -> dict[str, str | None]:
    """The reasons against hooks of a prompt, by what the hooks are."""
    import comfy.hooks

    def reason(*found: Any) -> str | None:
        group = comfy.hooks.HookGroup()
        for hook in found:
            group.add(hook)
        guider = types.SimpleNamespace(conds={"positive": [{}, {"hooks": group}], "negative": None})
        answer: str | None = module("compatibility.lane_parts").reason_in_conds(guider)
        return answer

    class OfAPack(comfy.hooks.WeightHook):  # type: ignore[misc]
        pass

    scheduled = comfy.hooks.WeightHook()
    scheduled.hook_keyframe.add(comfy.hooks.HookKeyframe(0.5))
    return {
        "weights": reason(comfy.hooks.WeightHook(), comfy.hooks.WeightHook()),
        "keyframes": reason(comfy.hooks.WeightHook(), scheduled),
        "options": reason(comfy.hooks.TransformerOptionsHook({})),
        "of a pack": reason(OfAPack()),
    }


def windows() -> dict[str, list[str | None]]:
    """The reasons against lanes and against fewer steps, by what the context windows are; and whether a lane has its
    own handler."""
    import comfy.context_windows as host

    parts = module("compatibility.lane_parts")

    def handler(kind: type, schedule: str) -> Any:
        chosen, fuse = host.get_matching_context_schedule(schedule), host.get_matching_fuse_method("pyramid")
        return kind(chosen, fuse, context_length=4, context_overlap=1)

    class OfAPack(host.IndexListContextHandler):  # type: ignore[misc]
        pass

    usual = {name: handler(host.IndexListContextHandler, name) for name in host.CONTEXT_MAPPING}
    called = handler(host.IndexListContextHandler, "batched")
    called.callbacks = {"evaluate_context_windows": {"pack": [print]}}
    cut = handler(host.IndexListContextHandler, "batched")
    cut.context_schedule = host.ContextSchedule("batched", lambda *arguments: [])
    odd = {"of a pack": handler(OfAPack, "batched"), "called back": called, "cut by a pack": cut}

    class OfItsOwn(host.ContextHandlerABC):  # type: ignore[misc]
        def should_use_context(self, *arguments: Any) -> bool:
            return False

        get_resized_cond = execute = should_use_context

    odd["cut otherwise by a pack"] = OfItsOwn()
    found = {
        name: [parts.reason_in_windows(options), parts.reason_for_every_window(options)]
        for name, options in {name: {"context_handler": each} for name, each in (usual | odd).items()}.items()
    }
    options = {"context_handler": usual["batched"], "other": 1}
    own = module("devices.context_windows").with_own_handler(options)
    own["context_handler"]._step = 7
    assert options["context_handler"]._step == 0 and own["other"] == 1
    assert vars(own["context_handler"]).keys() == vars(options["context_handler"]).keys()
    return found


def loaded_again() -> dict[str, Any]:
    """How a model is loaded again whose weights are not streamed, on a host that streams those of others: the arguments
    of its loader, and what is true of the copy. Nothing on a host that cannot do that."""
    import comfy.model_patcher
    import torch

    if "force_deepcopy" not in inspect.signature(comfy.model_patcher.ModelPatcher.clone).parameters:
        return {}
    asked = []

    def loader(path: str, disable_dynamic: bool = False) -> Any:
        asked.append({"path": path, "disable_dynamic": disable_dynamic})
        network = torch.nn.Linear(2, 2)
        return comfy.model_patcher.ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))

    primary = loader("file")
    primary.cached_patcher_init = (loader, ("file",))
    primary.hook_patches = {"hook": {}}
    usual, device = comfy.model_patcher.CoreModelPatcher, torch.device("cpu", 1)
    comfy.model_patcher.CoreModelPatcher = type("Streamed", (comfy.model_patcher.ModelPatcher,), {})
    try:
        copy = module("devices.replicas")._copy_on(device, primary)
    finally:
        comfy.model_patcher.CoreModelPatcher = usual
    own = copy.model is not primary.model and copy.hook_backup is not primary.hook_backup
    return {"asked": asked[1:], "own": own, "there": copy.load_device == device, "kind": type(copy).__name__}


def compiled() -> dict[str, bool]:
    """Whether a model is found to be compiled, by what is compiled of it."""
    import torch
    from comfy.model_patcher import ModelPatcher
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    reason_for_one_device = module("compatibility.compiled").reason_for_one_device

    def found(change: Any) -> bool:
        network = torch.nn.Module()
        network.diffusion_model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SiLU())
        patcher = ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))
        change(patcher)
        options = {**patcher.model_options, "transformer_options": {"wrappers": patcher.wrappers}}
        reason = reason_for_one_device(patcher, options)
        assert reason is None or reason.startswith("the model is compiled (torch.compile) for cpu,")
        return reason is not None

    def block(patcher: Any) -> Any:
        return patcher.model.diffusion_model[0]

    def forward(patcher: Any) -> None:
        block(patcher).forward = torch.compile(block(patcher).forward, backend="eager")

    def part(patcher: Any) -> None:
        patcher.model.diffusion_model[0] = torch.compile(block(patcher), backend="eager")

    def patch(patcher: Any) -> None:
        patcher.add_object_patch("diffusion_model.0", torch.compile(block(patcher), backend="eager"))

    def disabled(patcher: Any) -> None:
        block(patcher).forward = torch.compiler.disable(block(patcher).forward)

    return {
        "nothing": found(lambda patcher: None),
        "disabled": found(disabled),
        "the host's wrapper": found(lambda patcher: set_torch_compile_wrapper(patcher, backend="eager")),
        "an object patch": found(patch),
        "a part in place": found(part),
        "a forward": found(forward),
        "a part by its own method": found(lambda patcher: block(patcher).compile(backend="eager")),
    }


def main() -> None:
    start(sys.argv[1])
    parts = (gligen, lane, bypass_lora, hooks, windows, loaded_again, compiled)
    print(json.dumps({part.__name__: part() for part in parts}))


if __name__ == "__main__":
    main()
