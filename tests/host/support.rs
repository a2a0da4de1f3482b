//! A host in a process of its own, a client for it, and counting by the kernel.

#[path = "../support/processes.rs"]
#[allow(dead_code)]
mod processes;

#[path = "../support/slack.rs"]
mod slack;

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

pub(crate) use slack::slack;

#[allow(unused_imports)]
pub(crate) use processes::{Found, children_of, find};

/// The longest that anything here may take.
pub(crate) fn long() -> Duration {
    Duration::from_secs(8) * slack()
}

/// Waits until a condition holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < long(), "not within {:?}: {what}", long());
        std::thread::sleep(Duration::from_millis(5));
    }
    began.elapsed()
}

/// What the host says, line by line.
#[derive(Default)]
pub(crate) struct Lines {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Lines {
    fn follow(self: &Arc<Self>, from: impl Read + Send + 'static) {
        let lines = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                lines.lines.lock().expect("lines").push(line);
                lines.more.notify_all();
            }
        });
    }

    pub(crate) fn all(&self) -> String {
        self.lines.lock().expect("lines").join("\n")
    }

    /// The first line that holds all of this.
    pub(crate) fn wait_for(&self, parts: &[&str]) -> String {
        let fits = |line: &&String| parts.iter().all(|part| line.contains(part));
        let lines = self.lines.lock().expect("lines");
        let (lines, _) = self
            .more
            .wait_timeout_while(lines, long(), |lines| !lines.iter().any(|line| fits(&line)))
            .expect("lines");
        let found = lines.iter().find(fits).cloned();
        found.unwrap_or_else(|| panic!("no line with {parts:?} in:\n{}", lines.join("\n")))
    }
}

/// One state directory, and the mark that all processes of its sessions carry.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) mark: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let mut random = [0; 16];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .expect("random bits");
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            mark: format!("mark-{:032x}", u128::from_le_bytes(random)),
        }
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The living processes that carry the mark.
    pub(crate) fn living(&self) -> Vec<Found> {
        find(&self.mark).into_iter().filter(Found::lives).collect()
    }

    pub(crate) fn all_gone(&self) -> Duration {
        wait_until("everything with the mark is gone", || {
            self.living().is_empty()
        })
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let listens = args.contains(&"--listen");
        let listen = ["--listen", "127.0.0.1:0"];
        // Another build of it can be tested as well.
        let program = std::env::var("HOSTLER_TEST_BIN");
        let program = program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_hostler"));
        let mut command = Command::new(program);
        command
            .arg("serve")
            .arg("--state-dir")
            .arg(self.state_dir())
            .args(listen.into_iter().filter(|_| !listens))
            .args(args)
            .env_remove("HOSTLER_STATE_DIR")
            .env("XDG_CONFIG_HOME", "/nonexistent")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn host(&self) -> Host {
        self.host_with(&[])
    }

    pub(crate) fn host_with(&self, args: &[&str]) -> Host {
        Host::spawn(self.command(args), &self.mark)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Only what a failed test has left.
        for found in self.living() {
            found.signal(rustix::process::Signal::KILL);
        }
    }
}

/// A host. Dropping it kills it.
pub(crate) struct Host {
    child: Child,
    pub(crate) said: Arc<Lines>,
    pub(crate) client: Client,
}

impl Host {
    pub(crate) fn spawn(mut command: Command, mark: &str) -> Self {
        let mut child = command.spawn().expect("the host");
        let said = Arc::new(Lines::default());
        said.follow(child.stderr.take().expect("a pipe"));
        let ready = said.wait_for(&["hostler: listening on unix:"]);
        let part = |from: &str, to: char| {
            let rest = ready
                .split_once(from)
                .map(|(_, rest)| rest)
                .unwrap_or_default();
            rest.split(to).next().unwrap_or_default().to_owned()
        };
        let client = Client {
            socket: PathBuf::from(part("unix:", ' ')),
            tcp: part("http://", '/'),
            token: part("token=", ' '),
            mark: mark.to_owned(),
        };
        Self {
            child,
            said,
            client,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).expect("a pid");
        // The child was not waited for, so the pid is its own.
        rustix::process::kill_process(pid, signal).expect("a signal");
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the host ends", || {
            status = self.child.try_wait().expect("waiting");
            status.is_some()
        });
        status.expect("its status")
    }

    pub(crate) fn stop(mut self) -> (ExitStatus, String) {
        self.signal(rustix::process::Signal::TERM);
        let status = self.ended();
        (status, self.said.all())
    }

    pub(crate) fn kill(mut self) {
        self.signal(rustix::process::Signal::KILL);
        let _ = self.ended();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the host said:\n{}", self.said.all());
        }
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// Its JSON, if it has this status.
    pub(crate) fn expect(&self, status: u16) -> Value {
        let text = String::from_utf8_lossy(&self.bytes);
        assert_eq!(self.status, status, "{text}");
        self.json()
    }

    /// The code of the error that it is, if it has this status.
    pub(crate) fn error(&self, status: u16) -> (String, String) {
        let json = self.expect(status);
        let text = |key: &str| json["error"][key].as_str().expect("an error").to_owned();
        (text("code"), text("message"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).expect(name).to_str().expect("text")
    }
}

pub(crate) trait Stream:
    tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send
{
}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Stream for T {}

