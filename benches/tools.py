"""What the comparisons share: where things are, and how a command is run with a limit."""

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = Path(os.environ["BENCH_TMP"])
HOSTLER = Path(os.environ["BENCH_HOSTLER"])
COST = Path(os.environ["BENCH_COST"])
DRIVE = Path(os.environ["BENCH_DRIVE"])
STREAM = Path(os.environ["BENCH_STREAM"])
TRUE = shutil.which("true", path="/usr/bin:/bin")
DEBIAN_PYTHON = "/usr/bin/python3"


class Failed(Exception):
    """A command did not do what it is measured for; the text says why."""


def output(command, limit=90):
    """Runs a command and returns what it printed; raises Failed with its last words."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"no end after {limit} s") from None
    except OSError as error:
        raise Failed(str(error)) from None
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Failed(f"status {done.returncode}" + (f": {words[-1]}" if words else ""))
    return done.stdout


def cgroup_root():
    """A cgroup v2 directory in which groups can be made, or None."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, kind = line.partition(" - ")
        if not kind.startswith("cgroup2 "):
            continue
        mount = Path(fields.split()[4])
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8")
        inside = [entry[3:].lstrip("/") for entry in own.splitlines() if entry.startswith("0::")]
        for place in [mount / inside[0] if inside else mount, mount]:
            probe = place / f"hostler-bench-probe-{os.getpid()}"
            try:
                probe.mkdir()
            except OSError:
                continue
            usable = (probe / "cgroup.kill").exists()
            probe.rmdir()
            if usable:
                return place
    return None
