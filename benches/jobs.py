"""Jobs: what a step costs beside what it runs, in a chain and side by side, beside GNU make, Luigi and Prefect; and what many jobs
that have ended cost the next one.
"""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from host import failed, host
from table import NONE, judge, median, notes, table, times, us
from tools import BUILD, HOSTLER, Failed, output

STEP_LIMIT_US = 3000
GROWTH_LIMIT = 1.2
# What a start may take longer, in microseconds: the whole ledger is checked then, up to 64 MB of it.
START_LIMIT_US = 300_000
START = "start of the host"
# Makers of the jobs that are to have ended.
MAKERS = 4
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


PREFECT = """
import subprocess, sys, time
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner
count, chain = int(sys.argv[1]), sys.argv[2] == "chain"
@task
def step(before):
    subprocess.run(["true"], check=True)
    return 0
@flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
def all(count):
    if chain:
        last = None
        for _ in range(count):
            last = step(last)
    else:
        for future in [step.submit(None) for _ in range(count)]:
            future.result()
# Its server, which is started for the first, is not to count.
all(1)
began = time.perf_counter()
all(count)
print(time.perf_counter() - began)
"""


def python_with(name, *packages):
    """A Python that has these packages, in a place of this name that is kept between runs."""
    place = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hostler-bench" / name
    python = place / "bin" / "python"
    if not python.exists():
        done = subprocess.run([sys.executable, "-m", "venv", place], capture_output=True, check=False)
        done = done.returncode == 0 and subprocess.run(
            [place / "bin" / "pip", "install", "-q", *packages], capture_output=True, check=False
        )
        if not done or done.returncode != 0:
            shutil.rmtree(place, ignore_errors=True)
            raise Failed("it cannot be installed")
    return python


def luigi(count, wide_too):
    """Luigi with its own scheduler and one worker, as it runs in a process."""
    python = python_with("luigi", "luigi==3.8.1")
    began = time.perf_counter()
    output([python, "-c", LUIGI, count, "wide" if wide_too else "chain"], 300)
    return (time.perf_counter() - began) * 1e6


def prefect(count, wide_too):
    """Prefect with a server of its own on this machine, which is there when the clock starts. It keeps a record, as we do."""
    python = python_with("prefect", "prefect==3.8.8", "fastapi==0.139.0")
    with tempfile.TemporaryDirectory(dir=BUILD) as place:
        script = Path(place, "steps.py")
        script.write_text(PREFECT, encoding="utf-8")
        settings = {
            "PREFECT_HOME": place,
            "PREFECT_API_URL": "",
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "DO_NOT_TRACK": "1",
        }
        settings = [f"{name}={value}" for name, value in settings.items()]
        said = output(["env", *settings, python, script, count, "wide" if wide_too else "chain"], 580)
        return float(said.split()[-1]) * 1e6


def row(what, count, took, limit=None, name=None):
    each = took / count
    if limit is None:
        return [what, us(each), us(took), "", NONE]
    return [what, us(each), us(took), f"≤ {us(limit)}", judge(name or what, each, limit)]


def steps(count, rounds, said):
    rows = []
    peers = {"GNU make -j2": make, "Luigi, one worker": luigi, "Prefect, its own server": prefect}
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
                for turn in range(rounds):
                    ours.append(run(connection, flow, **inputs))
                    for name, peer in list(peers.items()):
                        # So slow that one turn says it.
                        if turn and peer is prefect:
                            continue
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


def end_many(one, count):
    """Makes this many jobs, which end at once; waits for the last."""
    flow = "name: empty\nsteps: { a: { sleep: 0ms } }\n"

    def make_some(some):
        connection = Unix(one.socket())
        for _ in range(some):
            job = ask(connection, "POST", "/v1/jobs", {"flow": flow, "cwd": "/"})["id"]
            ask(connection, "GET", f"/v1/jobs/{job}/wait?brief=true")

    began = time.perf_counter()
    shares = [count // MAKERS + (n < count % MAKERS) for n in range(MAKERS)]
    with ThreadPoolExecutor(MAKERS) as pool:
        for made in [pool.submit(make_some, share) for share in shares]:
            made.result()
    return time.perf_counter() - began


def command(one, *words):
    """How long a client takes, in microseconds; at best."""
    took = []
    for _ in range(10):
        began = time.perf_counter()
        output([HOSTLER, *words, "--state-dir", one.dir / "state"])
        took.append((time.perf_counter() - began) * 1e6)
    return min(took)


def look(one, long, rounds):
    """What is to be the same, however many have ended: in microseconds, at best, for what else the machine does is not meant."""
    connection = Unix(one.socket())
    run(connection, chain(1))
    seen = {
        "a job of 1 step": min(run(connection, chain(1)) for _ in range(10 * rounds)),
        f"a job of {long} steps": min(run(connection, chain(long)) for _ in range(rounds)),
        "`job ls`": command(one, "job", "ls"),
        "`job ls -a -n 50`": command(one, "job", "ls", "-a", "-n", "50"),
    }
    connection.close()
    starts = []
    for _ in range(5):
        one.stop()
        began = time.perf_counter()
        one.start()
        one.socket()
        starts.append((time.perf_counter() - began) * 1e6)
    seen[START] = min(starts)
    return seen, one.resident()


def grown(finished, long, rounds, said):
    """New jobs, listings and a start of the host beside many jobs that have ended."""
    what = f"beside {finished} jobs that have ended"
    try:
        with host() as one:
            before, small = look(one, long, rounds)
            took = end_many(one, finished)
            grew = one.resident()
            after, large = look(one, long, rounds)
            every = command(one, "job", "ls", "-a")
    except Failed as why:
        return [failed(what, why, said)]
    said.append(
        f"{finished} jobs of one step that does nothing, over the API by {MAKERS} clients: {took:.0f} s. The host's memory: "
        f"{small >> 20} MB after its start with none, {grew >> 20} MB when it has made them, {large >> 20} MB after its start with them. "
        f"A list of all of them (`job ls -a`) takes {us(every)}."
    )
    rows = []
    for name, base in before.items():
        if name == START:
            more = after[name] - base
            rows.append([f"{name} {what}", us(base), us(after[name]), f"≤ {us(START_LIMIT_US)} more", judge(f"{name} {what}", more, START_LIMIT_US)])
            continue
        growth = times(after[name], base)
        rows.append([f"{name} {what}", us(base), us(after[name]), f"≤ {GROWTH_LIMIT} ×", judge(f"{name} {what}", growth, GROWTH_LIMIT)])
    return rows


def compare(quick):
    said = []
    print("### Jobs\n")
    table(HEADS, steps(200 if quick else 1000, 1 if quick else 3, said))
    rows = grown(1000 if quick else 10_000, 200 if quick else 1000, 1 if quick else 5, said)
    table(["what", "with none", "with them", "target", "result"], rows)
    notes(said)
