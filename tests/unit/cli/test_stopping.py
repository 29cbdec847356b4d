"""A verb that is stopped by a signal leaves nothing running and nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

#: a verb at work: a temporary folder, a process, and one that this process started in a session
#: of its own, which no kill of a group reaches. Under nohup, or in the background of a script, the
#: tests are started with signals ignored, which their children would inherit.
AT_WORK = """
import signal, subprocess, sys, tempfile, time
from edgemtl.cli.stopping import ending_cleanly
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
CHILD = (
    "import subprocess, sys, time;"
    f"p = subprocess.Popen({SLEEP!r}, start_new_session=True);"
    "print(p.pid, flush=True); time.sleep(600)"
)
with ending_cleanly():
    with tempfile.TemporaryDirectory(dir=sys.argv[1]):
        with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE) as child:
            try:
                print(child.pid, child.stdout.readline().decode(), flush=True)
                time.sleep(600)
            finally:
                child.kill()
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, -2)]
)
def test_signals_end_what_was_started(number: signal.Signals, code: int, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", AT_WORK, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as verb:
        try:
            assert verb.stdout is not None
            started = [psutil.Process(int(pid)) for pid in verb.stdout.readline().split()]
            assert len(started) == 2
            verb.send_signal(number)
            if number is not signal.SIGINT:
                verb.send_signal(number)  # as 'timeout' does: to the group, then to the process
            assert verb.wait(30) == code
            assert list(tmp_path.iterdir()) == []
            _, alive = psutil.wait_procs(started, timeout=10)
            assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
        finally:
            verb.kill()


def test_what_is_ignored_stays_ignored() -> None:
    program = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from edgemtl.cli.stopping import ending_cleanly\n"
        "with ending_cleanly():\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "print('went on')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "went on\n" and done.returncode == 0


def test_a_whole_verb_leaves_with_143() -> None:
    program = (
        "import sys, time\n"
        "from edgemtl.cli import main\n"
        "sys.argv = ['edgemtl', 'version-that-waits']\n"
        "@main.app.command('version-that-waits')\n"
        "def waits() -> None:\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
        "main.main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as verb:
        try:
            assert verb.stdout is not None and verb.stdout.readline() == "ready\n"
            began = time.monotonic()
            verb.terminate()
            assert verb.wait(30) == 143 and time.monotonic() - began < 30
            assert verb.stderr is not None and "Traceback" not in verb.stderr.read()
        finally:
            verb.kill()
