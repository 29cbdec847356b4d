"""Runs a program that must not outlive its worker.

    python guard.py PROGRAM ARGUMENT ...

The worker holds the other end of our standard input. When it is gone, however it died, this process
and all that it started end at once: a job that Dask gives to another worker is then run once and
not twice, and a board is free. Standard library only, so that it starts quickly.
"""

import os
import signal
import subprocess
import sys
import threading


def _end_with_the_worker() -> None:
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Run the program; leave with its exit code, or 128 and the number of the signal it died of."""
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    # What else is open is a lock on the device: held until the last of them has ended.
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, close_fds=False)
    code = process.wait()
    sys.stdout.flush()
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
