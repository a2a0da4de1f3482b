"""The host: what sessions cost over its API, beside peers that keep no record and own nothing.

The client is the example `drive` of the crate hostler-gateway: one connection, kept alive, over the host's Unix socket. It
prints `key value` lines; which, is said in its own words.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import terminals
from table import FAILED, NONE, judge, median, notes, percentile, ratio, table, times, us, verdict
from tools import BUILD, DRIVE, HOSTLER, TRUE, Failed, output

CYCLE_LIMIT_US = 3000
CYCLES_LIMIT = 400
CLOSE_LIMIT_US = 2000
LIST_LIMIT_US = 50_000
GROWTH_LIMIT = 30_000
SHUTDOWN_LIMIT = 3
RESTART_LIMIT = 2
PSS_LIMIT = 150_000
HEADS = ["what", "p50", "p90", "target", "result"]
# What a broken-off run leaves goes by itself.
KEEP = json.dumps({"on_host_exit": "keep", "keep_for": 600})


class Host:
    """A host with a state directory of its own."""

    def __init__(self):
        self.dir = Path(tempfile.mkdtemp(prefix="h", dir=BUILD))
        self.process = None
        self.options = []

    def start(self):
        """Starts it; returns at once."""
        places = ["HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"]
        environment = os.environ | {place: str(self.dir) for place in places}
        with open(self.dir / "log", "ab") as log:
            command = [HOSTLER, "serve", "--state-dir", self.dir / "state", "--listen", "none", *self.options]
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def socket(self):
        """Its socket, once it answers there."""
        until = time.monotonic() + 20
        while time.monotonic() < until and self.process.poll() is None:
            for path in self.dir.rglob("*.sock"):
                with contextlib.suppress(Failed):
                    output([DRIVE, path, "list", 1])
                    return path
            time.sleep(0.005)
        raise Failed(f"the host does not answer: {(self.dir / 'log').read_text(errors='replace')[-300:]}")

    def drive(self, *words, limit=90):
        """The numbers that the client prints."""
        return numbers(output([DRIVE, self.socket(), *words], limit))

    def resident(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def whole(self):
        """The proportional memory of the host, its zygote and its keepers, in bytes; not that of what they keep."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                head, _, rest = stat.read_text(errors="replace").rpartition(")")
                parents[int(stat.parent.name)] = (int(rest.split()[1]), head.partition("(")[2])
        mine = {self.process.pid}
        mine |= {pid for pid, (parent, _) in parents.items() if parent == self.process.pid}
        mine |= {pid for pid, (parent, name) in parents.items() if parent in mine and name.startswith("hostler")}
        total = 0
        for pid in mine:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        return total

    def stop(self, how=signal.SIGTERM):
        """Ends it; how long that took, in seconds."""
        began = time.monotonic()
        self.process.send_signal(how)
        self.process.wait(30)
        return time.monotonic() - began


@contextlib.contextmanager
def host(kind=Host):
    one = kind()
    try:
        one.start()
        one.socket()
        yield one
    finally:
        if one.process is not None and one.process.poll() is None:
            try:
                one.stop()
            except subprocess.TimeoutExpired:
                one.stop(signal.SIGKILL)
        shutil.rmtree(one.dir, ignore_errors=True)


def numbers(text):
    return {key: float(value) for key, value in (line.split() for line in text.splitlines())}


def row(what, found, key, limit):
    """A row of times; `limit` is the target of the p50, or None."""
    p50 = found.get(f"{key}_p50_us")
    result = NONE if limit is None else judge(what, p50, limit)
    return [what, us(p50), us(found.get(f"{key}_p90_us")), "" if limit is None else f"≤ {us(limit)}", result]


def failed(what, why, said):
    said.append(f"{what}: {why}")
    return [what, "-", "-", "", verdict(FAILED, what)]


def single(what, value, shown, limit, limit_shown):
    return [what, shown, "", limit_shown, judge(what, value, limit)]


# --- peers: each gives rows, or says why it is left out ---


