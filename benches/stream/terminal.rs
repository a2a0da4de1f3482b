//! How fast a terminal's output comes to a client on a WebSocket.

use std::io;
use std::time::Instant;

use serde_json::json;

use crate::client::{Client, Protocol};
use crate::socket::Socket;

/// A part of a message.
fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|part| part == what)
}

/// The script waits for a line, so that the whole of its output is followed.
fn script(last: u64) -> String {
    format!("read line; exec seq 1 {last}")
}

/// What a terminal makes of `seq 1 LAST`, in bytes.
fn size(last: u64) -> u64 {
    let (mut all, mut from, mut digits) = (0, 1, 1);
    while from <= last {
        let to = (from * 10 - 1).min(last);
        all += (to - from + 1) * (digits + 2);
        from *= 10;
        digits += 1;
    }
    all
}

fn rate(last: u64, began: Instant) {
    let rate = size(last) as f64 / 1e6 / began.elapsed().as_secs_f64();
    println!("terminal_mb_s {rate:.1}");
}

/// Through the host, by AHP.
pub(crate) async fn ours(address: &str, last: u64) -> io::Result<()> {
    let mut client = Client::new(Protocol::Ahp, address, "").await?;
    let channel = "ahp-terminal:/bench";
    let params = json!({
        "channel": channel,
        "claim": {"kind": "client", "clientId": client.name},
        "cols": 80,
        "rows": 24,
        "_meta": {"dev.hostler/argv": ["/bin/sh", "-c", script(last)]},
    });
    client.ask("createTerminal", params).await?;
    client.subscribe(channel, None).await?;
    let began = Instant::now();
    let input = json!({"type": "terminal/input", "data": "\n"});
    client.act(channel, input).await?;
    let mut tail = Vec::new();
    loop {
        let text = client.hear().await?;
        let head = &text[..text.len().min(200)];
        if let Some(at) = find(head, b"\"data\":\"") {
            let data = &text[at + 8..];
            let end = find(&data[data.len().saturating_sub(200)..], b"\"}")
                .map_or(0, |end| end + data.len().saturating_sub(200));
            tail.extend_from_slice(&data[end.saturating_sub(64)..end]);
            tail.drain(..tail.len().saturating_sub(64));
        } else if find(head, b"\"terminal/exited\"").is_some() {
            break;
        } else if find(head, b"rejectionReason").is_some() {
            return Err(io::Error::other(String::from_utf8_lossy(text).into_owned()));
        }
    }
    if find(&tail, last.to_string().as_bytes()).is_none() {
        let tail = String::from_utf8_lossy(&tail).into_owned();
        return Err(io::Error::other(format!("the end is missing: {tail}")));
    }
    rate(last, began);
    let params = json!({"channel": channel});
    client.ask("disposeTerminal", params).await.map(drop)
}

/// Through a peer: `first` is sent, and then all is read until a message that has `end` in it. Where the output comes as it
/// is, `end` is empty, and the end is when all of it has come.
pub(crate) async fn peers(
    address: &str,
    path: &str,
    last: u64,
    first: &str,
    end: &str,
) -> io::Result<()> {
    let mut socket = Socket::new(address, path).await?;
    let began = Instant::now();
    socket.send(first).await?;
    let mut bytes = 0;
    while let Some(text) = socket.next().await? {
        if end.is_empty() && bytes + text.len() as u64 >= size(last) {
            bytes += text.len() as u64;
            break;
        }
        if !end.is_empty() && find(&text[..text.len().min(100)], end.as_bytes()).is_some() {
            break;
        }
        bytes += text.len() as u64;
    }
    if bytes < size(last) {
        return Err(io::Error::other(format!(
            "{bytes} of {} bytes came",
            size(last)
        )));
    }
    rate(last, began);
    Ok(())
}
