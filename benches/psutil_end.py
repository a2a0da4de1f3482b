"""End a tree the usual way: psutil's recursive list of children, terminate, wait, kill.

usage: psutil_end.py COMMAND...

Starts COMMAND, waits for the byte with which it says that its tree stands, ends the tree and prints one line: the
monotonic clock in nanoseconds before and after.
"""

import subprocess
import sys
import time

import psutil

GRACE_SECONDS = 5


def each(processes, act):
    for process in processes:
        try:
            act(process)
        except psutil.NoSuchProcess:
            pass


def main():
    with subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        if child.stdout.read(1) != b"x":
            sys.exit("psutil_end: the tree did not come up")
        start = time.monotonic_ns()
        root = psutil.Process(child.pid)
        processes = root.children(recursive=True) + [root]
        each(processes, psutil.Process.terminate)
        _, alive = psutil.wait_procs(processes, timeout=GRACE_SECONDS)
        each(alive, psutil.Process.kill)
        psutil.wait_procs(alive, timeout=GRACE_SECONDS)
        end = time.monotonic_ns()
        # What escaped still holds the pipe's other end, but nobody reads it any more: the pipe is closed on exit.
    print(start, end, flush=True)


if __name__ == "__main__":
    main()
