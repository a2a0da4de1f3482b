"""Runs the comparisons and prints their tables. Started by `benches/run`, which builds what this needs."""

import argparse
import os
import platform
import sys
import time

import agents
import ahp
import endings
import host
import jobs
import session
import startup
import table

COMPARISONS = {"startup": startup, "session": session, "endings": endings, "host": host, "agents": agents, "ahp": ahp, "jobs": jobs}


def main():
    parser = argparse.ArgumentParser(prog="benches/run", description="Hostler beside its peers, as Markdown tables.")
    parser.add_argument("which", nargs="*", metavar="COMPARISON", help=f"of {', '.join(COMPARISONS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a measurement")
    chosen = parser.parse_args()
    for name in chosen.which:
        if name not in COMPARISONS:
            parser.error(f"unknown comparison {name!r}; known: {', '.join(COMPARISONS)}")
    start = time.monotonic()
    load = os.getloadavg()[0]
    print(f"Linux {platform.release()}, {os.cpu_count()} cores, load {load:.1f}, uid {os.getuid()}\n")
    for name in chosen.which or COMPARISONS:
        COMPARISONS[name].compare(chosen.quick)
    status = table.summary()
    print(f"{time.monotonic() - start:.0f} s.")
    return status


if __name__ == "__main__":
    sys.exit(main())
