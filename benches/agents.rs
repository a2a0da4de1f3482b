//! What Hostler adds to what an agent says, beside a bare relay from a pipe to a WebSocket: see benches/agents.
//!
//! One program in four parts: the agent, the relay, the client that measures, and the first one, which runs the others.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// The clock that all processes share, in nanoseconds.
fn clock() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// An agent that costs next to nothing: `tick N MICROSECONDS` or `flood N`.
fn agent() {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let asked: Value = serde_json::from_str(&line).expect("JSON");
        let mut answer = json!({});
        match asked["method"].as_str() {
            Some("initialize") => answer = json!({"protocolVersion": 1}),
            Some("session/new") => answer = json!({"sessionId": "s"}),
            Some("session/prompt") => {
                let text = asked["params"]["prompt"][0]["text"].as_str().expect("text");
                let words: Vec<&str> = text.split(' ').collect();
                let count: usize = words[1].parse().expect("a number");
                let pause = words.get(2).map(|word| word.parse().expect("a number"));
                let mut lines = Vec::new();
                for _ in 0..count {
                    writeln!(lines, r#"{{"jsonrpc":"2.0","method":"session/update","params":{{"sessionId":"s","update":{{"sessionUpdate":"agent_message_chunk","content":{{"type":"text","text":"{}"}}}}}}}}"#, clock()).expect("written");
                    if let Some(pause) = pause {
                        out.write_all(&lines)
                            .and_then(|()| out.flush())
                            .expect("written");
                        lines.clear();
                        std::thread::sleep(Duration::from_micros(pause));
                    } else if lines.len() > 60 << 10 {
                        out.write_all(&lines).expect("written");
                        lines.clear();
                    }
                }
                out.write_all(&lines).expect("written");
                answer = json!({"stopReason": "end_turn"});
            }
            _ => {}
        }
        if asked.get("id").is_some() {
            let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": answer});
            writeln!(out, "{answer}")
                .and_then(|()| out.flush())
                .expect("written");
        }
    }
}

/// Lines of an agent as frames, and frames as lines: nothing else.
async fn relay(socket: &Path) {
    let listener = UnixListener::bind(socket).expect("a socket");
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            // One that only looks whether somebody is there.
            let Ok(client) = tokio_tungstenite::accept_async(stream).await else {
                return;
            };
            let (mut to, mut from) = client.split();
            let mut child = tokio::process::Command::new(own())
                .arg("agent")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .expect("an agent");
            let (mut stdin, stdout) = (
                child.stdin.take().expect("in"),
                child.stdout.take().expect("out"),
            );
            let write = tokio::spawn(async move {
                let mut lines = BufReader::with_capacity(256 << 10, stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if to.send(Message::text(line)).await.is_err() {
                        return;
                    }
                }
            });
            while let Some(Ok(Message::Text(text))) = from.next().await {
                let line = format!("{text}\n");
                stdin.write_all(line.as_bytes()).await.expect("written");
            }
            write.abort();
        });
    }
}

fn own() -> PathBuf {
    std::env::current_exe().expect("this program")
}

struct Client {
    socket: WebSocketStream<UnixStream>,
    next: u64,
    session: String,
}

impl Client {
    async fn new(socket: &Path, agent: &str) -> Self {
        let stream = UnixStream::connect(socket).await.expect("connected");
        let url = format!("ws://localhost/acp?agent={agent}");
        let (socket, _) = tokio_tungstenite::client_async(url, stream)
            .await
            .expect("a WebSocket");
        let mut client = Self {
            socket,
            next: 0,
            session: String::new(),
        };
        client
            .ask(
                "initialize",
                json!({"protocolVersion": 1, "clientCapabilities": {}}),
            )
            .await;
        client
    }

    async fn open(&mut self) {
        let answer = self
            .ask("session/new", json!({"cwd": "/tmp", "mcpServers": []}))
            .await;
        self.session = answer["result"]["sessionId"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"))
            .to_owned();
    }

    async fn send(&mut self, method: &str, params: Value) -> u64 {
        self.next += 1;
        let text = json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params});
        self.socket
            .send(Message::text(text.to_string()))
            .await
            .expect("sent");
        self.next
    }

    async fn hear(&mut self) -> String {
        loop {
            match self.socket.next().await.expect("open").expect("a frame") {
                Message::Text(text) => return text.as_str().to_owned(),
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params).await;
        loop {
            let answer: Value = serde_json::from_str(&self.hear().await).expect("JSON");
            if answer["id"] == id && answer.get("method").is_none() {
                return answer;
            }
        }
    }

    async fn prompt(&mut self, text: &str) {
        let params = json!({"sessionId": self.session, "prompt": [{"type": "text", "text": text}]});
        self.send("session/prompt", params).await;
    }

    /// When the next update was written, and how many nanoseconds ago.
    async fn update(&mut self) -> i64 {
        loop {
            let text = self.hear().await;
            let now = clock();
            if !text.contains("agent_message_chunk") {
                continue;
            }
            let Some((_, rest)) = text.split_once(r#""text":""#) else {
                continue;
            };
            let digits = rest.split('"').next().expect("a text");
            return now - digits.parse::<i64>().expect("a time");
        }
    }

    async fn updates(&mut self, count: usize) -> Vec<i64> {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(self.update().await);
        }
        all
    }
}

