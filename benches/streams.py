"""What comes between an agent's write and a client's socket, by any protocol, beside a bare relay: for `agents.py` and `ahp.py`.

The agent, the relay, the clients and the clocks are the example `stream` of the crate hostler-gateway (benches/stream), which prints
`key value` lines; which, is said in its own words.
"""

import contextlib
import os
import subprocess
import time

import host
from table import FAILED, NONE, SKIP, judge, median, ratio, times, us, verdict
from tools import BUILD, STREAM, Failed, output

HEADS = ["what", "hostler", "bare relay", "hostler / relay", "target", "result"]


def stream(*words, limit=175):
    """The numbers that it prints; what is no number is left as it is."""
    found = {}
    for line in output([STREAM, *words], limit).splitlines():
        key, _, value = line.partition(" ")
        try:
            found[key] = float(value)
        except ValueError:
            found[key] = value
    return found


class AgentHost(host.Host):
    """A host with two agents that say when they said it: one that is started when it is needed, and one that is kept ahead."""

    def __init__(self):
        super().__init__()
        self.notes = self.dir / "notes"
        command = f"command = ['{STREAM}', 'agent']"
        warm = f"{command}\nwarm = 1\nenv = {{ BENCH_READY = '{self.notes}' }}"
        (self.dir / "config.toml").write_text(f"[agents.bench]\n{command}\n[agents.warm]\n{warm}\n", encoding="utf-8")
        self.options = ["--config", self.dir / "config.toml"]


@contextlib.contextmanager
def relay():
    """The socket of a bare relay."""
    path = BUILD / f"relay-{os.getpid()}"
    process = subprocess.Popen([STREAM, "relay", path], stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while not path.exists():
            if time.monotonic() > until or process.poll() is not None:
                raise Failed("the relay does not come up")
            time.sleep(0.01)
        yield path
    finally:
        process.kill()
        process.wait()
        path.unlink(missing_ok=True)


def turns(count, measures):
    """Calls each by turns, so many times: the median of each number, by name; and why one has failed."""
    found, failed = {name: [] for name in measures}, {}
    for _ in range(count):
        for name, measure in measures.items():
            if name in failed:
                continue
            try:
                found[name].append(measure())
            except Failed as why:
                failed[name] = str(why)
    medians = {}
    for name, all_of_it in found.items():
        keys = all_of_it[0] if all_of_it else {}
        medians[name] = {key: median([one[key] for one in all_of_it]) for key in keys}
    return medians, failed


def both(what, key, found, limit, more=True):
    """A row of a number of the host and of the relay. `limit`: in microseconds, the most that is wanted."""
    ours, bare = found["host"].get(key), found.get("relay", {}).get(key)
    result = NONE if limit is None else judge(what, ours, limit)
    shown = "" if limit is None else f"≤ {us(limit)}"
    return [what, us(ours), us(bare) if more else "", ratio(times(ours, bare)) if more else "", shown, result]


def broken(what, failed, said):
    said += [f"{what}, {name}: {why}" for name, why in failed.items()]
    return [what, "-", "-", "", "", verdict(FAILED, what)]


def tokens(protocol, one, bare, p50, p99, quick, said):
    """From the agent's write to the client's socket. The targets are in microseconds."""
    rows = []
    shapes = [(1, 300 if quick else 2000, 2000), (100, 20 if quick else 100, 100_000)]
    for sessions, each, pause in shapes:
        what = f"{protocol}: a token, {sessions} sessions, {sessions * 1_000_000 // pause} a second"
        words = [sessions, each, pause]
        measures = {
            "relay": lambda words=words: stream("tokens", "bare", bare, *words),
            "host": lambda words=words: stream("tokens", protocol, one.socket(), *words),
        }
        found, failed = turns(1 if quick else 3, measures)
        if failed:
            rows.append(broken(what, failed, said))
            continue
        rows.append(both(f"{what}: p50", "token_p50_us", found, p50))
        rows.append(both(f"{what}: p99", "token_p99_us", found, p99))
    return rows


def rate(protocol, one, bare, limit, quick, said):
    """Updates a second of agents that write as fast as they can. `limit`: the least that is wanted, or None."""
    rows = []
    for sessions, each in [(1, 20_000 if quick else 200_000), (10, 5000 if quick else 40_000)]:
        what = f"{protocol}: updates a second, {sessions} sessions with a client each"
        words = [sessions, each]
        measures = {
            "relay": lambda words=words: stream("rate", "bare", bare, *words),
            "host": lambda words=words: stream("rate", protocol, one.socket(), *words),
        }
        found, failed = turns(1 if quick else 3, measures)
        if failed:
            rows.append(broken(what, failed, said))
            continue
        ours, most = (found[name]["updates_a_second"] for name in ["host", "relay"])
        result = NONE if limit is None else judge(what, -ours, -limit)
        shown = "" if limit is None else f"≥ {limit:,}"
        rows.append([what, f"{ours:,.0f}", f"{most:,.0f}", ratio(times(ours, most)), shown, result])
    return rows


def sharing(protocol, one, limit, quick, said):
    """20 clients on one session beside one: by the clock, with the clients' own work, and by the host's processor time."""
    what = f"{protocol}: 20 clients on one session beside 1"
    words = [2000 if quick else 20_000, 2 if quick else 5]

    def measure(clients):
        return stream("share", protocol, one.socket(), clients, *words, one.process.pid)

    found, failed = turns(1 if quick else 3, {"one": lambda: measure(1), "twenty": lambda: measure(20)})
    if failed:
        return [broken(what, failed, said)]
    rows = []
    for kind, key in [("time", "wall_us"), ("the host's processor time", "cpu_us")]:
        few, many = found["one"][key], found["twenty"][key]
        cost = times(many, few)
        cells = [f"{what}, {kind}", ratio(cost), "", "", f"≤ {limit}"]
        if quick and key == "cpu_us":
            # It is counted in hundredths of a second.
            rows.append([*cells, SKIP])
            continue
        rows.append([*cells, judge(cells[0], cost, limit)])
        said.append(f"{what}, {kind}: {us(few)} with one, {us(many)} with twenty")
    return rows
