"""Ends what a broken-off measurement left: the processes with HOSTLER_TEST_MARK=MARK in their environment.

usage: sweep.py MARK
"""

import os
import signal
import sys


def marked(pid, entry):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return entry in file.read().split(b"\0")
    except OSError:
        return False


def main():
    entry = b"HOSTLER_TEST_MARK=" + sys.argv[1].encode()
    # What is being killed can fork once more before it dies.
    for _ in range(10):
        found = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if not marked(pid, entry):
                continue
            try:
                handle = os.pidfd_open(int(pid))
            except OSError:
                continue
            # Looked at again now that the handle holds the process, so that no recycled pid is hit.
            if marked(pid, entry):
                found += 1
                try:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                except OSError:
                    pass
            os.close(handle)
        if not found:
            return


if __name__ == "__main__":
    main()
