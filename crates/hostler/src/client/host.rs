//! The host as its clients reach it: HTTP over the Unix socket in its state directory.

use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use super::error::{Failure, Result};

/// The longest path that fits into a socket address.
const LONGEST: usize = 107;

/// How long a host that takes over is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// The same for one that was lost without a word: it may have been started anew, or was taken over while its word was not read.
pub(crate) const UNANNOUNCED: Duration = Duration::from_secs(3);
/// How long between two looks for it.
pub(crate) const PAUSE: Duration = Duration::from_millis(30);

/// A connection to the host; made at the first request, and again when it was lost in between.
#[derive(Debug)]
pub(crate) struct Host {
    socket: PathBuf,
    /// Why it is asked, for its event log; else the request says that.
    why: Option<String>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// An answer in bytes.
#[derive(Debug)]
pub(crate) struct Answer {
    headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The number in a header.
    pub(crate) fn number(&self, header: &str) -> Option<u64> {
        self.headers.get(header)?.to_str().ok()?.parse().ok()
    }

    /// Whether a header says this.
    pub(crate) fn is(&self, header: &str, value: &str) -> bool {
        self.headers.get(header).is_some_and(|found| found == value)
    }
}

#[derive(Deserialize)]
struct Refusal {
    error: Reason,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Host {
    /// The host of this state directory, or of the one in the environment, or of the user's own.
    pub(crate) fn find(state_dir: Option<&Path>) -> Result<Self> {
        let given = state_dir.map(Path::to_owned);
        let dir = given
            .or_else(|| default_dir(|name| std::env::var_os(name)))
            .ok_or_else(|| {
                Failure::Usage(
                    "where the host is cannot be told: neither --state-dir nor HOSTLER_STATE_DIR nor HOME is set"
                        .into(),
                )
            })?;
        Ok(Self {
            socket: dir.join("host.sock"),
            why: None,
            sender: None,
        })
    }

    /// Its state directory.
    pub(crate) fn state_dir(&self) -> Option<&Path> {
        self.socket.parent()
    }

    /// The same host, over a connection of its own.
    pub(crate) fn another(&self) -> Self {
        Self {
            socket: self.socket.clone(),
            why: self.why.clone(),
            sender: None,
        }
    }

    /// The same, asked for this reason.
    pub(crate) fn because(self, why: &str) -> Self {
        Self {
            why: Some(why.to_owned()),
            ..self
        }
    }

    async fn connect(&self) -> Result<UnixStream> {
        let connected = if self.socket.as_os_str().len() > LONGEST {
            self.connect_long().await
        } else {
            UnixStream::connect(&self.socket).await
        };
        connected.map_err(|error| {
            let socket = self.socket.display().to_string();
            match error.kind() {
                std::io::ErrorKind::NotFound
                | std::io::ErrorKind::ConnectionRefused
                | std::io::ErrorKind::NotADirectory => Failure::NoHost(socket),
                _ => Failure::Unreachable { socket, error },
            }
        })
    }

    /// By way of a descriptor of the directory, for the path itself does not fit.
    async fn connect_long(&self) -> std::io::Result<UnixStream> {
        let parent = self.socket.parent().unwrap_or(Path::new("/"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(parent, flags, Mode::empty())?;
        let short = format!("/proc/self/fd/{}/host.sock", dir.as_raw_fd());
        UnixStream::connect(short).await
    }

    /// A sender over which a request can be sent now.
    async fn sender(&mut self) -> Result<&mut SendRequest<Full<Bytes>>> {
        let usable = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let stream = self.connect().await?;
            let (sender, connection) = handshake(TokioIo::new(stream))
                .await
                .map_err(|_| Failure::Gone)?;
            tokio::spawn(connection.with_upgrades());
            self.sender = Some(sender);
        }
        self.sender.as_mut().ok_or(Failure::Gone)
    }

    /// Sends a request, and gives back the answer if it is one of success. One that comes while another host takes over is
    /// asked again of that one.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>> {
        let until = Instant::now() + PATIENCE;
        let answer = loop {
            let sender = self.sender().await?;
            let answer = sender.send_request(request.clone()).await;
            let answer = answer.map_err(|_| Failure::Gone)?;
            let again = answer.status() == StatusCode::SERVICE_UNAVAILABLE
                && answer.headers().contains_key(RETRY_AFTER);
            if !again || Instant::now() > until {
                break answer;
            }
            self.sender = None;
            sleep(PAUSE).await;
        };
        let status = answer.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer);
        }
        let body = answer.into_body().collect().await;
        let body = body.map_err(|_| Failure::Gone)?.to_bytes();
        Err(match serde_json::from_slice::<Refusal>(&body) {
            Ok(Refusal { error }) => Failure::Refused {
                code: error.code,
                message: error.message,
            },
            Err(_) => Failure::Nonsense(format!("status {status}")),
        })
    }

