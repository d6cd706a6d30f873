"""What a Ray worker is sent: a model's recipe and weight patches, and a run's conditioning and options, as bytes.

The network itself never travels: references to it are replaced by its place in the model, and the worker puts its
own there. Classes and functions of node packs travel by name; those that have none (closures) by value.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib
import importlib.util
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import folder_paths
import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ....chords_core.execution.ray.actor import WrongSetup

PACK = Path(__file__).resolve().parents[3]
PACK_NAME = __name__.removesuffix(".nodes.host.ray.serialization")  # the host names a pack's module after its folder

_EDGE = 1 << 20  # bytes at either end of a model file that are compared
_OF_PATCHER = (
    "object_patches",
    "weight_wrapper_patches",
    "force_cast_weights",
    "model_options",
    "wrappers",
    "callbacks",
)


class NotShippable(Exception):
    """This model or this graph cannot be sent to another machine; the message says why."""


@dataclass(frozen=True)
class ModelFile:
    """A file of the recipe: where it is here, what it is called in the host's model folders, and what is in it."""

    path: str
    kind: str  # the host's folder, such as "loras"; "pack" for a file of this pack; or empty
    name: str
    digest: str  # empty if it is gone here

    def find(self, pack: Path) -> str:
        """The same file on this machine.

        Raises:
            WrongSetup: if it is nowhere, or if what is there is another file.
        """
        places = [self.path]
        if self.kind == "pack":
            places.append(str(pack / self.name))
        elif self.kind:
            places.append(folder_paths.get_full_path(self.kind, self.name) or "")
        present = [place for place in places if Path(place).is_file()]
        if not present:
            where = f" nor {self.name} in its {self.kind} folders" if self.kind else ""
            raise WrongSetup(f"this machine has no model file {self.path}{where}; copy it there")
        for place in present:
            if self.digest in ("", digest(Path(place))):
                return place
        raise WrongSetup(f"the model file {present[0]} is another than {self.path} where the graph runs")


@dataclass(frozen=True, eq=False)
class Recipe:
    """How the host's loader made a model: a function, its arguments with `ModelFile` for paths, and an index."""

    function: Any
    arguments: tuple[Any, ...]
    index: tuple[int, ...]

    def load(self, pack: Path) -> ModelPatcher:
        """The model, loaded from this machine's files."""
        loaded = self.function(*_replaced(self.arguments, ModelFile, lambda file: file.find(pack)))
        return loaded[self.index[0]] if self.index else loaded


def digest(path: Path) -> str:
    """What tells a model file from another: its size, its first and its last megabyte.

    Raises:
        OSError: if it cannot be read.
    """
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest(path: Path, size: int, _changed: int) -> str:
    with path.open("rb") as file:
        found = hashlib.sha256(str(size).encode() + file.read(_EDGE))
        file.seek(max(0, size - _EDGE))
        found.update(file.read(_EDGE))
    return found.hexdigest()[:24]


def model_parcel(patcher: ModelPatcher) -> tuple[str, Callable[[], bytes]]:
    """A key that changes when the weights do, and what makes the bytes that the worker loads.

    Raises:
        NotShippable: if the model's loader left no way to load it again.
    """
    if patcher.cached_patcher_init is None:
        raise NotShippable(
            f"the loader of this {type(patcher.model).__name__} left no way to load it again elsewhere; "
            "use one of ComfyUI's own loaders"
        )
    function, arguments, *index = patcher.cached_patcher_init
    recipe = Recipe(function, _with_files(arguments), tuple(index))
    base_key = hashlib.sha256(f"{function.__module__}.{function.__qualname__} {recipe}".encode()).hexdigest()
    patches = patcher.patches if patcher.patches else {}
    key = f"{base_key} {patcher.patches_uuid if patches else ''}"
    content = {"recipe": recipe, "base_key": base_key, "patches": patches, "patches_uuid": patcher.patches_uuid}
    return key, lambda: packed(content, patcher)


def run_parcel(patcher: ModelPatcher, model: Any, extra_args: dict[str, Any], x: Tensor) -> bytes:
    """What all calls of a run share. ``model``: the host's KSamplerX0Inpaint.

    Raises:
        NotShippable: naming what cannot be sent.
    """
    guider = copy.copy(model.inner_model)
    for name in ("loaded_models", "original_conds"):  # the host's own record, and the inputs of guider.conds
        vars(guider).pop(name, None)
    model = copy.copy(model)
    model.inner_model = guider
    own = {name: getattr(patcher, name) for name in _OF_PATCHER}
    content = {"patcher": own, "model": model, "extra_args": extra_args, "shape": tuple(x.shape)}
    return packed(content, patcher)


