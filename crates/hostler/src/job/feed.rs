//! The events of a job as they come, from whichever host has it.

use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::ACCEPT;
use tokio::time::{Instant, sleep};

use crate::client::api::Event;
use crate::client::error::{Failure, Result};
use crate::client::events::Stream;
use crate::client::host::{Host, PATIENCE, PAUSE, part, request};

/// The events of one job, each once and in order. A host that goes away is waited for.
#[derive(Debug)]
pub(super) struct Feed {
    host: Host,
    job: String,
    after: u64,
    body: Option<Incoming>,
    stream: Stream,
    waiting: std::collections::VecDeque<Event>,
}

impl Feed {
    /// Of this job, from its beginning.
    pub(super) fn new(host: &Host, job: &str) -> Self {
        Self {
            host: host.another(),
            job: job.to_owned(),
            after: 0,
            body: None,
            stream: Stream::default(),
            waiting: Default::default(),
        }
    }

    async fn open(&mut self) -> Result<Incoming> {
        let path = format!("/v1/events?after={}&job={}", self.after, part(&self.job));
        let request = request(Method::GET, &path)
            .header(ACCEPT, "text/event-stream")
            .body(Full::default())
            .map_err(|error| Failure::Nonsense(error.to_string()))?;
        Ok(self.host.send(request).await?.into_body())
    }

    /// The next one. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Event> {
        let mut until = None;
        loop {
            if let Some(event) = self.waiting.pop_front() {
                self.after = event.seq;
                return Ok(event);
            }
            let Some(body) = &mut self.body else {
                let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
                match self.open().await {
                    Ok(body) => self.body = Some(body),
                    Err(failure) if is_passing(&failure) && Instant::now() < until => {
                        self.host = self.host.another();
                        sleep(PAUSE).await;
                    }
                    Err(failure) => return Err(failure),
                }
                continue;
            };
            match body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(bytes) = frame.into_data() else {
                        continue;
                    };
                    for text in self.stream.feed(&bytes) {
                        let event = serde_json::from_str(&text);
                        let event = event.map_err(|error| Failure::Nonsense(error.to_string()))?;
                        self.waiting.push_back(event);
                    }
                }
                // The host is gone, or another has the job now; what came half comes again.
                Some(Err(_)) | None => {
                    self.stream = Stream::default();
                    self.body = None;
                    self.host = self.host.another();
                }
            }
        }
    }
}

/// Whether it may be otherwise once another host is there.
pub(super) fn is_passing(failure: &Failure) -> bool {
    match failure {
        Failure::Gone | Failure::NoHost(_) | Failure::Stopped => true,
        Failure::Refused { code, .. } => code == "unavailable",
        _ => false,
    }
}

/// Asks again while hosts change, up to `PATIENCE`: for what can be asked twice.
pub(super) async fn patiently(
    host: &Host,
    method: Method,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<serde_json::Value> {
    patiently_over(host.another(), method, path, body).await
}

/// The same, over the connection that `host` has.
pub(super) async fn patiently_over(
    mut host: Host,
    method: Method,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<serde_json::Value> {
    let mut until = None;
    loop {
        match host.json(method.clone(), path, body).await {
            Err(failure) if is_passing(&failure) => {
                let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
                if Instant::now() > until {
                    return Err(failure);
                }
                host = host.another();
                sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}
