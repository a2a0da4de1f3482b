// The official TypeScript client, unchanged: client.mjs DIR stdio COMMAND... | http URL | ws URL | connection COMMAND...
// DIR has it installed. The last is the `ClientSideConnection` that its versions before 2 have, over stdio.
// Opens, prompts, comes back and loads, prompts again, cancels.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { Readable, Writable } from "node:stream";
import assert from "node:assert/strict";

const [dir, kind, ...rest] = process.argv.slice(2);
const installed = createRequire(`${dir}/package.json`);
const sdk = (part = "") => import(installed.resolve(`@agentclientprotocol/sdk${part}`));
const acp = await sdk();
const seq = Array.from({ length: 300 }, (_, n) => `${n + 1}\n`).join("");

// A stream of the SDK's own, and what ends it.
async function stream() {
  if (kind === "http") {
    const { createHttpStream } = await sdk("/experimental/http-client");
    return [createHttpStream(rest[0]), async () => {}];
  }
  if (kind === "ws") {
    const { createWebSocketStream } = await sdk("/experimental/ws-client");
    return [createWebSocketStream(rest[0]), async () => {}];
  }
  const child = spawn(rest[0], rest.slice(1), { stdio: ["pipe", "pipe", "inherit"] });
  const exit = once(child, "exit");
  const pipes = acp.ndJsonStream(Writable.toWeb(child.stdin), Readable.toWeb(child.stdout));
  return [
    pipes,
    async () => {
      child.stdin.end();
      const [code, signal] = await exit;
      assert.deepEqual([code, signal], [0, null]);
    },
  ];
}

// What the client has heard the agent say.
class Heard {
  text = "";
  waiting = [];
  update({ update }) {
    if (update.sessionUpdate === "agent_message_chunk") this.text += update.content.text ?? "";
    for (const check of this.waiting) check();
  }
  until(part) {
    return new Promise((resolve) => {
      const check = () => this.text.includes(part) && resolve();
      this.waiting.push(check);
      check();
    });
  }
}

// The same words for both ways of asking.
async function connect(heard, talk) {
  const [pipes, end] = await stream();
  if (kind === "connection") {
    const client = {
      sessionUpdate: async (params) => heard.update(params),
      requestPermission: async () => ({ outcome: { outcome: "cancelled" } }),
    };
    const to = new acp.ClientSideConnection(() => client, pipes);
    await talk({
      initialize: (params) => to.initialize(params),
      new: (params) => to.newSession(params),
      load: (params) => to.loadSession(params),
      prompt: (params) => to.prompt(params),
      cancel: (params) => to.cancel(params),
    });
  } else {
    const { agent, client } = acp.methods;
    const app = acp.client({ name: "a test" });
    app.onNotification(client.session.update, ({ params }) => heard.update(params));
    app.onRequest(client.session.requestPermission, () => ({ outcome: { outcome: "cancelled" } }));
    await app.connectWith(pipes, (to) =>
      talk({
        initialize: (params) => to.request(agent.initialize, params),
        new: (params) => to.request(agent.session.new, params),
        load: (params) => to.request(agent.session.load, params),
        prompt: (params) => to.request(agent.session.prompt, params),
        cancel: (params) => to.notify(agent.session.cancel, params),
      }),
    );
  }
  await end();
}

const at = { cwd: "/tmp", mcpServers: [] };
const text = (text) => [{ type: "text", text }];
let session;
for (const turn of [1, 2]) {
  const heard = new Heard();
  await connect(heard, async (to) => {
    const hello = await to.initialize({ protocolVersion: acp.PROTOCOL_VERSION, clientCapabilities: {} });
    assert.equal(hello.protocolVersion, 1);
    assert.equal(hello.agentCapabilities.loadSession, true);
    if (turn === 1) session = (await to.new(at)).sessionId;
    else await to.load({ ...at, sessionId: session });
    // All of the history came before the answer.
    assert.equal(heard.text, seq.repeat(turn - 1));
    const ended = await to.prompt({ sessionId: session, prompt: text("seq 1 300") });
    assert.equal(ended.stopReason, "end_turn");
    assert.equal(heard.text, seq.repeat(turn));
    if (turn === 1) return;
    const long = to.prompt({ sessionId: session, prompt: text("echo begun; sleep 1000") });
    await heard.until("begun");
    await to.cancel({ sessionId: session });
    assert.equal((await long).stopReason, "cancelled");
  });
}
console.log("ok");
process.exit(0);
