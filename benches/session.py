"""What a session costs: a keeper's memory, its start, and a spawn through it beside a bare posix_spawn.

The measurements of Hostler come from an example program of the crate hostler-keeper, which prints `key value` lines:

    cost keepers N                  private_dirty_bytes, page_table_bytes: averages over N living keepers
    cost ready N                    ready_p50_us, ready_p90_us: from asking the zygote until the keeper answers
    cost spawn N --resident SIZE    spawn_p50_us, spawn_p90_us: from asking the keeper until it says the program runs;
                                    wall_p50_us, wall_p90_us: until its exit has been told; the asking process has SIZE
                                    of memory resident
"""

from pathlib import Path

from table import FAILED, NONE, judge, median, notes, ratio, table, times, us, verdict
from tools import BUILD, COST, TRUE, Failed, output

MEMORY_LIMIT = 200_000
READY_LIMIT_US = 300
SPAWN_LIMIT = 1.3
RESIDENT_LIMIT = 1.1
HEADS = ["what", "p50", "p90", "beside", "ratio", "target", "result"]


def ask(*arguments):
    """Runs the cost program and returns its numbers by key."""
    numbers = {}
    for line in output([COST, *arguments]).splitlines():
        words = line.split()
        if len(words) == 2:
            try:
                numbers[words[0]] = float(words[1])
            except ValueError:
                pass
    return numbers


def need(numbers, *keys):
    """The numbers of these keys; raises Failed for one that was not printed."""
    for key in keys:
        if key not in numbers:
            raise Failed(f"it did not print `{key}`")
    return [numbers[key] for key in keys]


def bare(rounds):
    """posix_spawn of `true` from a small C program: the same keys as `cost spawn`."""
    line = output([BUILD / "spawn", rounds, 20, f"true={TRUE}"]).split()
    return dict(zip(["wall_p50_us", "wall_p90_us", "spawn_p50_us", "spawn_p90_us"], map(float, line[1:5])))


def available_bytes():
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def memory(keepers, said):
    """The row on a keeper's memory."""
    name, what = "memory a keeper", f"memory a keeper, average of {keepers}"
    try:
        dirty, pages = need(ask("keepers", keepers), "private_dirty_bytes", "page_table_bytes")
    except Failed as why:
        said.append(f"{what}: {why}")
        return [what, "-", "", "", "", f"≤ {MEMORY_LIMIT // 1000} kB", verdict(FAILED, name)]
    said.append(f"a keeper's memory: {dirty / 1000:.0f} kB private dirty, {pages / 1000:.0f} kB page tables")
    total = dirty + pages
    result = judge(name, total, MEMORY_LIMIT)
    return [what, f"{total / 1000:.0f} kB", "", "", "", f"≤ {MEMORY_LIMIT // 1000} kB", result]


def ready(rounds, said):
    """The row on a keeper's start."""
    name, what = "keeper ready", "keeper: fork to ready"
    try:
        p50, p90 = need(ask("ready", rounds), "ready_p50_us", "ready_p90_us")
    except Failed as why:
        said.append(f"{what}: {why}")
        return [what, "-", "-", "", "", f"≤ {READY_LIMIT_US} µs", verdict(FAILED, name)]
    return [what, us(p50), us(p90), "", "", f"≤ {READY_LIMIT_US} µs", judge(name, p50, READY_LIMIT_US)]


def spawns(turns, rounds, said):
    """Rows on spawning: bare, and through a keeper at each resident size, in turn; medians over the turns."""
    sizes = ["20M", "2G"]
    if available_bytes() < 3 << 30:
        sizes.remove("2G")
        said.append("2 GB resident left out: less than 3 GiB of memory available")
    seen = {"bare": [], "20M": [], "2G": []}
    wrong = {}
    for _ in range(turns):
        seen["bare"].append(bare(rounds))
        for size in sizes:
            if size in wrong:
                continue
            try:
                keys = list(seen["bare"][0])
                seen[size].append(dict(zip(keys, need(ask("spawn", rounds, "--resident", size), *keys))))
            except Failed as why:
                wrong[size] = why
    said.extend(f"spawn through a keeper, {size} resident: {why}" for size, why in wrong.items())

    def value(who, key):
        return median([one[key] for one in seen[who]])

    rows = []
    for kind, words in [("spawn", "until it runs"), ("wall", "until its end is known")]:
        p50 = f"{kind}_p50_us"
        base = value("bare", p50)
        rows.append([f"bare posix_spawn, {words}", us(base), us(value("bare", f"{kind}_p90_us")), "", "", "", NONE])
        for size in ["20M", "2G"]:
            mine = value(size, p50)
            name = f"spawn {words}, {size} resident"
            against = times(mine, base)
            result = verdict(FAILED, name) if size in wrong else judge(name, against, SPAWN_LIMIT)
            target = f"≤ {SPAWN_LIMIT}"
            cells = [us(mine), us(value(size, f"{kind}_p90_us")), "bare", ratio(against), target, result]
            rows.append([f"through a keeper, {words}, host {size}B resident", *cells])
        grown = times(value("2G", p50), value("20M", p50))
        name = f"spawn {words}, 2G beside 20M"
        result = verdict(FAILED, name) if wrong else judge(name, grown, RESIDENT_LIMIT)
        rows.append([f"2 GB beside 20 MB, {words}", "", "", "20MB", ratio(grown), f"≤ {RESIDENT_LIMIT}", result])
    return rows


def compare(quick):
    print("## What a session costs\n")
    said = []
    rows = [memory(200 if quick else 1000, said), ready(100 if quick else 300, said)]
    rows += spawns(2 if quick else 5, 100 if quick else 200, said)
    table(HEADS, rows)
    notes(list(dict.fromkeys(said)))
