"""What a worker checks before it works, without Ray: in a process with the host's Python, like an actor's process."""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _env import venv_python

RunCode = Callable[[str], list[str]]

DONE = "-- done"

PREPARED = f"""
import importlib, sys, traceback, types
from pathlib import Path
host, pack = sys.argv[1:]
sys.argv[1:] = []
sys.path.insert(0, host)
from comfy.cli_args import args
args.cpu = True
for name, folder in (("/a/pack", pack), ("/a/pack.nodes", pack + "/nodes")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
model_files, pack_modules, serialization, ray_worker = (
    importlib.import_module("/a/pack.nodes.host.ray." + name)
    for name in ("model_files", "pack_modules", "serialization", "worker")
)

def problem(call):
    try:
        call()
    except Exception as error:
        print(f"{{type(error).__name__}}: {{error}}")
    else:
        print("fine")

for path in map(str.strip, sys.stdin):
    try:
        exec(compile(Path(path).read_text(encoding="utf-8"), path, "exec"), dict(globals()))
    except Exception:
        traceback.print_exc(file=sys.stdout)
    print({DONE!r}, flush=True)
"""


@pytest.fixture(scope="module")
def said(comfy_host: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunCode]:
    """A function that returns the lines that a piece of code prints. All pieces run in one process, which has the
    worker's modules, because importing them takes seconds."""
    folder = tmp_path_factory.mktemp("said")
    program, log, pipe = folder / "program.py", folder / "stderr.log", subprocess.PIPE
    command = [str(venv_python()), "-c", PREPARED, str(comfy_host), str(repo)]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, cwd=folder) as process,
    ):
        source, sink = process.stdin, process.stdout
        assert source is not None and sink is not None

        def said(code: str) -> list[str]:
            program.write_text(textwrap.dedent(code), encoding="utf-8")
            source.write(f"{program}\n")
            source.flush()
            lines: list[str] = []
            for line in sink:
                if line.rstrip("\n") == DONE:
                    return lines
                lines.append(line.rstrip("\n"))
            raise AssertionError(f"the process ended: {log.read_text()}")

        yield said
        process.kill()  # an orderly end of the host takes seconds


def test_other_versions_are_refused(said: RunCode) -> None:
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


def test_model_files_are_found_or_named(said: RunCode, tmp_path: Path) -> None:
    lines = said(f"""
        import folder_paths, torch
        here, there = Path({str(tmp_path)!r}) / "here", Path({str(tmp_path)!r}) / "there"
        for folder, content in ((here, b"one"), (there, b"one")):
            (folder / "sub").mkdir(parents=True)
            (folder / "sub" / "model.safetensors").write_bytes(content)
        folder_paths.add_model_folder_path("diffusion_models", str(there))
        path = str(there / "sub" / "model.safetensors")
        (file, options), = [model_files.with_files((path, {{"dtype": torch.float16}}))]
        print(file.kind, file.name, options["dtype"])
        folder_paths.add_model_folder_path("diffusion_models", str(here))
        print(file.find(Path(pack)) == path)
        Path(path).unlink()
        print(file.find(Path(pack)) == str(here / "sub" / "model.safetensors"))
        (here / "sub" / "model.safetensors").write_bytes(b"two")
        problem(lambda: file.find(Path(pack)))
        (here / "sub" / "model.safetensors").unlink()
        problem(lambda: file.find(Path(pack)))
        (file,) = model_files.with_files((pack + "/models/chords_demo_flow.safetensors",))
        print(file.kind, file.name)
    """)
    assert lines[0] == "diffusion_models sub/model.safetensors torch.float16"
    assert lines[1:3] == ["True", "True"]
    assert lines[3].startswith("WrongSetup: the model file") and "differs from" in lines[3]
    assert lines[4].startswith("WrongSetup: this machine has no model file") and "sub/model.safeten" in lines[4]
    assert lines[5] == "pack models/chords_demo_flow.safetensors"


