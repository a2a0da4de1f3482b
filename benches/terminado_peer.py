"""A terminal over a WebSocket as hosts in Python serve it: terminado.

`terminado_peer.py LAST` prints its port, and serves `seq 1 LAST` at `/tty`, until it is ended.
"""

import asyncio
import sys

from terminado import TermSocket, UniqueTermManager
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application


async def main():
    # It waits for a line, so that the whole of its output is followed.
    command = ["/bin/sh", "-c", f"read line; exec seq 1 {int(sys.argv[1])}"]
    manager = UniqueTermManager(shell_command=command)
    sockets = bind_sockets(0, "127.0.0.1")
    HTTPServer(Application([(r"/tty", TermSocket, {"term_manager": manager})])).add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