fn at(all: &mut [i64], percent: usize) -> f64 {
    all.sort_unstable();
    all[(all.len() * percent / 100).min(all.len() - 1)] as f64 / 1000.0
}

async fn clients(socket: &Path, count: usize) -> Vec<Client> {
    let mut all = Vec::new();
    for _ in 0..count {
        let mut client = Client::new(socket, "bench").await;
        client.open().await;
        all.push(client);
    }
    all
}

async fn latency(name: &str, socket: &Path, sessions: usize, each: usize, pause: u64) {
    let mut tasks = tokio::task::JoinSet::new();
    for mut client in clients(socket, sessions).await {
        tasks.spawn(async move {
            client.prompt(&format!("tick {each} {pause}")).await;
            client.updates(each).await
        });
    }
    let mut all: Vec<i64> = tasks.join_all().await.concat();
    let (half, most) = (at(&mut all, 50), at(&mut all, 99));
    println!(
        "{name:8} a token, {sessions:3} sessions, {:6} a second: p50 {half:7.0} µs, p99 {most:7.0} µs",
        sessions as u64 * 1_000_000 / pause
    );
}

async fn rate(name: &str, socket: &Path, sessions: usize, each: usize) {
    let all = clients(socket, sessions).await;
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for mut client in all {
        tasks.spawn(async move {
            client.prompt(&format!("flood {each}")).await;
            client.updates(each).await.len()
        });
    }
    let seen: usize = tasks.join_all().await.into_iter().sum();
    println!(
        "{name:8} {sessions:2} sessions with a client each: {:.0} updates a second",
        seen as f64 / began.elapsed().as_secs_f64()
    );
}

async fn sharing(socket: &Path, clients: usize, updates: usize) -> Duration {
    let mut first = Client::new(socket, "bench").await;
    first.open().await;
    let session = first.session.clone();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 1..clients {
        let mut client = Client::new(socket, "bench").await;
        let params = json!({"sessionId": session, "cwd": "/tmp", "mcpServers": []});
        let answer = client.ask("session/load", params).await;
        assert!(answer.get("error").is_none(), "{answer}");
        tasks.spawn(async move { client.updates(updates).await.len() });
    }
    let began = Instant::now();
    first.prompt(&format!("flood {updates}")).await;
    first.updates(updates).await;
    tasks.join_all().await;
    began.elapsed()
}

async fn first_token(name: &str, socket: &Path, agent: &str, rounds: usize) {
    let mut all = Vec::new();
    for _ in 0..rounds {
        let mut client = Client::new(socket, agent).await;
        // So that the next one is there.
        tokio::time::sleep(Duration::from_millis(800)).await;
        let began = clock();
        client.open().await;
        client.prompt("tick 1 0").await;
        client.update().await;
        all.push(clock() - began);
    }
    let (half, most) = (at(&mut all, 50) / 1000.0, at(&mut all, 99) / 1000.0);
    println!(
        "{name:8} session/new to the first token: p50 {half:.2} ms, worst of {rounds} {most:.2} ms"
    );
}

async fn until_there(socket: &Path) {
    while UnixStream::connect(socket).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn measure(hostler: &Path) {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state");
    let config = dir.path().join("config.toml");
    let command = format!("command = ['{}', 'agent']", own().display());
    std::fs::write(
        &config,
        format!("[agents.bench]\n{command}\n[agents.warm]\n{command}\nwarm = 1\n"),
    )
    .expect("written");
    let mut host = Command::new(hostler)
        .args(["serve", "--listen", "none", "--state-dir"])
        .arg(&state)
        .arg("--config")
        .arg(&config)
        .env("HOSTLER_LOG", "error")
        .spawn()
        .expect("a host");
    let (own_socket, socket) = (dir.path().join("relay"), state.join("host.sock"));
    let mut bare = Command::new(own())
        .arg("relay")
        .arg(&own_socket)
        .spawn()
        .expect("a relay");
    until_there(&own_socket).await;
    until_there(&socket).await;
    for (name, socket) in [("relay", &own_socket), ("hostler", &socket)] {
        latency(name, socket, 1, 2000, 2000).await;
        latency(name, socket, 100, 100, 100_000).await;
    }
    for (name, socket) in [("relay", &own_socket), ("hostler", &socket)] {
        rate(name, socket, 1, 200_000).await;
        rate(name, socket, 10, 20_000).await;
    }
    let one = sharing(&socket, 1, 100_000).await;
    let twenty = sharing(&socket, 20, 100_000).await;
    println!(
        "hostler  100,000 updates of one session: 1 client {one:.2?}, 20 clients {twenty:.2?}: {:.1} times",
        twenty.as_secs_f64() / one.as_secs_f64()
    );
    first_token("relay", &own_socket, "bench", 20).await;
    first_token("hostler", &socket, "bench", 20).await;
    first_token("warm", &socket, "warm", 20).await;
    let _ = bare.kill();
    let _ = bare.wait();
    let _ = rustix::process::kill_process(
        rustix::process::Pid::from_child(&host),
        rustix::process::Signal::TERM,
    );
    let _ = host.wait();
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "agent") {
        return agent();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    match words.as_slice() {
        [word, path] if word == "relay" => runtime.block_on(relay(Path::new(path))),
        [word, path] if word == "measure" => runtime.block_on(measure(Path::new(path))),
        _ => panic!("agent, relay SOCKET or measure HOSTLER"),
    }
}
