//! Conversations, by REST and by a client on standard input and output.

use std::io::{BufRead, BufReader, Write};
use std::process::Child;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request};
use serde_json::{Value, json};

use crate::support::{Answer, Client};

/// By TCP, for the Unix socket is for the user of the host.
pub(crate) async fn ask(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Answer {
    let body = body.map_or_else(Vec::new, |body| body.to_string().into());
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", client.tcp.as_str())
        .header("authorization", format!("Bearer {}", client.token))
        .body(Full::new(Bytes::from(body)))
        .expect("a request");
    let stream = tokio::net::TcpStream::connect(&client.tcp)
        .await
        .expect("the port");
    Client::send(stream, request).await
}

/// A conversation.
pub(crate) struct Talk {
    client: Client,
    id: String,
    pub(crate) session: String,
}

impl Talk {
    pub(crate) fn new(client: Client, opened: &Value) -> Self {
        let text = |key: &str| opened[key].as_str().expect("an id").to_owned();
        let (id, session) = (text("id"), text("session"));
        Self {
            client,
            id,
            session,
        }
    }

    async fn post(&self, what: &str, body: Value) -> Value {
        let path = format!("/v1/conversations/{}/{what}", self.id);
        let answer = ask(&self.client, Method::POST, &path, Some(body)).await;
        assert!(
            answer.status < 300,
            "{what}: {}",
            String::from_utf8_lossy(&answer.bytes)
        );
        answer.json()
    }

    /// A whole turn.
    pub(crate) async fn prompt(&self, text: &str) -> Value {
        self.post("prompt?wait=true", json!({ "text": text })).await
    }

    /// One that goes on.
    pub(crate) async fn begin(&self, text: &str) {
        self.post("prompt?wait=false", json!({ "text": text }))
            .await;
    }

    /// Waits until that is in the transcript.
    pub(crate) async fn says(&self, what: &str) {
        let path = format!("/v1/conversations/{}/transcript", self.id);
        let began = std::time::Instant::now();
        loop {
            let answer = ask(&self.client, Method::GET, &path, None).await;
            let text = String::from_utf8_lossy(&answer.bytes).into_owned();
            if answer.status == 200 && text.contains(what) {
                return;
            }
            assert!(
                began.elapsed() < crate::support::long(),
                "`{what}` is not in {text}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The pid of what the host has started as the agent.
    pub(crate) async fn agent_process(&self) -> i32 {
        let path = format!("/v1/sessions/{}/processes", self.session);
        let all = ask(&self.client, Method::GET, &path, None)
            .await
            .expect(200);
        let pid = all[0]["pid"]
            .as_i64()
            .unwrap_or_else(|| panic!("no agent in {all}"));
        pid as i32
    }

    /// Closes its session, and gives the report.
    pub(crate) async fn close(&self) -> Value {
        let path = format!("/v1/sessions/{}", self.session);
        ask(&self.client, Method::DELETE, &path, None)
            .await
            .expect(200)
    }
}

/// A client on standard input and output, which allows whatever it is asked for. Dropped, it is killed.
pub(crate) struct Editor {
    child: Child,
}

impl Editor {
    /// Sends requests one after the other, gives the last one's result, and goes on answering what the agent asks.
    pub(crate) fn start(mut child: Child, requests: Vec<(&'static str, Value)>) -> (Self, Value) {
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut stdin = child.stdin.take().expect("a pipe");
        let (results, answers) = std::sync::mpsc::channel();
        let count = requests.len() as u64;
        let mut send = move |message: Value| writeln!(stdin, "{message}").is_ok();
        std::thread::spawn(move || {
            let mut requests = (1u64..).zip(requests);
            let mut next = move || {
                let (id, (method, params)) = requests.next()?;
                Some(json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
            };
            next().map(&mut send);
            for line in stdout.lines().map_while(Result::ok) {
                let message: Value = serde_json::from_str(&line).expect("JSON");
                if message["method"] == "session/request_permission" {
                    let option = &message["params"]["options"][0]["optionId"];
                    let result =
                        json!({ "outcome": { "outcome": "selected", "optionId": option } });
                    send(json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }));
                } else if message.get("method").is_none() {
                    let _ = results.send(message);
                    next().map(&mut send);
                }
            }
        });
        let mut result = Value::Null;
        for _ in 0..count {
            let answer = answers.recv_timeout(crate::support::long());
            let answer = answer.expect("an answer");
            assert!(answer["error"].is_null(), "{answer}");
            result = answer["result"].clone();
        }
        (Self { child }, result)
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
