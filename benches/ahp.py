"""Clients of the Agent Host Protocol: what they are told, how soon, and what joining costs; and terminals by it, beside peers."""

import host
import terminals
from streams import HEADS, AgentHost, broken, rate, relay, sharing, stream, tokens
from table import FAILED, NONE, judge, median, notes, ratio, table, times, us, verdict
from tools import Failed

P50_LIMIT_US = 200
P99_LIMIT_US = 3000
SHARING_LIMIT = 5
SNAPSHOT_LIMIT_US = 20_000
WINDOW = 50


def snapshots(one, quick, said):
    """What it costs to join a session with a long past, with a window of its last turns."""
    count = 1000 if quick else 10_000
    what = f"ahp: snapshot of {count:,} turns, window of {WINDOW}"
    rounds = 5 if quick else 20
    try:
        name = stream("history", one.socket(), count)["session"]
        chat = f"ahp-chat:/{name}"
        # What follows within the grace (30 s) finds what the one before has made whole.
        first = stream("join", one.socket(), chat, WINDOW, rounds)
        beside = stream("join", one.socket(), chat, WINDOW, rounds, "whole")
        whole = stream("join", one.socket(), chat, 0, rounds)
    except Failed as why:
        return [broken(what, {"host": why}, said)]
    for found, wanted in [(first, WINDOW), (beside, WINDOW), (whole, count)]:
        if found["turns"] != wanted:
            return [broken(what, {"host": f"{found['turns']:.0f} turns came, {wanted} were asked for"}, said)]

    def row(name, value, limit=None):
        shown = "" if limit is None else f"≤ {us(limit)}"
        return [name, us(value), "", "", shown, NONE if limit is None else judge(name, value, limit)]

    try:
        stall = stream("stall", one.socket(), chat, rounds)
    except Failed as why:
        return [broken(what, {"host": why}, said)]
    said.append(f"a snapshot with {WINDOW} turns has {first['bytes'] / 1e3:.0f} kB, one with {count:,} {whole['bytes'] / 1e6:.1f} MB")
    return [
        row(f"{what}: from the ledger, nobody follows", first["first_us"], SNAPSHOT_LIMIT_US),
        row(f"{what}: others have joined so, p50", first["join_p50_us"], SNAPSHOT_LIMIT_US),
        row(f"{what}: somebody has all of it, longest of {rounds}", beside["join_max_us"], SNAPSHOT_LIMIT_US),
        row(f"ahp: snapshot with all {count:,} turns, p50", whole["join_p50_us"]),
        row("ahp: another session's tokens meanwhile, p50", stall["token_p50_us"]),
        row("ahp: another session's tokens meanwhile, longest", stall["token_max_us"]),
        row("ahp: the host's first client, with that past to be read", first["initialize_us"]),
    ]


def terminal(last, rounds, said):
    """`seq` in a terminal, to a client on a WebSocket, by turns with the peers."""
    what = f"ahp: terminal, `seq 1 {last}`"
    peers = {
        "terminado": terminals.terminado,
        "node-pty and ws": terminals.node_pty,
        "sandbox-agent": terminals.sandbox_agent,
    }
    found = {name: [] for name in peers}
    ours = []
    for _ in range(rounds):
        try:
            with host.host() as one:
                ours.append(stream("terminal", one.socket(), last)["terminal_mb_s"])
        except Failed as why:
            return [broken(what, {"host": why}, said)]
        for name, measure in list(peers.items()):
            try:
                found[name].append(measure(last))
            except (Failed, OSError, ValueError) as why:
                said.append(f"{name} left out: {why}")
                del peers[name]
    speeds = {name: median(all_of_it) for name, all_of_it in found.items() if all_of_it}
    best = max(speeds.values(), default=None)
    against = times(best, median(ours))
    rows = [[what, f"{median(ours):.1f} MB/s", "", "", "≥ the fastest peer", judge(what, against, 1)]]
    rows += [[f"the same, {name}", f"{speed:.1f} MB/s", "", "", "", NONE] for name, speed in speeds.items()]
    said.append(f"the fastest peer's throughput beside the host's: {ratio(against)}")
    return rows


def compare(quick):
    print("## Clients of the Agent Host Protocol\n")
    said = []
    rows = []
    try:
        with host.host(AgentHost) as one, relay() as bare:
            rows += tokens("ahp", one, bare, P50_LIMIT_US, P99_LIMIT_US, quick, said)
            rows += rate("ahp", one, bare, None, quick, said)
            rows += sharing("ahp", one, SHARING_LIMIT, quick, said)
        # A host of its own: whose first client of AHP comes when the past is there.
        with host.host(AgentHost) as one:
            rows += snapshots(one, quick, said)
    except Failed as why:
        said.append(str(why))
        rows.append(["ahp", "-", "-", "", "", verdict(FAILED, "ahp")])
    rows += terminal(1_000_000 if quick else 10_000_000, 1 if quick else 3, said)
    table(HEADS, rows)
    notes(list(dict.fromkeys(said)))
