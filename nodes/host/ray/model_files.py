"""How a model was loaded, and from which files, so that a worker can load it from the files of its own machine."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy.model_patcher import ModelPatcher

from ....chords_core.execution.ray.actor import WrongSetup

PACK = Path(__file__).resolve().parents[3]
"""The folder of this pack."""

_EDGE = 1 << 20  # bytes at either end of a model file that are compared


@dataclass(frozen=True)
class ModelFile:
    """A file that a model was loaded from.

    ``path``: on the sender's machine; ``kind``: the host's folder, such as "loras", or "pack" for a file of this pack,
    or empty; ``name``: within that folder; ``digest``: of its content, empty if the file is gone there.
    """

    path: str
    kind: str
    name: str
    digest: str

    def find(self, pack: Path) -> str:
        """The path of the same file on this machine; ``pack``: the folder of this pack.

        Raises:
            WrongSetup: if there is no such file, or if it has another content.
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
        raise WrongSetup(f"the model file {present[0]} differs from {self.path} on the machine where the graph runs")


@dataclass(frozen=True, eq=False)
class Recipe:
    """How the host's loader made a model.

    ``function``: the loader; ``arguments``: its arguments, with a `ModelFile` in place of each path; ``index``: which
    of its results the model is, or empty if it returns only the model.
    """

    function: Any
    arguments: tuple[Any, ...]
    index: tuple[int, ...]

    @classmethod
    def of(cls, function: Any, arguments: tuple[Any, ...], *index: int) -> Recipe:
        """The recipe for a host's ``cached_patcher_init``."""
        return cls(function, with_files(arguments), tuple(index))

    @property
    def key(self) -> str:
        """Changes when the loader, an argument or a file does."""
        text = f"{self.function.__module__}.{self.function.__qualname__} {self}"
        return hashlib.sha256(text.encode()).hexdigest()

    def load(self, pack: Path) -> ModelPatcher:
        """Load the model from this machine's files.

        Raises:
            WrongSetup: if this machine lacks a file.
        """
        loaded = self.function(*_replaced(self.arguments, ModelFile, lambda file: file.find(pack)))
        return loaded[self.index[0]] if self.index else loaded


def digest(path: Path) -> str:
    """A hash of a model file: of its size, its first megabyte and its last one.

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


def with_files(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a loader, with a `ModelFile` in place of each path of a file."""
    return _replaced(arguments, str, lambda text: _model_file(text) if _is_model_path(text) else text)


def _is_model_path(text: str) -> bool:
    """Whether a text is the path of a model file; also true if the file is gone since it was loaded."""
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
    """``value`` with every item of that ``kind`` replaced by ``function`` of it."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, tuple | list):
        return type(value)(_replaced(item, kind, function) for item in value)
    if isinstance(value, dict):
        return {key: _replaced(item, kind, function) for key, item in value.items()}
    return value
