//! sandbox-agent as a peer: what an agent says, over HTTP as server-sent events. Its agent `mock` is the one of this program.

use std::io;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::agent::clock;
use crate::client::time_in;
use crate::tokens::tell;

fn path(name: &str) -> String {
    format!("/v1/acp/{name}?agent=mock")
}

/// A request of its own connection; the answer with its head.
async fn post(address: &str, name: &str, method: &str, params: Value) -> io::Result<String> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        path(name),
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.starts_with("HTTP/1.1 2") {
        true => Ok(answer),
        false => Err(io::Error::other(format!("{method}: {answer}"))),
    }
}

/// One session: its events.
async fn open(address: &str, name: &str) -> io::Result<BufReader<TcpStream>> {
    let params = json!({"protocolVersion": 1, "clientCapabilities": {}});
    post(address, name, "initialize", params).await?;
    let params = json!({"cwd": "/tmp", "mcpServers": []});
    post(address, name, "session/new", params).await?;
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n",
        path(name)
    );
    stream.write_all(head.as_bytes()).await?;
    Ok(BufReader::with_capacity(256 << 10, stream))
}

/// Begins a turn, and takes so many updates of it.
async fn turn(
    address: &str,
    name: &str,
    events: &mut BufReader<TcpStream>,
    text: &str,
    count: usize,
) -> io::Result<Vec<i64>> {
    let params = json!({"sessionId": "s", "prompt": [{"type": "text", "text": text}]});
    let heard = async {
        let (mut all, mut line) = (Vec::with_capacity(count), Vec::new());
        while all.len() < count {
            line.clear();
            if events.read_until(b'\n', &mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(time) = time_in(&line) {
                all.push(clock() - time);
            }
        }
        Ok(all)
    };
    let (answer, heard) = tokio::join!(post(address, name, "session/prompt", params), heard);
    answer?;
    heard
}

/// As [`crate::tokens::latency`], and with a pause of 0 as [`crate::tokens::rate`].
pub(crate) async fn tokens(
    address: &str,
    sessions: usize,
    each: usize,
    pause: u64,
) -> io::Result<()> {
    let mut all = Vec::new();
    for at in 0..sessions {
        let name = format!("bench-{}-{at}", std::process::id());
        let mut events = open(address, &name).await?;
        turn(address, &name, &mut events, "flood 1", 1).await?;
        all.push((name, events));
    }
    let mut tasks = tokio::task::JoinSet::new();
    let began = Instant::now();
    for (at, (name, mut events)) in all.into_iter().enumerate() {
        let address = address.to_owned();
        let phase = 500_000 + at as u64 * pause / sessions as u64;
        let text = match pause {
            0 => format!("flood {each}"),
            _ => format!("tick {each} {pause} {phase}"),
        };
        tasks.spawn(async move { turn(&address, &name, &mut events, &text, each).await });
    }
    let mut seen = Vec::new();
    for done in tasks.join_all().await {
        seen.extend(done?);
    }
    let rate = seen.len() as f64 / began.elapsed().as_secs_f64();
    println!("updates_a_second {rate:.0}");
    tell("token", &mut seen);
    Ok(())
}
