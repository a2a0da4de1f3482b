"""Jobs: what a step costs beside what it runs, in a chain and side by side, and beside GNU make and Luigi."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from host import failed, host
from table import NONE, judge, median, notes, table, times, us
from tools import BUILD, Failed, output

STEP_LIMIT_US = 3000
GROWTH_LIMIT = 1.2
HEADS = ["what", "a step", "in all", "target", "result"]


class Unix(http.client.HTTPConnection):
    """HTTP over the host's socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=300)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(connection, method, path, body=None):
    connection.request(method, path, json.dumps(body) if body is not None else None)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status >= 300:
        raise Failed(f"{method} {path}: {answer.status} {text[:200].decode(errors='replace')}")
    return json.loads(text or b"null")


def chain(count):
    steps = [f"  s{n}: {{ command: {{ argv: ['true'] }}{f', after: s{n - 1}' if n else ''} }}" for n in range(count)]
    return "name: chain\nsteps:\n" + "\n".join(steps) + "\n"


WIDE = """name: wide
inputs: { all: { items: integer } }
steps:
  each: { for_each: { in: $job.all, parallel: 2 }, command: { argv: ['true'] } }
"""


def run(connection, flow, **inputs):
    """From the request to the job's end, with all of it gone; in microseconds."""
    began = time.perf_counter()
    job = ask(connection, "POST", "/v1/jobs", {"flow": flow, "cwd": "/", "inputs": inputs})["id"]
    ended = ask(connection, "GET", f"/v1/jobs/{job}/wait")
    took = (time.perf_counter() - began) * 1e6
    if ended["state"] != "completed":
        raise Failed(f"the job {ended['state']}: {ended.get('why')}")
    return took


def make(count, wide_too):
    """GNU make with a makefile of `true`s."""
    if not shutil.which("make"):
        raise Failed("make is not installed")
    with tempfile.TemporaryDirectory(dir=BUILD) as place:
        names = [f"s{n}" for n in range(count)]
        lines = [f".PHONY: all {' '.join(names)}", f"all: {' '.join(names)}"]
        for n, name in enumerate(names):
            lines.append(f"{name}:{'' if wide_too or not n else ' ' + names[n - 1]}\n\t@/bin/true")
        Path(place, "Makefile").write_text("\n".join(lines) + "\n", encoding="utf-8")
        began = time.perf_counter()
        output(["make", "-s", "-j2", "-C", place], 120)
        return (time.perf_counter() - began) * 1e6


LUIGI = """
import luigi, subprocess, sys
class Step(luigi.Task):
    n = luigi.IntParameter()
    chain = luigi.BoolParameter()
    done = False
    def requires(self):
        return [Step(n=self.n - 1, chain=True)] if self.chain and self.n else []
    def run(self):
        subprocess.run(["true"], check=True)
        type(self).finished.add(self.n)
    def complete(self):
        return self.n in type(self).finished
Step.finished = set()
count, chain = int(sys.argv[1]), sys.argv[2] == "chain"
tasks = [Step(n=count - 1, chain=True)] if chain else [Step(n=n, chain=False) for n in range(count)]
sys.setrecursionlimit(100000)
sys.exit(0 if luigi.build(tasks, local_scheduler=True, workers=1, log_level="ERROR") else 1)
"""


def luigi_python():
    """A Python that has Luigi, in a place that is kept between runs."""
    place = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hostler-bench" / "luigi"
    python = place / "bin" / "python"
    if not python.exists():
        done = subprocess.run([sys.executable, "-m", "venv", place], capture_output=True, check=False)
        done = done.returncode == 0 and subprocess.run(
            [place / "bin" / "pip", "install", "-q", "luigi==3.8.1"], capture_output=True, check=False
        )
        if not done or done.returncode != 0:
            shutil.rmtree(place, ignore_errors=True)
            raise Failed("it cannot be installed")
    return python


def luigi(count, wide_too):
    """Luigi with its own scheduler and one worker, as it runs in a process."""
    python = luigi_python()
    began = time.perf_counter()
    output([python, "-c", LUIGI, count, "wide" if wide_too else "chain"], 300)
    return (time.perf_counter() - began) * 1e6


def row(what, count, took, limit=None, name=None):
    each = took / count
    if limit is None:
        return [what, us(each), us(took), "", NONE]
    return [what, us(each), us(took), f"≤ {us(limit)}", judge(name or what, each, limit)]


def steps(count, rounds, said):
    rows = []
    peers = {"GNU make -j2": make, "Luigi, one worker": luigi}
    kinds = [
        ("in a chain", chain(count), {}, False),
        # As many at once as there are processors on a small machine.
        ("two at a time", WIDE, {"all": list(range(count))}, True),
    ]
    for what, flow, inputs, is_wide in kinds:
        ours, theirs = [], {name: [] for name in peers}
        try:
            with host() as one:
                connection = Unix(one.socket())
                run(connection, chain(10))
                for _ in range(rounds):
                    ours.append(run(connection, flow, **inputs))
                    for name, peer in list(peers.items()):
                        try:
                            theirs[name].append(peer(count, is_wide))
                        except Failed as why:
                            said.append(f"{name} left out: {why}")
                            del peers[name]
        except Failed as why:
            rows.append(failed(f"{count} steps of `true` {what}", why, said))
            continue
        rows.append(row(f"{count} steps of `true` {what}", count, median(ours), STEP_LIMIT_US))
        for name, took in theirs.items():
            if took:
                rows.append(row(f"the same, {name}", count, median(took)))
    return rows


def grown(finished, rounds, said):
    """A new job beside many that have ended."""
    what = f"a job of 20 steps beside {finished} that have ended"
    try:
        with host() as one:
            connection = Unix(one.socket())
            flow = chain(20)
            run(connection, flow)
            before = median([run(connection, flow) for _ in range(rounds)])
            empty = "name: empty\nsteps: { a: { sleep: 0s } }\n"
            for _ in range(finished):
                job = ask(connection, "POST", "/v1/jobs", {"flow": empty, "cwd": "/"})["id"]
                ask(connection, "GET", f"/v1/jobs/{job}/wait")
            after = median([run(connection, flow) for _ in range(rounds)])
            began = time.perf_counter()
            ask(connection, "GET", "/v1/jobs?limit=20")
            listed = (time.perf_counter() - began) * 1e6
    except Failed as why:
        return [failed(what, why, said)]
    growth = times(after, before)
    said.append(f"{what}: {us(before)} before, {us(after)} after; a list of the 20 newest takes {us(listed)}")
    return [[what, us(after / 20), us(after), f"≤ {GROWTH_LIMIT} × before", judge(what, growth, GROWTH_LIMIT)]]


def compare(quick):
    said = []
    print("### Jobs\n")
    rows = steps(200 if quick else 1000, 1 if quick else 3, said)
    rows += grown(500 if quick else 10_000, 3 if quick else 9, said)
    table(HEADS, rows)
    notes(said)
