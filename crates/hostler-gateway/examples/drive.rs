//! Drives a host over its API, for `benches/host.py`: one connection a thread, kept alive, no more than that, so that what is
//! measured is the host. Prints `key value` lines; times are in microseconds.
//!
//! ```sh
//! drive ADDRESS cycles N THREADS          # open, run `true`, close: N times, and then by so many at once
//! drive ADDRESS run N                     # `true` in an open session
//! drive ADDRESS close N PROCESSES         # the close of a session with so many that sleep
//! drive ADDRESS fill N POLICY             # opens N sessions (POLICY: JSON) with a sleeping process each
//! drive ADDRESS list N                    # what `ps` asks
//! drive ADDRESS terminal ATTACH ARGV...   # throughput of a terminal; ATTACH is a WebSocket's subprotocol
//! drive ADDRESS post N PATH BODY          # any request: for peers
//! ```
//!
//! ADDRESS is the path of a Unix socket, or HOST:PORT.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// No answer takes longer, or it does not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most that is read of a terminal at once.
const READ: usize = 256 << 10;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A connection that is kept alive.
struct Client {
    stream: BufReader<Box<dyn Stream>>,
}

impl Client {
    fn new(address: &str) -> io::Result<Self> {
        let stream: Box<dyn Stream> = if address.starts_with('/') {
            let stream = UnixStream::connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Box::new(stream)
        } else {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Box::new(stream)
        };
        let stream = BufReader::with_capacity(READ, stream);
        Ok(Self { stream })
    }

    /// One request; its answer's body.
    fn ask(&mut self, method: &str, path: &str, body: &str) -> io::Result<String> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (status, length) = self.head()?;
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if (200..300).contains(&status) {
            Ok(text)
        } else {
            Err(io::Error::other(format!(
                "{method} {path}: {status} {text}"
            )))
        }
    }

    /// Reads an answer's head: its status, and how long its body is.
    fn head(&mut self) -> io::Result<(u16, usize)> {
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                return Ok((status, length));
            }
            if status == 0 {
                status = line
                    .split(' ')
                    .nth(1)
                    .and_then(|word| word.parse().ok())
                    .unwrap_or(1);
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
    }

    fn open(&mut self, policy: &str) -> io::Result<String> {
        let body = if policy.is_empty() {
            "{}".to_owned()
        } else {
            format!("{{\"policy\":{policy}}}")
        };
        id(&self.ask("POST", "/v1/sessions", &body)?)
    }

    fn run_true(&mut self, session: &str) -> io::Result<()> {
        let answer = self.ask(
            "POST",
            &format!("/v1/sessions/{session}/run"),
            r#"{"argv":["/bin/true"]}"#,
        )?;
        if answer.contains("\"code\":0") {
            Ok(())
        } else {
            Err(io::Error::other(answer))
        }
    }

    fn start(&mut self, session: &str, argv: &str, more: &str) -> io::Result<String> {
        let body = format!("{{\"argv\":{argv}{more}}}");
        id(&self.ask("POST", &format!("/v1/sessions/{session}/processes"), &body)?)
    }

    fn close(&mut self, session: &str) -> io::Result<()> {
        self.ask("DELETE", &format!("/v1/sessions/{session}"), "")
            .map(drop)
    }

    /// Reads a WebSocket's output to its end: how many bytes there were.
    fn follow(&mut self, path: &str, protocol: &str) -> io::Result<u64> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: {protocol}\r\n\r\n"
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (status, _) = self.head()?;
        if status != 101 {
            return Err(io::Error::other(format!("GET {path}: {status}")));
        }
        let mut total = 0;
        loop {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head)?;
            let length = match head[1] & 0x7f {
                126 => {
                    let mut bytes = [0; 2];
                    self.stream.read_exact(&mut bytes)?;
                    u16::from_be_bytes(bytes).into()
                }
                127 => {
                    let mut bytes = [0; 8];
                    self.stream.read_exact(&mut bytes)?;
                    u64::from_be_bytes(bytes)
                }
                short => short.into(),
            };
            io::copy(&mut self.stream.by_ref().take(length), &mut io::sink())?;
            match head[0] & 0x0f {
                // Data; its first byte says of what.
                2 => total += length.saturating_sub(1),
                8 => return Ok(total),
                _ => {}
            }
        }
    }
}

/// The first `id` in an answer.
fn id(answer: &str) -> io::Result<String> {
    let id = answer
        .split("\"id\":\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    id.map(str::to_owned)
        .ok_or_else(|| io::Error::other(format!("no id in {answer}")))
}

/// Prints p50 and p90 of times.
fn tell(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    for (what, part) in [("p50", 0.5), ("p90", 0.9)] {
        let at = (times.len() as f64 * part) as usize;
        if let Some(time) = times.get(at.min(times.len().saturating_sub(1))) {
            println!("{name}_{what}_us {:.0}", time.as_secs_f64() * 1e6);
        }
    }
}

/// Does something as often, and gives how long each took.
fn timed(rounds: usize, mut act: impl FnMut() -> io::Result<()>) -> io::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let began = Instant::now();
        act()?;
        times.push(began.elapsed());
    }
    Ok(times)
}

