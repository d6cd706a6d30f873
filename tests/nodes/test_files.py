"""Files that are written whole or not at all, and changed by one process at a time."""

from __future__ import annotations

import importlib
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX only")


@pytest.fixture(scope="module")
def files(repo: Path) -> ModuleType:
    """The module, without the others of its folder, which need a host."""
    package = ModuleType("chords_host")
    package.__path__ = [str(repo / "nodes" / "host")]
    sys.modules.setdefault(package.__name__, package)
    return importlib.import_module("chords_host.files")


def test_a_file_is_replaced_whole(files: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    for content, sync in ((b"first", False), (b"x" * 100_000, True)):
        files.write_whole(path, content, sync=sync)
        assert path.read_bytes() == content
    assert [item.name for item in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("step", ["replace", "chmod", "open"])
def test_whatever_fails_the_old_file_stays(
    files: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def broken(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    if step == "open":
        monkeypatch.setattr(Path, "open", broken)
    else:
        monkeypatch.setattr(os, step, broken)
    with pytest.raises(KeyboardInterrupt):
        files.write_whole(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    files.write_whole(Path(sys.argv[2]), b"x" * 100_000)
except OSError as error:
    print("refused")
"""


@posix
def test_a_full_disk_leaves_the_old_file_and_nothing_else(repo: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", FULL, str(repo / "nodes" / "host"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "refused"
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@posix
def test_links_and_permissions_stay(files: ModuleType, tmp_path: Path) -> None:
    target, link = tmp_path / "elsewhere" / "a.json", tmp_path / "a.json"
    target.parent.mkdir()
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    files.write_whole(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


COUNT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import files
path = Path(sys.argv[2])
for _ in range(50):
    with files.locked(path.with_name("count.lock"), 60):
        files.write_whole(path, str(int(path.read_bytes()) + 1).encode())
"""


@posix
def test_what_is_no_file_is_written_to_and_stays(files: ModuleType, tmp_path: Path) -> None:
    """A person who names /dev/null for a file must not lose it for the whole machine."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        found = reader.submit(pipe.read_bytes)
        files.write_whole(pipe, b"content")
        assert stat.S_ISFIFO(pipe.stat().st_mode) and found.result() == b"content"


def test_several_processes_take_turns(repo: Path, tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_bytes(b"0")
    command = [sys.executable, "-c", COUNT, str(repo / "nodes" / "host"), str(path)]
    running = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert path.read_bytes() == b"150"


def test_a_lock_that_another_keeps_is_not_waited_for_without_end(files: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.lock"
    with files.locked(path, 1.0):
        with pytest.raises(TimeoutError, match=r"a\.lock"), files.locked(path, 0.05):
            pass
    with files.locked(path, 1.0):
        pass
