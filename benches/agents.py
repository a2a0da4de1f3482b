"""Agents: what Hostler adds to what they say on its way to a client of ACP, with the ledger on."""

import host
import terminals
from streams import HEADS, AgentHost, both, broken, rate, relay, sharing, stream, tokens, turns
from table import FAILED, notes, table, us, verdict
from tools import Failed

P50_LIMIT_US = 150
P99_LIMIT_US = 2000
RATE_LIMIT = 200_000
SHARING_LIMIT = 5
FIRST_LIMIT_US = 5000


def first(one, bare, quick, said):
    """From `session/new` to the first token: with an agent that is kept ahead, beside a relay whose agent is up, too."""
    what = "acp: session/new to the first token, warm agent"
    rounds = 5 if quick else 20
    measures = {
        "relay": lambda: stream("first", "bare", bare, "bench", rounds),
        "host": lambda: stream("first", "acp", one.socket(), "warm", rounds, one.notes),
        "cold": lambda: stream("first", "acp", one.socket(), "bench", rounds),
    }
    found, failed = turns(1, measures)
    if failed:
        return [broken(what, failed, said)]
    rows = [both(f"{what}: p50", "first_p50_us", found, FIRST_LIMIT_US)]
    rows.append(both(f"{what}: longest", "first_max_us", found, None))
    cold = found["cold"]["first_p50_us"]
    rows.append(["the same, with an agent that is started for it: p50", us(cold), "", "", "", ""])
    return rows


def sandbox(quick, said):
    """The same of sandbox-agent, which keeps no record: server-sent events of one agent, and of a hundred."""
    try:
        with terminals.sandbox_server() as address:
            terminals.posted(address, "/v1/processes", {"command": "/bin/true", "args": []})
            one = stream("sandbox", address, 1, 300 if quick else 2000, 2000)
            many = stream("sandbox", address, 100, 20 if quick else 100, 100_000)
            most = stream("sandbox", address, 1, 20_000 if quick else 200_000, 0)
    except (Failed, OSError) as why:
        said.append(f"sandbox-agent left out: {why}")
        return []
    rows = []
    for name, found in [("1 session", one), ("100 sessions", many)]:
        for percent in ["p50", "p99"]:
            rows.append([f"sandbox-agent: a token, {name}: {percent}", us(found[f"token_{percent}_us"]), "", "", "", ""])
    return [*rows, ["sandbox-agent: updates a second, 1 session", f"{most['updates_a_second']:,.0f}", "", "", "", ""]]


def compare(quick):
    print("## Agents\n")
    said = []
    rows = []
    try:
        with host.host(AgentHost) as one, relay() as bare:
            rows += tokens("acp", one, bare, P50_LIMIT_US, P99_LIMIT_US, quick, said)
            rows += rate("acp", one, bare, RATE_LIMIT, quick, said)
            rows += sharing("acp", one, SHARING_LIMIT, quick, said)
            rows += first(one, bare, quick, said)
    except Failed as why:
        said.append(str(why))
        rows.append(["agents", "-", "-", "", "", verdict(FAILED, "agents")])
    rows += sandbox(quick, said)
    table(HEADS, rows)
    notes(said)
