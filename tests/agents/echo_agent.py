#!/usr/bin/env python3
"""An agent made with the Python SDK (PyPI `agent-client-protocol`): says what it was prompted."""
import asyncio, uuid

import acp


class Echo(acp.Agent):
    def on_connect(self, conn):
        self.client = conn

    async def initialize(self, protocol_version, client_capabilities=None, client_info=None, **_):
        return acp.InitializeResponse(protocol_version=acp.PROTOCOL_VERSION)

    async def new_session(self, cwd, additional_directories=None, mcp_servers=None, **_):
        return acp.NewSessionResponse(session_id=uuid.uuid4().hex)

    async def prompt(self, session_id, prompt, **_):
        said = ' '.join(block.text for block in prompt if block.type == 'text')
        await self.client.session_update(session_id=session_id, update=acp.update_agent_message_text(f'pong: {said}'))
        return acp.PromptResponse(stop_reason='end_turn')

    async def cancel(self, session_id, **_):
        pass


asyncio.run(acp.run_agent(Echo()))
