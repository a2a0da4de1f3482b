"""The official Python client, unchanged: client.py stdio COMMAND... | http URL | ws URL. Opens, prompts, loads, and checks what it heard."""

import asyncio
import sys

import acp
from acp import text_block


class Client:
    def __init__(self):
        self.heard = ""

    async def session_update(self, session_id, update, **kwargs):
        content = getattr(update, "content", None)
        if getattr(update, "session_update", "") == "agent_message_chunk":
            self.heard += getattr(content, "text", "")

    async def request_permission(self, session_id, tool_call, options, **kwargs):
        raise acp.RequestError.method_not_found("session/request_permission")

    def on_connect(self, conn):
        pass


async def talk(connection, client, session=None):
    await connection.initialize(protocol_version=1)
    if session is None:
        session = (await connection.new_session(cwd="/tmp", mcp_servers=[])).session_id
    else:
        await connection.load_session(cwd="/tmp", session_id=session, mcp_servers=[])
    answer = await connection.prompt(session_id=session, prompt=[text_block("seq 1 300")])
    assert answer.stop_reason == "end_turn", answer
    return session


async def main(kind, rest):
    session = None
    for turn in (1, 2):
        client = Client()
        if kind == "stdio":
            async with acp.spawn_agent_process(client, *rest) as (connection, _):
                await talk(connection, client)
        else:
            if kind == "http":
                from acp.http import create_http_stream

                transport = create_http_stream(rest[0])
            else:
                from acp.ws import create_websocket_stream

                transport = await create_websocket_stream(rest[0])
            connection = acp.connect_to_agent(client, transport)
            session = await talk(connection, client, session)
            await connection.close()
        once = "".join(f"{n}\n" for n in range(1, 301))
        expected = once if kind == "stdio" else once * turn
        assert client.heard == expected, (turn, len(client.heard), len(expected))
    print("ok")


asyncio.run(asyncio.wait_for(main(sys.argv[1], sys.argv[2:]), 60))
