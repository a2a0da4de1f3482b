// A terminal over a WebSocket as hosts in Node serve it: node-pty and ws.
//
// `node_pty_peer.js LAST` prints its port, and serves `seq 1 LAST`, until it is ended.
"use strict";
const pty = require("node-pty");
const { WebSocketServer } = require("ws");

const last = Number(process.argv[2]);
const server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
server.on("listening", () => console.log(server.address().port));
server.on("connection", (socket) => {
  // It waits for a line, so that the whole of its output is followed; and stays, for node-pty drops what it has not read at the exit.
  const script = `read line; seq 1 ${last}; exec sleep 60`;
  const terminal = pty.spawn("/bin/sh", ["-c", script], { cols: 80, rows: 24 });
  socket.on("message", (text) => terminal.write(text.toString()));
  socket.on("close", () => terminal.kill("SIGKILL"));
  terminal.onData((data) => socket.send(data));
});