def test_what_cannot_be_sent_is_named(said: RunCode) -> None:
    lines = said("""
        import threading, torch, comfy.sd
        patcher = comfy.sd.load_diffusion_model(pack + "/models/chords_demo_flow.safetensors")
        data = serialization.packed({"patcher": patcher, "part": patcher.model.diffusion_model}, patcher)
        back = serialization.unpacked(data, patcher, pack_modules.PackModules(host, host))
        print(len(data) < 500, back["patcher"] is patcher, back["part"] is patcher.model.diffusion_model)
        problem(lambda: serialization.packed(threading.Lock(), patcher))
        other = comfy.sd.load_diffusion_model(pack + "/models/chords_demo_flow.safetensors")
        problem(lambda: serialization.packed([other], patcher))
        big = torch.zeros(1000, 1000)
        print(len(serialization.packed(big[:2, :2], patcher)) < 2000)
        import types
        from comfy.controlnet import T2IAdapter
        adapter = T2IAdapter(None, 3, 8, "nearest-exact", "cpu")
        guider = types.SimpleNamespace(conds={"positive": [{"control": adapter}], "negative": []})
        model = types.SimpleNamespace(inner_model=guider)
        problem(lambda: serialization.run_payload(patcher, model, {}, big))
        patcher.cached_patcher_init = None
        problem(lambda: serialization.model_payload(patcher))
    """)
    assert lines[0] == "True True True"
    assert "NotShippable: a part of the graph cannot be sent" in lines[1] and "lock" in lines[1]
    assert lines[2] == "NotShippable: a second model takes part"
    assert lines[3] == "True"
    assert lines[4] == "NotShippable: a ControlNet takes part, whose network is on this machine"
    assert "left no way to load it again" in lines[5]


def test_what_is_not_among_what_a_worker_is_sent_is_named(said: RunCode) -> None:
    """Its picture would lack it."""
    lines = said("""
        from types import SimpleNamespace
        def send(cond, injections={}, **options):
            patcher = SimpleNamespace(injections=injections)
            guider = SimpleNamespace(conds={"positive": [{}, cond], "negative": None}, model_patcher=patcher)
            model, extra_args = SimpleNamespace(inner_model=guider), {"model_options": options}
            problem(lambda: serialization.run_payload(patcher, model, extra_args, None))
        send({}, {"bypass_lora": [object()]})
        send({"hooks": object()})
        send({"gligen": ("position", None, [])})
        send({}, context_handler=object())
    """)
    assert lines == [
        f"NotShippable: {what} not sent to other machines"
        for what in ("LoRAs in bypass mode are", "hooks of a prompt are", "GLIGEN is", "context windows are")
    ]


def test_modules_of_node_packs_are_found_under_this_machines_folder(said: RunCode, tmp_path: Path) -> None:
    folder = tmp_path / "my.host" / "custom_nodes" / "some-pack"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("from .part import Thing\n")
    (folder / "part.py").write_text("class Thing:\n    pass\n")
    lines = said(f"""
        modules = pack_modules.PackModules("/there/ComfyUI", {str(tmp_path / "my.host")!r})
        print(modules("/there/ComfyUI/custom_nodes/some-pack.part").Thing.__name__)
        problem(lambda: modules("/there/ComfyUI/custom_nodes/other-pack.part"))
    """)
    assert lines[0] == "Thing"
    assert lines[1].startswith("WrongSetup: this machine lacks the node pack")
    assert "my.host/custom_nodes/other-pack" in lines[1]


def test_a_worker_keeps_nothing_of_a_run(said: RunCode) -> None:
    """What newer hosts keep for a thread that calls models: nobody else ends that in a worker's process."""
    lines = said("""
        import types
        prefetch = types.ModuleType("comfy.model_prefetch")
        prefetch.PREFETCH_QUEUES = ["of all threads"]
        prefetch.cleanup_malloc_graph = lambda: print("graph")
        prefetch.cleanup_prefetch_queues = lambda: print("queues")
        worker = ray_worker.HostWorker(ray_worker.setup_here(), host)
        own, sys.modules["comfy.model_prefetch"] = sys.modules.get("comfy.model_prefetch"), prefetch
        worker.end()
        sys.modules["comfy.model_prefetch"] = own
    """)
    assert lines == ["graph", "queues"]
