"""Nodes of a newer ComfyUI, as stand-ins, and what the pack says of its code."""

import sys

import comfy.sample
import comfy.samplers
import torch
from comfy_api.latest import io

from . import newer_host
from .base import ModelNode, SaltedOutputNode

_KNOWN = {}
_NODES, _CORE = "comfy_extras.nodes_sparse_attention", "comfy.ldm.modules.sparse_attention"


def _use_files(origins, files):
    origins._host_files = files
    for cache in (origins.origin_of_file, origins._is_changed):
        cache.cache_clear()


def _count_as_changed(origins, end):
    """The files of the host whose path ends so count as changed, and no others."""
    known = _KNOWN.setdefault("files", origins._host_files)()
    changed = {path: frozenset({"00000000"}) if path.endswith(end) else digests for path, digests in known.items()}
    _use_files(origins, lambda: changed)


class TestSparseAttention(ModelNode):
    """Attention of a newer host that keeps the step before. ``core``: its code is in a new file of the host's core."""

    INPUTS = [
        io.String.Input("kind"),
        io.Boolean.Input("core", default=False, optional=True),
        io.Int.Input("salt", default=0, optional=True),
    ]

    @classmethod
    def execute(cls, model, kind, core=False, salt=0):
        model = model.clone()
        module = newer_host.install("sparse_attention.py", _CORE if core else _NODES)
        options = getattr(module, kind)(model.model.diffusion_model)
        for name, patches in options.pop("patches", {}).items():
            for patch in patches:
                model.set_model_patch(patch, name)
        for (block, number), patch in options.pop("patches_replace", {}).get("dit", {}).items():
            model.set_model_patch_replace(patch, "dit", block, number)
        model.model_options["transformer_options"].update(options)
        return io.NodeOutput(model)


class TestSparseSetting(ModelNode):
    """A node that only sets an option, which the core of a newer host reads."""

    @classmethod
    def execute(cls, model):
        model = model.clone()
        model.model_options["transformer_options"]["sparse_attention"] = {"keep": 0.5}
        return io.NodeOutput(model)


class TestChangedHost(SaltedOutputNode):
    """What the pack reads and says while all files of the host count as changed, and while they do not."""

    @classmethod
    def define_schema(cls):
        schema = super().define_schema()
        schema.inputs.append(io.Model.Input("model"))
        return schema

    @classmethod
    def execute(cls, salt, model):
        origins, reader, setting, hooks = (
            next(module for name, module in sys.modules.items() if name.endswith(f".compatibility.{found}"))
            for found in ("origins", "reading.source_reader", "new_setting", "hooks")
        )
        easy_cache = next(module for name, module in sys.modules.items() if name.endswith("nodes_easycache"))
        freelunch = next(module for name, module in sys.modules.items() if name.endswith("nodes_freelunch"))
        core = sys.modules["comfy.context_windows"].IndexListContextHandler.execute

        def replaced():
            kind = type(model.model.diffusion_model.double_blocks[0])
            forward = kind.forward
            kind.forward = lambda *args, **kwargs: forward(*args, **kwargs)
            try:
                return [hook.name for hook in hooks.hooks_in_network(model.model)]
            finally:
                kind.forward = forward

        def found():
            return {
                "node": [origins.origin_of(freelunch.Fourier_filter).name],
                "core": [origins.origin_of(core).name],
                "cache": [str(reader.read(easy_cache.easycache_forward_wrapper).finding or "")],
                "handler": [str(reader.read(core).finding or "")],
                "setting": [setting.new_setting(model) or ""],
                "replaced": replaced(),
            }

        moments = {"before": found()}
        try:
            _count_as_changed(origins, "flux/layers.py")
            moments["layers"] = found()
            _count_as_changed(origins, "")
            moments["after"] = found()
            _use_files(origins, dict)
            moments["new"] = {"replaced": replaced()}
        finally:
            _use_files(origins, _KNOWN["files"])
        return io.NodeOutput(
            ui={f"{key} {moment}": value for moment, values in moments.items() for key, value in values.items()}
        )


class TestHostFiles(SaltedOutputNode):
    """From now on, all files of the host count as they are (``known``), or as files with another content (``changed``),
    or as files with another name (``new``)."""

    @classmethod
    def define_schema(cls):
        schema = super().define_schema()
        schema.inputs.append(io.String.Input("files"))
        return schema

    @classmethod
    def execute(cls, salt, files):
        (origins,) = (module for name, module in sys.modules.items() if name.endswith(".compatibility.origins"))
        _count_as_changed(origins, "")
        if files != "changed":
            _use_files(origins, _KNOWN["files"] if files == "known" else dict)
        return io.NodeOutput(ui={"files": [files]})


class TestRowReasons(io.ComfyNode):
    """Why the rows of a call of this model must not have different sigmas."""

    @classmethod
    def define_schema(cls):
        conds = [io.Conditioning.Input("positive"), io.Conditioning.Input("negative")]
        inputs = [io.Model.Input("model"), *conds, io.Int.Input("salt")]
        return io.Schema(node_id=cls.__name__, category="tests", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, model, positive, negative, salt):
        (rows,) = (module for name, module in sys.modules.items() if name.endswith(".compatibility.rows"))
        found = []

        def sampler(wrapped, state, sigmas, extra_args, **_):
            found.append(rows.reason_against_rows(wrapped.inner_model, extra_args["model_options"], 1) or "")
            return state

        latent, sigmas = torch.zeros(1, 16, 16, 16), torch.tensor([1.0, 0.0])
        sampling = comfy.samplers.KSAMPLER(sampler), sigmas, positive, negative, latent
        comfy.sample.sample_custom(model, latent, 3.5, *sampling, disable_pbar=True, seed=0)
        return io.NodeOutput(ui={"reason": found})


NODES = [TestSparseAttention, TestSparseSetting, TestChangedHost, TestHostFiles, TestRowReasons]