def packed(value: Any, patcher: ModelPatcher) -> bytes:
    """``value`` as bytes, with references for ``patcher`` and its model.

    Raises:
        NotShippable: if something in it cannot be pickled.
    """
    from ray import cloudpickle

    patched = {id(part) for patch in patcher.object_patches.values() for part in _modules_of(patch)}  # they do travel
    parts = {id(part): name for name, part in patcher.model.named_modules() if id(part) not in patched}

    class Packer(cloudpickle.Pickler):
        def persistent_id(self, item: Any) -> tuple[str, ...] | None:
            if isinstance(item, ModelPatcher):
                if item.model is patcher.model:
                    return ("patcher",)
                raise NotShippable("a second model takes part")
            if isinstance(item, nn.Module) and id(item) in parts:
                return "part", parts[id(item)]
            if isinstance(item, BaseModel):
                raise NotShippable("a second model takes part")
            if isinstance(item, type | FunctionType) and _named(item):
                return "global", item.__module__, item.__qualname__
            if isinstance(item, ModuleType) and _by_path(item.__name__):
                return "module", item.__name__
            return None

        def reducer_override(self, item: Any) -> Any:
            if type(item) is Tensor:
                # Its own bytes: a view would bring all that it is a view of, and the machine may have no such device.
                return item.detach().cpu().contiguous().clone().__reduce_ex__(4)
            return super().reducer_override(item)

    file = io.BytesIO()
    try:
        with torch.inference_mode(False):
            Packer(file, protocol=5).dump(value)
    except NotShippable:
        raise
    except Exception as error:
        raise NotShippable(f"a part of the graph cannot be sent to another machine ({error})") from error
    return file.getvalue()


def unpacked(data: bytes, patcher: ModelPatcher | None, module: Callable[[str], ModuleType]) -> Any:
    """What was `packed`, about this ``patcher``; ``module`` finds the host's modules by the names they have there."""
    import pickle

    class Unpacker(pickle.Unpickler):
        def persistent_load(self, reference: tuple[str, ...]) -> Any:
            kind, *rest = reference
            if kind == "patcher":
                return patcher
            if kind == "part":
                return patcher.model.get_submodule(rest[0])  # type: ignore[union-attr]
            found: Any = module(rest[0])
            if kind == "global":
                for name in rest[1].split("."):
                    found = getattr(found, name)
            return found

    return Unpacker(io.BytesIO(data)).load()


class Modules:
    """Finds modules of node packs on this machine by their names on the sender's, which are paths there.

    Args:
        there: the sender's ComfyUI folder.
        here: this machine's.
    """

    def __init__(self, there: str, here: str) -> None:
        self._there, self._here = there.replace("\\", "/"), here

    def __call__(self, name: str) -> ModuleType:
        """The module.

        Raises:
            WrongSetup: naming the file that is missing here.
        """
        if name in sys.modules:
            return sys.modules[name]
        root = name
        while root and root not in sys.modules:
            if (file := self._file(root)) is not None:
                _execute(root, file)
                break
            root = root.rpartition(".")[0]
        if not root:
            raise WrongSetup(f"this machine lacks the node pack {self._place(name)}; install it there too")
        return importlib.import_module(name)

    def _file(self, name: str) -> Path | None:
        module, folder = Path(self._place(name) + ".py"), Path(self._place(name.replace("_x_", "."))) / "__init__.py"
        return next((file for file in (module, folder) if file.is_file()), None)

    def _place(self, name: str) -> str:
        path = name.replace("\\", "/")
        return self._here + path[len(self._there) :] if path.startswith(self._there) else path


def _execute(name: str, file: Path) -> None:
    """Load a module as the host loads a node pack."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _modules_of(patch: Any) -> Iterator[nn.Module]:
    return patch.modules() if isinstance(patch, nn.Module) else iter(())


def _by_path(module: str | None) -> bool:
    """Whether a module is named after its file, as the host names those of node packs."""
    return module is not None and ("/" in module or "\\" in module)


def _named(item: Any) -> bool:
    """Whether it is found by its name in such a module."""
    if not _by_path(item.__module__):
        return False
    found: Any = sys.modules.get(item.__module__)
    for name in item.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is item


def _with_files(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """A recipe's arguments with its paths of files as `ModelFile`."""
    return _replaced(arguments, str, lambda text: _model_file(text) if _names_a_model(text) else text)


def _names_a_model(text: str) -> bool:
    """Whether it is the path of a model file, also of one that is gone since it was loaded."""
    path = Path(text)
    return path.is_absolute() and (path.suffix in folder_paths.supported_pt_extensions or path.is_file())


def _model_file(text: str) -> ModelFile:
    path = Path(text)
    found = digest(path) if path.is_file() else ""
    if path.resolve().is_relative_to(PACK):
        return ModelFile(text, "pack", path.resolve().relative_to(PACK).as_posix(), found)
    for kind, (folders, *_) in folder_paths.folder_names_and_paths.items():
        for folder in folders:
            if path.is_relative_to(folder) and kind != "custom_nodes":
                return ModelFile(text, kind, str(path.relative_to(folder)), found)
    return ModelFile(text, "", path.name, found)


def _replaced(value: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """``value`` with ``function`` of all of that ``kind`` in it."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, tuple | list):
        return type(value)(_replaced(item, kind, function) for item in value)
    if isinstance(value, dict):
        return {key: _replaced(item, kind, function) for key, item in value.items()}
    return value
