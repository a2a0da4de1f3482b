//! The limit: lines of an agent as frames, and frames as lines, and nothing else.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::net::unix::pipe;
use tokio_tungstenite::tungstenite::Message;

/// Serves; each connection gets an agent of its own.
pub(crate) async fn serve(socket: &Path) {
    let listener = UnixListener::bind(socket).expect("a socket");
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            // One that only looks whether somebody is there.
            let Ok(client) = tokio_tungstenite::accept_async(stream).await else {
                return;
            };
            let (mut to, mut from) = client.split();
            let mut child = Command::new(std::env::current_exe().expect("a path"))
                .arg("agent")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("an agent");
            let stdin = OwnedFd::from(child.stdin.take().expect("in"));
            let stdout = OwnedFd::from(child.stdout.take().expect("out"));
            let mut stdin = pipe::Sender::from_owned_fd(stdin).expect("in");
            let stdout = pipe::Receiver::from_owned_fd(stdout).expect("out");
            let write = tokio::spawn(async move {
                let mut reader = BufReader::with_capacity(256 << 10, stdout);
                let mut line = String::new();
                while reader
                    .read_line(&mut line)
                    .await
                    .is_ok_and(|length| length > 0)
                {
                    let frame = Message::text(line.trim_end());
                    line.clear();
                    // Frames that come at once go at once.
                    let sent = match reader.buffer().contains(&b'\n') {
                        true => to.feed(frame).await,
                        false => to.send(frame).await,
                    };
                    if sent.is_err() {
                        return;
                    }
                }
            });
            while let Some(Ok(Message::Text(text))) = from.next().await {
                let line = format!("{text}\n");
                stdin.write_all(line.as_bytes()).await.expect("written");
            }
            write.abort();
            let _ = child.kill();
            let _ = child.wait();
        });
    }
}
