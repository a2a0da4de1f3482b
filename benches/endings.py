"""Ending trees of 1 to 1,000 processes, half of them setsid, beside psutil and beside cgroup.kill alone."""

import time

from table import FAILED, NONE, judge, median, notes, percentile, ratio, table, times, us, verdict
from tools import BUILD, DEBIAN_PYTHON, HERE, HOSTLER, Failed, cgroup_root, output

SIZES = {1: 30, 10: 30, 100: 20, 1000: 11}
# The kernel alone (`cgroup.kill`) grows by 1.2 to 1.45 here; quadratic work shows as 5 or more.
GROWTH_LIMIT = 2.0
PSUTIL, GROUP = "psutil, recursive", "`cgroup.kill` alone"


def ways(root):
    """How each way ends a tree: a function of the number of processes and of the tree's other arguments.

    `hostler run` ends what its command leaves behind, so there the N processes are those below the command, which
    exits by itself; for the others the command is one of the N."""
    ending, tree = BUILD / "ending", BUILD / "tree"
    found = {}
    for mode in ["tree"] + (["cgroup"] if root else []):
        found[f"`hostler run --contain {mode}`"] = lambda n, more, mode=mode: [
            ending, "exit", HOSTLER, "run", "--contain", mode, "--", tree, n, *more,
        ]  # fmt: skip
    found[PSUTIL] = lambda n, more: [ending, "self", DEBIAN_PYTHON, HERE / "psutil_end.py", tree, n - 1, *more]
    if root:
        found[GROUP] = lambda n, more: [ending, "cgroup", root, tree, n - 1, *more]
    return found


def once(command):
    """Microseconds and survivors of one ending."""
    took, left = output(command).split()
    return float(took), int(left)


def usable(found, said):
    """Leaves out the ways that do not work here."""
    good = {}
    for way, command in found.items():
        try:
            once(command(1, []))
            good[way] = command
        except Failed as why:
            hint = " (Debian package `python3-psutil`)" if way == PSUTIL else ""
            said.append(f"{way} left out: {why}{hint}")
    return good


def sample(good, sizes, budget, said):
    """{(way, n): [(µs, survivors)]}, the ways in turn within each repetition."""
    seen, stop = {}, time.monotonic() + budget
    for n, repeats in sizes.items():
        for turn in range(repeats):
            if turn >= 3 and time.monotonic() > stop:
                said.append(f"trees of {n}: stopped after {turn} of {repeats} repetitions, for lack of time")
                break
            for way, command in good.items():
                try:
                    seen.setdefault((way, n), []).append(once(command(n, [])))
                except Failed as why:
                    said.append(f"{way}, {n} processes: {why}")
                    seen.setdefault((way, n), []).append((None, None))
    return seen


def growth(p50, way):
    """What each further process costs between 100 and 1,000, beside what it costs between 10 and 100."""
    points = [p50.get((way, n)) for n in (10, 100, 1000)]
    if None in points or points[1] <= points[0]:
        return None
    return times((points[2] - points[1]) / 900, (points[1] - points[0]) / 90)


def compare(quick):
    print("## Ending a tree\n")
    said = []
    root = cgroup_root()
    if not root:
        said.append("no cgroup v2 directory can be written here: `cgroup.kill` and `--contain cgroup` left out")
    found = ways(root)
    good = usable(found, said)
    sizes = {n: max(3, repeats // 5) for n, repeats in SIZES.items()} if quick else SIZES
    seen = sample(good, sizes, 20 if quick else 70, said)
    p50, rows = {}, []
    for key, runs in seen.items():
        p50[key] = median([took for took, _ in runs if took is not None])
    for n in SIZES:
        for way in found:
            runs = seen.get((way, n), [])
            took = [t for t, _ in runs if t is not None]
            left = max((s for _, s in runs if s is not None), default=None)
            mine, name = way.startswith("`hostler"), f"nothing left of {n}, {way}"
            result = NONE
            if mine:
                broken = not took or len(took) < len(runs)
                result = verdict(FAILED, name) if broken else judge(name, left, 0)
            middle = p50.get((way, n))
            rows.append([
                f"{n}: {way}",
                us(middle),
                us(percentile(took, 90) if took else None),
                f"{middle / n:.1f}" if middle else "-",
                ratio(times(middle, p50.get((PSUTIL, n)))),
                ratio(times(middle, p50.get((GROUP, n)))),
                "-" if left is None else str(left),
                "0 left" if mine else "",
                result,
            ])  # fmt: skip
    heads = ["processes: way", "p50", "p90", "µs a process", "× psutil", "× cgroup.kill", "left", "target", "result"]
    table(heads, rows)

    rows = []
    for way in found:
        grown, mine, name = growth(p50, way), way.startswith("`hostler"), f"linear growth, {way}"
        result = NONE
        if mine:
            result = verdict(FAILED, name) if way not in good else judge(name, grown, GROWTH_LIMIT)
        rows.append([way, ratio(grown), f"≤ {GROWTH_LIMIT}" if mine else "", result])
    table(["a further process at 100 to 1,000 beside 10 to 100", "ratio", "target", "result"], rows)

    rows = []
    for way in found:
        mine, name, left, took = way.startswith("`hostler"), f"nothing left of 100 detached, {way}", None, None
        if way in good:
            try:
                took, left = once(good[way](100, ["detach"]))
            except Failed as why:
                said.append(f"{way}, detached: {why}")
        result = NONE
        if mine:
            result = verdict(FAILED, name) if left is None else judge(name, left, 0)
        rows.append([way, us(took), "-" if left is None else str(left), "0 left" if mine else "", result])
    table(["100 processes, half setsid and double-forked", "time", "left", "target", "result"], rows)
    notes(list(dict.fromkeys(said)))
