"""A loader of GGUF files as packs have it: weights in a class of tensors of their own, which each call converts,
operations of their own, and a patcher of its own that keeps a LoRA beside the weights."""

from pathlib import Path

import comfy.lora
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io


class GGMLTensor(torch.Tensor):
    """The bytes of a weight. Its shape is that of the weight."""

    def __init__(self, *args, tensor_type, tensor_shape, patches=(), **kwargs):
        super().__init__()
        self.tensor_type, self.tensor_shape, self.patches = tensor_type, tensor_shape, list(patches)

    def __new__(cls, *args, tensor_type, tensor_shape, patches=(), **kwargs):
        return super().__new__(cls, *args, **kwargs)

    def _like_this(self, tensor):
        tensor.tensor_type, tensor.tensor_shape = self.tensor_type, self.tensor_shape
        tensor.patches = list(self.patches)
        return tensor

    def to(self, *args, **kwargs):
        return self._like_this(super().to(*args, **kwargs))

    def clone(self, *args, **kwargs):
        return self

    def detach(self, *args, **kwargs):
        return self

    def new_empty(self, size, *args, **kwargs):
        empty = super().new_empty(size, *args, **kwargs)
        return GGMLTensor(empty, tensor_type=self.tensor_type, tensor_shape=self.tensor_shape, patches=self.patches)

    @property
    def shape(self):
        return getattr(self, "tensor_shape", None) or self.size()


def _is_quantised(tensor):
    return isinstance(tensor, GGMLTensor)


def _dequantised(tensor, dtype):
    """A Q8_0 weight: blocks of 32 values, each with a scale in half precision."""
    blocks = tensor.data.as_subclass(torch.Tensor).reshape(-1, 34)
    scales, values = blocks[:, :2].contiguous().view(torch.float16), blocks[:, 2:].contiguous().view(torch.int8)
    return (scales.float() * values.float()).reshape(tensor.tensor_shape).to(dtype)


class GGMLOps(comfy.ops.manual_cast):
    class Linear(comfy.ops.manual_cast.Linear):
        def __init__(self, in_features, out_features, bias=True, device=None, dtype=None):
            torch.nn.Module.__init__(self)
            self.in_features, self.out_features = in_features, out_features
            self.weight = self.bias = None

        def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
            for name in ("weight", "bias"):
                if (value := state_dict.pop(prefix + name, None)) is not None:
                    setattr(self, name, torch.nn.Parameter(value, requires_grad=False))

        def forward_comfy_cast_weights(self, input):
            weight = self.weight
            if not _is_quantised(weight):
                return super().forward_comfy_cast_weights(input)
            value = _dequantised(weight.to(input.device), input.dtype)
            for patches, key in weight.patches:
                value = comfy.lora.calculate_weight(patches, value, key)
            bias = None if self.bias is None else self.bias.to(input)
            return torch.nn.functional.linear(input, value, bias)


class GGUFModelPatcher(comfy.model_patcher.ModelPatcher):
    def patch_weight_to_device(self, key, device_to=None, inplace_update=False, *args, **kwargs):
        weight = comfy.utils.get_attr(self.model, key)
        if not _is_quantised(weight):
            return super().patch_weight_to_device(key, device_to, inplace_update, *args, **kwargs)
        if key in self.patches:
            out = weight.to(device_to)
            out.patches = [(self.patches[key], key)]
            comfy.utils.set_attr_param(self.model, key, out)

    def load(self, *args, force_patch_weights=False, **kwargs):
        super().load(*args, force_patch_weights=True, **kwargs)

    def unpatch_model(self, device_to=None, unpatch_weights=True):
        if unpatch_weights:
            for weight in self.model.parameters():
                if _is_quantised(weight):
                    weight.patches = []
        return super().unpatch_model(device_to=device_to, unpatch_weights=unpatch_weights)

    def clone(self, *args, **kwargs):
        source = self.__class__
        self.__class__ = GGUFModelPatcher
        cloned = super().clone(*args, **kwargs)
        cloned.__class__ = GGUFModelPatcher
        self.__class__ = source
        return cloned


def _weights(path):
    from gguf import GGMLQuantizationType, GGUFReader

    weights = {}
    for found in GGUFReader(path).tensors:
        shape = torch.Size(reversed([int(size) for size in found.shape]))
        data = torch.from_numpy(found.data.copy())
        is_plain = found.tensor_type == GGMLQuantizationType.F32
        kept = {"tensor_type": found.tensor_type, "tensor_shape": shape}
        weights[found.name] = data.reshape(shape) if is_plain else GGMLTensor(data, **kept)
    return weights


class TestLoaderGGUF(io.ComfyNode):
    """A MODEL from a GGUF file. It gives no function to load it again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.String.Input("name"), io.Int.Input("salt", default=0, optional=True)]
        return io.Schema(node_id=cls.__name__, category="tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, name, salt=0):
        folders = map(Path, folder_paths.get_folder_paths("diffusion_models"))
        (path,) = (folder / name for folder in folders if (folder / name).is_file())
        model = comfy.sd.load_diffusion_model_state_dict(
            _weights(path), model_options={"custom_operations": GGMLOps}, disable_dynamic=True
        )
        return io.NodeOutput(GGUFModelPatcher.clone(model))


NODES = [TestLoaderGGUF]