def clock(rounds, act):
    """The p50 and p90 of doing it, under the key `peer`."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        act()
        took.append((time.perf_counter() - began) * 1e6)
    return {"peer_p50_us": percentile(took, 50), "peer_p90_us": percentile(took, 90)}


def tmux(rounds):
    if not shutil.which("tmux"):
        raise Failed("not installed")
    base = ["tmux", "-L", f"hostler-bench-{os.getpid()}", "-f", "/dev/null"]
    output([*base, "new-session", "-d", "-s", "first", "sleep", "120"])

    def cycle():
        output([*base, "new-session", "-d", "-s", "one", "sleep", "120"])
        output([*base, "kill-session", "-t", "one"])

    try:
        return clock(rounds, cycle)
    finally:
        output([*base, "kill-server"])


def python_asyncio(rounds):
    async def all_of_them():
        took = []
        for _ in range(rounds):
            began = time.perf_counter()
            process = await asyncio.create_subprocess_exec(TRUE)
            await process.wait()
            took.append((time.perf_counter() - began) * 1e6)
        return {"peer_p50_us": percentile(took, 50), "peer_p90_us": percentile(took, 90)}

    return asyncio.run(all_of_them())


def agent_run(rounds):
    body = json.dumps({"command": TRUE, "args": []})
    with terminals.sandbox_server() as address:
        for attempt in range(100):
            try:
                output([DRIVE, address, "post", 1, "/v1/processes/run", body])
                break
            except Failed:
                if attempt == 99:
                    raise
                time.sleep(0.05)
        found = numbers(output([DRIVE, address, "post", rounds, "/v1/processes/run", body]))
        return {"peer_p50_us": found["post_p50_us"], "peer_p90_us": found["post_p90_us"]}


def peer(what, measure, rounds, said):
    """What a peer takes, or nothing with a note."""
    try:
        return measure(rounds)
    except (Failed, OSError) as why:
        said.append(f"{what} left out: {why}")
        return {}


# --- the measurements ---


def work(rounds, said):
    """Times of what clients wait for."""
    rows = []
    agent = peer("sandbox-agent", agent_run, rounds, said)
    with host() as one:
        try:
            found = one.drive("cycles", rounds, 2)
            rows.append(row("open, run `true`, close", found, "cycle", CYCLE_LIMIT_US))
            for part in ["open", "run", "close"]:
                rows.append(row(f"of that: {part}", found, part, None))
            rate = found["cycles_a_second"]
            result = judge("cycles a second", -rate, -CYCLES_LIMIT)
            rows.append(["cycles a second, by two clients", f"{rate:.0f}", "", f"≥ {CYCLES_LIMIT}", result])
        except Failed as why:
            rows.append(failed("open, run `true`, close", why, said))
        try:
            found = one.drive("run", rounds)
            limit = agent.get("peer_p50_us")
            what = "`true` in an open session"
            cells = row(what, found, "run", None)
            cells[3] = "≤ sandbox-agent"
            cells[4] = judge(what, times(found["run_p50_us"], limit), 1)
            rows.append(cells)
        except Failed as why:
            rows.append(failed("`true` in an open session", why, said))
        try:
            found = one.drive("close", max(rounds // 10, 5), 5)
            rows.append(row("close of 5 willing processes", found, "close", CLOSE_LIMIT_US))
        except Failed as why:
            rows.append(failed("close of 5 willing processes", why, said))
    rows.append(row("sandbox-agent: run `true`", agent, "peer", None))
    found = peer("tmux", tmux, max(rounds // 5, 5), said)
    rows.append(row("tmux: new-session, kill-session", found, "peer", None))
    rows.append(row("Python: create_subprocess_exec, wait", python_asyncio(rounds), "peer", None))
    return rows


def throughput(last, turns, said):
    """Terminal output to a client of the API, and through peers, in turn."""
    what = f"terminal, `seq 1 {last}`"
    peers = {
        "script into a pipe": terminals.script,
        "tmux, attached": terminals.tmux_attached,
        "terminado to a WebSocket": terminals.terminado,
    }
    found = {name: [] for name in peers}
    ours = []
    for _ in range(turns):
        try:
            with host() as one:
                ours.append(one.drive("terminal", "hostler.v1", "seq", "1", last)["terminal_mb_s"])
        except Failed as why:
            return [failed(what, why, said)]
        for name, measure in list(peers.items()):
            try:
                found[name].append(measure(last))
            except (Failed, OSError, ValueError) as why:
                said.append(f"{name} left out: {why}")
                del peers[name]
    speeds = {name: median(speed) for name, speed in found.items() if speed}
    best = max(speeds.values(), default=None)
    against = times(best, median(ours))
    rows = [[what, f"{median(ours):.1f} MB/s", "", "≥ the fastest peer", judge(what, against, 1)]]
    rows += [[f"the same, {name}", f"{speed:.1f} MB/s", "", "", NONE] for name, speed in speeds.items()]
    said.append(f"the fastest peer's throughput beside the host's: {ratio(against)}")
    return rows


def many(count, said):
    """A host with many idle sessions."""
    what = f"{count} idle sessions"
    try:
        with host() as one:
            one.drive("cycles", 20, 1)
            before, whole = one.resident(), one.whole()
            one.drive("fill", count, "{}")
            growth = (one.resident() - before) / count
            whole = (one.whole() - whole) / count
            found = one.drive("list", 20)
            if found["running"] != count:
                raise Failed(f"{found['running']:.0f} of {count} run")
            took = one.stop()
    except Failed as why:
        return [failed(what, why, said)]
    return [
        single(f"{what}: the host grows, each", growth, f"{growth / 1000:.1f} kB", GROWTH_LIMIT, f"≤ {GROWTH_LIMIT // 1000} kB"),
        single(f"{what}: host, zygote and keepers, each", whole, f"{whole / 1000:.1f} kB", PSS_LIMIT, f"≤ {PSS_LIMIT // 1000} kB"),
        row(f"{what}: what `ps` asks", found, "list", LIST_LIMIT_US),
        single(f"{what}: shutdown", took, f"{took:.2f} s", SHUTDOWN_LIMIT, f"≤ {SHUTDOWN_LIMIT} s"),
    ]


def restart(count, said):
    """From the start of the next host until it answers for all."""
    what = f"restart after kill -9, {count} kept sessions"
    try:
        with host() as one:
            one.drive("fill", count, KEEP)
            one.stop(signal.SIGKILL)
            began = time.monotonic()
            one.start()
            running = one.drive("list", 1)["running"]
            took = time.monotonic() - began
            if running != count:
                raise Failed(f"{running:.0f} of {count} run")
    except Failed as why:
        return [failed(what, why, said)]
    return [single(what, took, f"{took:.2f} s", RESTART_LIMIT, f"≤ {RESTART_LIMIT} s")]


def compare(quick):
    print("## The host\n")
    said = []
    rows = work(50 if quick else 300, said)
    rows += throughput(1_000_000 if quick else 10_000_000, 1 if quick else 3, said)
    rows += many(100 if quick else 1000, said)
    rows += restart(50 if quick else 500, said)
    table(HEADS, rows)
    notes(list(dict.fromkeys(said)))
