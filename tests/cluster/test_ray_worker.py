"""What a worker checks before it works, without Ray: run by the host's Python, as in an actor's process."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest
from _env import venv_python

PREPARED = """
import importlib, sys, types
from pathlib import Path
host, pack = sys.argv[1:]
sys.path.insert(0, host)
from comfy.cli_args import args
args.cpu = True
for name, folder in (("/a/pack", pack), ("/a/pack.nodes", pack + "/nodes")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
parcels = importlib.import_module("/a/pack.nodes.host.ray.serialization")
ray_worker = importlib.import_module("/a/pack.nodes.host.ray.worker")

def problem(call):
    try:
        call()
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
    else:
        print("fine")
"""


@pytest.fixture
def said(comfy_host: Path, repo: Path, tmp_path: Path):
    """What a piece of code prints, line by line, when it runs beside the worker's module."""

    def said(code: str) -> list[str]:
        program = tmp_path / "program.py"
        program.write_text(PREPARED + textwrap.dedent(code), encoding="utf-8")
        command = [str(venv_python()), str(program), str(comfy_host), str(repo)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return said


def test_other_versions_are_refused(said) -> None:
    lines = said("""
        for name in ("", "ComfyUI", "torch", "ComfyUI-CHORDS"):
            setup = ray_worker.setup_here()
            if name:
                setup["versions"] = {**setup["versions"], name: "0.1"}
            problem(lambda: ray_worker.HostWorker(setup, host))
    """)
    assert lines[0] == "fine"
    for name, line in zip(("ComfyUI", "torch", "ComfyUI-CHORDS"), lines[1:], strict=True):
        assert line.startswith(f"WrongSetup: this machine has {name} ") and "but the graph runs with 0.1" in line


def test_model_files_are_found_or_named(said, tmp_path: Path) -> None:
    lines = said(f"""
        import folder_paths, torch
        here, there = Path({str(tmp_path)!r}) / "here", Path({str(tmp_path)!r}) / "there"
        for folder, content in ((here, b"one"), (there, b"one")):
            (folder / "sub").mkdir(parents=True)
            (folder / "sub" / "model.safetensors").write_bytes(content)
        folder_paths.add_model_folder_path("diffusion_models", str(there))
        path = str(there / "sub" / "model.safetensors")
        (file, options), = [parcels._with_files((path, {{"dtype": torch.float16}}))]
        print(file.kind, file.name, options["dtype"])
        folder_paths.add_model_folder_path("diffusion_models", str(here))
        print(file.find(Path(pack)) == path)
        Path(path).unlink()
        print(file.find(Path(pack)) == str(here / "sub" / "model.safetensors"))
        (here / "sub" / "model.safetensors").write_bytes(b"two")
        problem(lambda: file.find(Path(pack)))
        (here / "sub" / "model.safetensors").unlink()
        problem(lambda: file.find(Path(pack)))
        (file,) = parcels._with_files((pack + "/models/chords_demo_flow.safetensors",))
        print(file.kind, file.name)
    """)
    assert lines[0] == "diffusion_models sub/model.safetensors torch.float16"
    assert lines[1:3] == ["True", "True"]
    assert lines[3].startswith("WrongSetup: the model file") and "is another than" in lines[3]
    assert lines[4].startswith("WrongSetup: this machine has no model file") and "sub/model.safeten" in lines[4]
    assert lines[5] == "pack models/chords_demo_flow.safetensors"


def test_what_cannot_be_sent_is_named(said) -> None:
    lines = said("""
        import threading, torch, comfy.sd
        patcher = comfy.sd.load_diffusion_model(pack + "/models/chords_demo_flow.safetensors")
        data = parcels.packed({"patcher": patcher, "part": patcher.model.diffusion_model}, patcher)
        back = parcels.unpacked(data, patcher, parcels.Modules(host, host))
        print(len(data) < 500, back["patcher"] is patcher, back["part"] is patcher.model.diffusion_model)
        problem(lambda: parcels.packed(threading.Lock(), patcher))
        other = comfy.sd.load_diffusion_model(pack + "/models/chords_demo_flow.safetensors")
        problem(lambda: parcels.packed([other], patcher))
        big = torch.zeros(1000, 1000)
        print(len(parcels.packed(big[:2, :2], patcher)) < 2000)
        patcher.cached_patcher_init = None
        problem(lambda: parcels.model_parcel(patcher))
    """)
    assert lines[0] == "True True True"
    assert "NotShippable: a part of the graph cannot be sent" in lines[1] and "lock" in lines[1]
    assert lines[2] == "NotShippable: a second model takes part"
    assert lines[3] == "True"
    assert "left no way to load it again" in lines[4]


def test_modules_of_node_packs_are_found_under_this_machines_folder(said, tmp_path: Path) -> None:
    folder = tmp_path / "my.host" / "custom_nodes" / "some-pack"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("from .part import Thing\n")
    (folder / "part.py").write_text("class Thing:\n    pass\n")
    lines = said(f"""
        modules = parcels.Modules("/there/ComfyUI", {str(tmp_path / "my.host")!r})
        print(modules("/there/ComfyUI/custom_nodes/some-pack.part").Thing.__name__)
        problem(lambda: modules("/there/ComfyUI/custom_nodes/other-pack.part"))
    """)
    assert lines[0] == "Thing"
    assert lines[1].startswith("WrongSetup: this machine lacks the node pack")
    assert "my.host/custom_nodes/other-pack" in lines[1]
