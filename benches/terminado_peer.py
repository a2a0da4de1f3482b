"""A terminal over a WebSocket as hosts in Python serve it: terminado, with its own server and one client in another process.

`terminado_peer.py LAST` prints the megabytes a second of `seq 1 LAST`, from its start until the client has all of it.
"""

import asyncio
import json
import os
import sys
import time

from terminado import TermSocket, UniqueTermManager
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import websocket_connect


def serve(sockets, last):
    async def main():
        # It waits for a line, so that the whole of its output is followed.
        command = ["/bin/sh", "-c", f"read line; exec seq 1 {last}"]
        manager = UniqueTermManager(shell_command=command)
        HTTPServer(Application([(r"/tty", TermSocket, {"term_manager": manager})])).add_sockets(sockets)
        await asyncio.Event().wait()

    asyncio.run(main())


async def follow(port):
    socket = await websocket_connect(f"ws://127.0.0.1:{port}/tty")
    count, began = 0, time.monotonic()
    await socket.write_message(json.dumps(["stdin", "\n"]))
    while (message := await socket.read_message()) is not None:
        kind, *rest = json.loads(message)
        if kind == "disconnect":
            break
        if kind == "stdout":
            count += len(rest[0])
    return count / 1e6 / (time.monotonic() - began)


def main():
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    server = os.fork()
    if server == 0:
        serve(sockets, int(sys.argv[1]))
    try:
        print(f"{asyncio.run(asyncio.wait_for(follow(port), 120)):.1f}")
    finally:
        os.kill(server, 15)
        os.waitpid(server, 0)


main()
