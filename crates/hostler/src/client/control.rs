//! What is asked of a process beside its streams: signals, and the size of its terminal. By a connection of its own, for on that of
//! the streams it would wait behind input that nobody reads; one after the other, for their order matters.

use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::error::Failure;
use super::host::{Host, PATIENCE, PAUSE, part};
use super::signals;

struct Ask {
    what: &'static str,
    body: Value,
    done: Option<oneshot::Sender<()>>,
}

/// The way to ask.
#[derive(Debug)]
pub(crate) struct Control(mpsc::UnboundedSender<Ask>);

impl Control {
    /// For this process.
    pub(crate) fn new(mut host: Host, process: &str) -> Self {
        let (sender, mut asked) = mpsc::unbounded_channel::<Ask>();
        let path = format!("/v1/processes/{}", part(process));
        tokio::spawn(async move {
            while let Some(ask) = asked.recv().await {
                send(&mut host, &format!("{path}/{}", ask.what), &ask.body).await;
                if let Some(done) = ask.done {
                    let _ = done.send(());
                }
            }
        });
        Self(sender)
    }

    /// Passes a signal on: as from a terminal, to the group that the process leads.
    pub(crate) fn signal(&self, signal: i32) {
        self.ask("signal", signal_body(signal), None);
    }

    /// The same, and waits until the host has done it. Cancel safe.
    pub(crate) async fn signal_and_wait(&self, signal: i32) {
        let (sender, done) = oneshot::channel();
        self.ask("signal", signal_body(signal), Some(sender));
        let _ = done.await;
    }

    /// Tells the size of the terminal, in lines and columns.
    pub(crate) fn resize(&self, (rows, cols): (u16, u16)) {
        self.ask("resize", json!({"rows": rows, "cols": cols}), None);
    }

    fn ask(&self, what: &'static str, body: Value, done: Option<oneshot::Sender<()>>) {
        let _ = self.0.send(Ask { what, body, done });
    }
}

fn signal_body(signal: i32) -> Value {
    json!({"signal": signals::word(signal), "group": true})
}

/// Sends it. What is refused is no failure: the process may just have ended, which its stream tells.
async fn send(host: &mut Host, path: &str, body: &Value) {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        match host.json(Method::POST, path, Some(body)).await {
            Err(Failure::Refused { code, .. }) if code == "unavailable" => {}
            Err(Failure::Gone | Failure::NoHost(_)) => {}
            _ => return,
        }
        sleep(PAUSE).await;
    }
}
