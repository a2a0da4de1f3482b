"""Terminals as others serve them, for `host.py` and `ahp.py`: megabytes a second of `seq 1 LAST`.

Those on a WebSocket have the same client as the host: the example `stream` of the crate hostler-gateway.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request

from tools import BUILD, HERE, STREAM, Failed, output

AGENT = "@sandbox-agent/cli-linux-x64"
AGENT_PORT = 24688
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def ends(last):
    """The last number of each length, up to `last`."""
    return [min(10**digits - 1, last) for digits in range(1, len(str(last)) + 1)]


def piped(command, last):
    """Through a command whose output goes into a pipe."""
    size = sum((len(str(end)) + 2) * (end - 10 ** (len(str(end)) - 1) + 1) for end in ends(last))
    began = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        while process.stdout.read(1 << 16):
            pass
    return size / 1e6 / (time.monotonic() - began)


def script(last):
    if not shutil.which("script"):
        raise Failed("not installed")
    return piped(["script", "-qc", f"seq 1 {last}", "/dev/null"], last)


def tmux_attached(last):
    """Within a client that is attached, whose own terminal is script's."""
    if not shutil.which("tmux") or not shutil.which("script"):
        raise Failed("not installed")
    inner = f"TERM=xterm tmux -L hostler-bench-{os.getpid()} -f /dev/null new-session -x 80 -y 24 'seq 1 {last}'"
    return piped(["script", "-qc", inner, "/dev/null"], last)


def tap(address, path, last, first, end):
    """What a client on a WebSocket gets of it, that sends `first` and reads until `end`, or until it is closed."""
    found = output([STREAM, "tap", address, path, last, first, end], 120)
    return float(found.split()[1])


@contextlib.contextmanager
def served(command):
    """A server that prints its port."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = server.stdout.readline().strip()
            if not port:
                raise Failed("it does not come up")
            yield f"127.0.0.1:{port}"
        finally:
            server.kill()


def terminado(last):
    place = BUILD / "terminado"
    if not place.exists():
        output([sys.executable, "-m", "venv", place])
        output([place / "bin" / "pip", "install", "--quiet", "terminado"], 120)
    # A tenth: it is slow, and a rate is asked for.
    last //= 10
    with served([place / "bin" / "python", HERE / "terminado_peer.py", str(last)]) as address:
        return tap(address, "/tty", last, json.dumps(["stdin", "\n"]), '["disconnect"')


def npm(*names):
    """Where these packages are."""
    if not shutil.which("npm"):
        raise Failed("npm is not there")
    place = BUILD / "npm"
    place.mkdir(exist_ok=True)
    if not all((place / "node_modules" / name).exists() for name in names):
        output(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", place, *names], 180)
    return place


def node_pty(last):
    place = npm("node-pty", "ws")
    environment = os.environ | {"NODE_PATH": str(place / "node_modules")}
    with served(["env", f"NODE_PATH={environment['NODE_PATH']}", "node", HERE / "node_pty_peer.js", str(last)]) as address:
        return tap(address, "/", last, "\n", "")


@contextlib.contextmanager
def sandbox_server():
    """The server of sandbox-agent, from npm. What it calls `mock` is the agent of the benches."""
    place = npm(AGENT)
    mock = place / ".local/share/sandbox-agent/bin/agent_processes/mock-acp"
    mock.parent.mkdir(parents=True, exist_ok=True)
    mock.write_text(f"#!/bin/sh\nexec '{STREAM}' agent\n", encoding="utf-8")
    mock.chmod(0o755)
    program = place / "node_modules" / AGENT / "bin" / "sandbox-agent"
    command = [program, "server", "--no-token", "--no-telemetry", "--port", str(AGENT_PORT)]
    server = subprocess.Popen(command, env=os.environ | {"HOME": str(place)}, **QUIET)
    try:
        yield f"127.0.0.1:{AGENT_PORT}"
    finally:
        server.kill()
        server.wait()


def posted(address, path, body):
    """The answer of a server that may just be coming up."""
    request = urllib.request.Request(f"http://{address}{path}", json.dumps(body).encode(), {"content-type": "application/json"})
    until = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except OSError as why:
            if time.monotonic() > until:
                raise Failed(f"sandbox-agent: {why}") from None
            time.sleep(0.05)


def sandbox_agent(last):
    last //= 10
    body = {"command": "/bin/sh", "args": ["-c", f"read line; exec seq 1 {last}"], "tty": True, "interactive": True}
    with sandbox_server() as address:
        process = posted(address, "/v1/processes", body)["id"]
        line = json.dumps({"type": "input", "data": "\n"})
        return tap(address, f"/v1/processes/{process}/terminal/ws", last, line, '"type":"exit"')