pub(crate) type Socket = WebSocketStream<UnixStream>;

/// A client of one host.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) socket: PathBuf,
    pub(crate) tcp: String,
    pub(crate) token: String,
    pub(crate) mark: String,
}

impl Client {
    pub(crate) async fn unix(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.expect("the socket")
    }

    pub(crate) async fn send<S: Stream + 'static>(
        stream: S,
        request: Request<Full<Bytes>>,
    ) -> Answer {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("a connection");
        tokio::spawn(connection);
        let answer = tokio::time::timeout(long(), sender.send_request(request));
        let answer = answer.await.expect("an answer in time").expect("an answer");
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.expect("the body").to_bytes().to_vec();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            bytes,
        }
    }

    pub(crate) async fn raw(&self, method: Method, path: &str, body: Vec<u8>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "hostler")
            .header("hostler-client", "test")
            .body(Full::new(Bytes::from(body)))
            .expect("a request");
        Self::send(self.unix().await, request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.raw(Method::GET, path, Vec::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.raw(Method::POST, path, body.to_string().into()).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.raw(Method::PATCH, path, body.to_string().into()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.raw(Method::DELETE, path, Vec::new()).await
    }

    /// On TCP, with these headers.
    pub(crate) async fn over_tcp(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).expect("a request");
        let stream = TcpStream::connect(&self.tcp).await.expect("the port");
        Self::send(stream, request).await
    }

    /// Opens a session whose processes carry the mark, and gives its id.
    pub(crate) async fn open(&self, policy: Value) -> String {
        let body = json!({ "env": { "HOSTLER_MARK": self.mark }, "policy": policy });
        let session = self.post("/v1/sessions", body).await.expect(201);
        session["id"].as_str().expect("an id").to_owned()
    }

    /// Starts a process in the background, and gives its id.
    pub(crate) async fn start(&self, session: &str, script: &str) -> String {
        let body = json!({ "argv": ["sh", "-c", script], "stdin": true });
        let path = format!("/v1/sessions/{session}/processes");
        let process = self.post(&path, body).await.expect(201);
        process["id"].as_str().expect("an id").to_owned()
    }

    /// A WebSocket there, if the host lets there be one.
    pub(crate) async fn try_socket(&self, path: &str) -> Result<Socket, String> {
        let request = tokio_tungstenite::tungstenite::client::ClientRequestBuilder::new(
            format!("ws://hostler{path}").parse().expect("a uri"),
        )
        .with_sub_protocol("hostler.v1");
        let result = tokio_tungstenite::client_async(request, self.unix().await).await;
        result
            .map(|(socket, _)| socket)
            .map_err(|error| error.to_string())
    }

    pub(crate) async fn socket(&self, path: &str) -> Socket {
        self.try_socket(path).await.expect("a WebSocket")
    }

    pub(crate) async fn exec(&self, session: &str, request: Value) -> Socket {
        let mut socket = self.socket(&format!("/v1/sessions/{session}/exec")).await;
        say(&mut socket, request).await;
        socket
    }
}

pub(crate) async fn say(socket: &mut Socket, what: Value) {
    let text = Message::text(what.to_string());
    socket.send(text).await.expect("sent");
}

pub(crate) async fn give(socket: &mut Socket, bytes: &[u8]) {
    let mut frame = vec![0];
    frame.extend_from_slice(bytes);
    socket.send(Message::binary(frame)).await.expect("sent");
}

/// What came of a stream until it was closed.
#[derive(Debug, Default)]
pub(crate) struct Came {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// All that was said, in order.
    pub(crate) said: Vec<Value>,
    /// The code with which it was closed.
    pub(crate) code: Option<u16>,
}

impl Came {
    pub(crate) fn said(&self, key: &str) -> Option<&Value> {
        self.said.iter().find_map(|said| said.get(key))
    }

    /// Takes one frame in; whether there may be more.
    pub(crate) fn take(
        &mut self,
        frame: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
    ) -> bool {
        match frame {
            Some(Ok(Message::Binary(bytes))) => match bytes.first() {
                Some(1) => self.stdout.extend_from_slice(&bytes[1..]),
                Some(2) => self.stderr.extend_from_slice(&bytes[1..]),
                other => panic!("a frame of stream {other:?}"),
            },
            Some(Ok(Message::Text(text))) => {
                self.said.push(serde_json::from_str(&text).expect("JSON"));
            }
            Some(Ok(Message::Close(frame))) => self.code = frame.map(|frame| frame.code.into()),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return false,
        }
        true
    }
}

/// Reads until a condition holds.
pub(crate) async fn read_until(
    socket: &mut Socket,
    came: &mut Came,
    holds: impl Fn(&Came) -> bool,
) {
    let reading = async {
        while !holds(came) {
            assert!(
                came.take(socket.next().await),
                "closed early: {:?}",
                came.said
            );
        }
    };
    tokio::time::timeout(long(), reading)
        .await
        .expect("in time");
}

/// Reads to the end.
pub(crate) async fn drain(socket: &mut Socket) -> Came {
    let mut came = Came::default();
    let reading = async { while came.take(socket.next().await) {} };
    tokio::time::timeout(long(), reading)
        .await
        .expect("in time");
    came
}

/// Runs a test.
pub(crate) fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test);
}
