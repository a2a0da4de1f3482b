"""`hostler run -- true` beside bare `true` and the small init programs."""

import shutil

from table import FAILED, NONE, judge, notes, ratio, table, times, us, verdict
from tools import BUILD, HOSTLER, TRUE, Failed, cgroup_root, output

LIMIT = 1.3


def peers():
    """Name, program, arguments, Debian package."""
    return [
        ("dumb-init", "dumb-init", "", "dumb-init"),
        ("tini -s", "tini", "-s --", "tini"),
        ("catatonit", "catatonit", "", "catatonit"),
        ("setsid -w", "setsid", "-w", "util-linux"),
    ]


def ours():
    modes = ["auto", "tree"] + (["cgroup"] if cgroup_root() else [])
    return [
        (f"hostler run --contain {mode}", HOSTLER, f"run --contain {mode} --") if mode != "auto" else ("hostler run", HOSTLER, "run --")
        for mode in modes
    ]


def measure(rounds, limit):
    """Returns {name: (p50, p90)} in microseconds, and notes on what is missing."""
    commands, said = {"true": str(TRUE)}, []
    for name, program, arguments, package in peers():
        path = shutil.which(program)
        if path:
            commands[name] = f"{path} {arguments} true"
        else:
            said.append(f"{name} left out: Debian package `{package}` is not installed")
    for name, program, arguments in ours():
        commands[name] = f"{program} {arguments} true"
    for name, command in list(commands.items()):
        try:
            output(command.split(), 20)
        except Failed as why:
            said.append(f"{name} does not run: {why}")
            del commands[name]
    keys = {name.replace(" ", "_"): name for name in commands}
    lines = output(
        [BUILD / "spawn", rounds, limit] + [f"{key}={commands[name]}" for key, name in keys.items()], limit + 60
    )
    found = {}
    for line in lines.splitlines():
        key, wall50, wall90, _, _, done = line.split()
        found[keys[key]] = (float(wall50), float(wall90))
        if int(done) < rounds:
            said = [text for text in said if "rounds" not in text]
            said.append(f"stopped at {done} of {rounds} rounds, for lack of time")
    return found, said


def compare(quick):
    print("## Starting a command\n")
    found, said = measure(100 if quick else 1000, 10 if quick else 40)
    bare, peer = found["true"][0], found.get("dumb-init", (None,))[0]
    rows = []
    mine = [name for name, _, _ in ours()]
    for name in ["true"] + [name for name, *_ in peers()] + mine:
        p50, p90 = found.get(name, (None, None))
        against = times(p50, peer)
        target, result = "", NONE
        if name in mine:
            target = f"≤ {LIMIT} × dumb-init"
            label = f"start: {name}"
            result = judge(label, against, LIMIT) if p50 is not None else verdict(FAILED, label)
        command = name if name == "true" else f"{name} {'-- ' if name in mine or name == 'tini -s' else ''}true"
        rows.append([f"`{command}`", us(p50), us(p90), ratio(times(p50, bare)), ratio(against), target, result])
    table(["wall time", "p50", "p90", "× bare", "× dumb-init", "target", "result"], rows)
    notes(said)
