"""Set everything up and run all tests.

python scripts/test.py                  all tests, in two processes
python scripts/test.py --setup-only     only prepare .venv, the host and the newest frontend
python scripts/test.py tests/core -x    further arguments go to pytest
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - this is what tells the user
    sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")

import os
from pathlib import Path

if (_SCRIPTS := str(Path(__file__).resolve().parent)) not in sys.path:  # not in front of what the tests have there
    sys.path.insert(0, _SCRIPTS)

from _env import REPO, SetupError, become, enter_venv, say
from _newest_frontend import newest_frontend
from host import prepare

# Many tests wait for servers and clusters, and another process uses the time. tests/conftest.py says what each of the
# two gets, and in which order.
_TWO_PROCESSES = ["-n", "2", "--no-loadscope-reorder"]


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return 0
    try:
        enter_venv()
        host = prepare()
        newest_frontend()
    except SetupError as error:
        say(f"error: {error}")
        return 1
    if "--setup-only" in arguments:
        say(f"ready: .venv, and ComfyUI in {host}")
        return 0
    os.chdir(REPO)
    some = any(Path(argument.split("::")[0]).exists() for argument in arguments)
    return become([sys.executable, "-m", "pytest", *([] if some else _TWO_PROCESSES), *arguments])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