fn cycle(client: &mut Client, parts: &mut [Vec<Duration>; 3]) -> io::Result<()> {
    let began = Instant::now();
    let session = client.open("")?;
    let opened = began.elapsed();
    client.run_true(&session)?;
    let ran = began.elapsed();
    client.close(&session)?;
    parts[0].push(opened);
    parts[1].push(ran - opened);
    parts[2].push(began.elapsed() - ran);
    Ok(())
}

fn cycles(address: &str, rounds: usize, threads: usize) -> io::Result<()> {
    let mut client = Client::new(address)?;
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    let times = timed(rounds, || cycle(&mut client, &mut parts))?;
    tell("cycle", times);
    for (name, part) in ["open", "run", "close"].into_iter().zip(parts) {
        tell(name, part);
    }
    let began = Instant::now();
    let each = rounds / threads.max(1);
    std::thread::scope(|scope| {
        let work = || {
            let mut client = Client::new(address)?;
            timed(each, || cycle(&mut client, &mut Default::default())).map(drop)
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        all.into_iter()
            .try_for_each(|one| one.join().unwrap_or(Err(io::ErrorKind::Other.into())))
    })?;
    println!(
        "cycles_a_second {:.0}",
        (each * threads) as f64 / began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn run(address: &str, rounds: usize) -> io::Result<()> {
    let mut client = Client::new(address)?;
    let session = client.open("")?;
    let times = timed(rounds, || client.run_true(&session))?;
    tell("run", times);
    client.close(&session)
}

fn close(address: &str, rounds: usize, processes: usize) -> io::Result<()> {
    let mut client = Client::new(address)?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let session = client.open("")?;
        for _ in 0..processes {
            client.start(&session, r#"["/bin/sleep","120"]"#, "")?;
        }
        let began = Instant::now();
        client.close(&session)?;
        times.push(began.elapsed());
    }
    tell("close", times);
    Ok(())
}

fn fill(address: &str, count: usize, policy: &str) -> io::Result<()> {
    let mut client = Client::new(address)?;
    for _ in 0..count {
        let session = client.open(policy)?;
        client.start(&session, r#"["/bin/sleep","120"]"#, "")?;
    }
    println!("sessions {count}");
    Ok(())
}

fn list(address: &str, rounds: usize) -> io::Result<()> {
    let mut client = Client::new(address)?;
    let mut count = 0;
    let times = timed(rounds, || {
        client.ask("GET", "/v1/sessions", "")?;
        let answer = client.ask("GET", "/v1/processes", "")?;
        count = answer.matches("\"state\":\"running\"").count();
        Ok(())
    })?;
    println!("running {count}");
    tell("list", times);
    Ok(())
}

fn terminal(address: &str, protocol: &str, argv: &[String]) -> io::Result<()> {
    let mut client = Client::new(address)?;
    let session = client.open("")?;
    let words: Vec<String> = argv.iter().map(|word| format!("{word:?}")).collect();
    // It waits for a line, so that the whole of its output is followed.
    let script = format!(
        r#"["/bin/sh","-c","read line; exec \"$@\"","sh",{}]"#,
        words.join(",")
    );
    let process = client.start(
        &session,
        &script,
        r#","tty":{"rows":24,"cols":80},"keep_output":{"whole":true}"#,
    )?;
    let mut follower = Client::new(address)?;
    let began = Instant::now();
    client.ask("POST", &format!("/v1/processes/{process}/input"), "\n")?;
    let bytes = follower.follow(&format!("/v1/processes/{process}/attach?from=0"), protocol)?;
    let took = began.elapsed().as_secs_f64();
    println!("terminal_bytes {bytes}");
    println!("terminal_mb_s {:.1}", bytes as f64 / 1e6 / took);
    client.close(&session)
}

fn post(address: &str, rounds: usize, path: &str, body: &str) -> io::Result<()> {
    let mut client = Client::new(address)?;
    let times = timed(rounds, || client.ask("POST", path, body).map(drop))?;
    tell("post", times);
    Ok(())
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| {
        words
            .get(at)
            .and_then(|word| word.parse::<usize>().ok())
            .unwrap_or(1)
    };
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let address = word(0);
    let done = match word(1) {
        "cycles" => cycles(address, number(2), number(3)),
        "run" => run(address, number(2)),
        "close" => close(address, number(2), number(3)),
        "fill" => fill(address, number(2), word(3)),
        "list" => list(address, number(2)),
        "terminal" => terminal(address, word(2), words.get(3..).unwrap_or_default()),
        "post" => post(address, number(2), word(3), word(4)),
        other => Err(io::Error::other(format!("what is `{other}`?"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drive: {error}");
            ExitCode::FAILURE
        }
    }
}