    /// A request with a body of bytes.
    pub(crate) async fn call(&mut self, method: Method, path: &str, body: Bytes) -> Result<Answer> {
        let request = request(method, path)
            .body(Full::new(body))
            .map_err(|error| Failure::Nonsense(error.to_string()))?;
        let (parts, body) = self.send(request).await?.into_parts();
        let body = body.collect().await.map_err(|_| Failure::Gone)?;
        Ok(Answer {
            headers: parts.headers,
            body: body.to_bytes(),
        })
    }

    /// A request with JSON, or without, for JSON, or for nothing.
    pub(crate) async fn json(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let mut request = request(method, path).header(ACCEPT, "application/json");
        let bytes = body.map_or_else(Bytes::new, |body| {
            Bytes::from(serde_json::to_vec(body).unwrap_or_default())
        });
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(why) = &self.why {
            request = request.header("hostler-why", why);
        }
        let request = request
            .body(Full::new(bytes))
            .map_err(|error| Failure::Nonsense(error.to_string()))?;
        let answer = self.send(request).await?.into_body().collect().await;
        let bytes = answer.map_err(|_| Failure::Gone)?.to_bytes();
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| Failure::Nonsense(error.to_string()))
    }

    /// What is at this path.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Value> {
        self.json(Method::GET, path, None).await
    }

    /// The same, read as a `T`.
    pub(crate) async fn read<T: serde::de::DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        understand(self.get(path).await?)
    }
}

/// JSON as a `T`.
pub(crate) fn understand<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| Failure::Nonsense(error.to_string()))
}

/// The start of a request.
pub(crate) fn request(method: Method, path: &str) -> hyper::http::request::Builder {
    // The name is for form: the socket is the address.
    Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost")
}

/// One part of a path, with whatever is not plain written as %XX.
pub(crate) fn part(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    // These two mean a place to go to, not a name.
    match out.as_str() {
        "." => "%2E".into(),
        ".." => "%2E%2E".into(),
        _ => out,
    }
}

fn default_dir(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(dir) = set("HOSTLER_STATE_DIR") {
        return Some(dir.into());
    }
    // A relative one is to be ignored, says its specification.
    let state = set("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.filter(|dir| dir.is_absolute());
    let state = state.or_else(|| Some(PathBuf::from(set("HOME")?).join(".local/state")));
    Some(state?.join("hostler"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_is_found_by_the_environment() {
        let find = |set: &[(&str, &str)]| {
            default_dir(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
        };
        let home = ("HOME", "/home/u");
        let own = Some(PathBuf::from("/home/u/.local/state/hostler"));
        assert_eq!(find(&[home]), own);
        assert_eq!(find(&[home, ("XDG_STATE_HOME", "")]), own);
        assert_eq!(find(&[home, ("XDG_STATE_HOME", "rel")]), own);
        assert_eq!(
            find(&[home, ("XDG_STATE_HOME", "/x")]),
            Some("/x/hostler".into())
        );
        assert_eq!(find(&[home, ("HOSTLER_STATE_DIR", "s")]), Some("s".into()));
        assert_eq!(find(&[]), None);
    }

    #[test]
    fn names_are_written_so_that_they_stay_one_part() {
        assert_eq!(part("s-4f9k.x_1"), "s-4f9k.x_1");
        assert_eq!(part("a/b?c d"), "a%2Fb%3Fc%20d");
        assert_eq!(part(".."), "%2E%2E");
    }
}
