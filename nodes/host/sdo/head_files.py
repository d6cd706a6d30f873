"""Files of heads, in the host's folder for small models that judge pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping

import comfy.utils
import folder_paths
from torch import Tensor

from ....chords_core import InvalidInput, head_layers
from ....chords_core.sdo.objectives.heads import Layers
from .input_names import renamed_inputs

_FOLDER = "classifiers"


def head_files() -> list[str]:
    """The files that may be heads, as relative paths."""
    # The host's own list of this folder leaves out every file with an extension.
    found: set[str] = set()
    for folder in folder_paths.get_folder_paths(_FOLDER):
        files, _ = folder_paths.recursive_search(folder, excluded_dir_names=[".git"])
        found.update(
            name for name in files if os.path.splitext(name)[1].lower() in folder_paths.supported_pt_extensions
        )
    return sorted(found)


def read_layers(file: str) -> Layers:
    """The linear layers of the head in one of `head_files`.

    Raises:
        InvalidInput: if the file is not there, cannot be read, or is no stack of linear layers.
    """
    path = folder_paths.get_full_path(_FOLDER, file)
    if path is None:
        raise InvalidInput("file", f"there is no {file!r} in the folder models/{_FOLDER}")
    try:
        state = comfy.utils.load_torch_file(path, safe_load=True)
    except Exception as error:  # each format has exceptions of its own
        raise InvalidInput("file", f"{file} cannot be read: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InvalidInput("file", f"{file} is not a file of weights alone")
    with renamed_inputs(state="file"):
        return head_layers(state)
