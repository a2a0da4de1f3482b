"""Rows, verdicts and the Markdown they are printed as."""

import statistics

PASS, MISS, FAILED, SKIP, NONE = "PASS", "MISS", "FAILED", "not measured", ""

verdicts = []


def verdict(result, name):
    """Counts a result that has a target, and gives it back as a table cell."""
    verdicts.append((result, name))
    return f"**{result}**" if result in (MISS, FAILED) else result


def judge(name, value, limit):
    """PASS when `value` is at most `limit`; not measured when there is no value."""
    if value is None:
        return verdict(SKIP, name)
    return verdict(PASS if value <= limit else MISS, name)


def table(heads, rows):
    """Prints a Markdown table: the first column to the left, the others to the right."""
    print("| " + " | ".join(heads) + " |")
    print("| --- |" + " ---: |" * (len(heads) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def notes(lines):
    for line in lines:
        print(f"- {line}")
    if lines:
        print(flush=True)


def summary():
    """Prints the last lines; returns the exit status: 1 when a target was missed or Hostler failed to run."""
    count = {kind: [name for result, name in verdicts if result == kind] for kind in (PASS, MISS, FAILED, SKIP)}
    met, missed, failed, skipped = (len(names) for names in count.values())
    print(f"{met} targets met, {missed} missed, {failed} where hostler failed to run, {skipped} not measured.\n")
    for kind in (MISS, FAILED, SKIP):
        for name in count[kind]:
            print(f"- {kind}: {name}")
    if missed or failed or skipped:
        print()
    return 1 if missed or failed else 0


def us(value):
    """A time given in microseconds, readable."""
    if value is None:
        return "-"
    return f"{value:.0f} µs" if value < 10_000 else f"{value / 1000:.1f} ms"


def times(value, base):
    """How many times `base` it is, or None where one of them is missing."""
    return value / base if value is not None and base else None


def ratio(value):
    return "-" if value is None else f"{value:.2f}"


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


def median(values):
    return statistics.median(values) if values else None
