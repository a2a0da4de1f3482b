//! An agent that costs next to nothing, and writes into what it says when it said it.

use std::io::{BufRead, Write};
use std::time::Duration;

use serde_json::{Value, json};

/// The clock that all processes share, in nanoseconds.
pub(crate) fn clock() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// What stands before the time in an update, and nowhere else in what is sent.
pub(crate) const MARK: u8 = b'@';

/// Where it notes, a byte each time, that it has been initialized: the variable has the path.
pub(crate) const NOTE: &str = "BENCH_READY";

fn update(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    writeln!(
        out,
        r#"{{"jsonrpc":"2.0","method":"session/update","params":{{"sessionId":"s","update":{{"sessionUpdate":"agent_message_chunk","content":{{"type":"text","text":"{text}"}}}}}}}}"#
    )
    .expect("written");
}

/// One turn: `tick N MICROSECONDS PHASE` (so far apart, the first after PHASE), `flood N` (as fast as can be),
/// or `say N` (no times).
fn turn(out: &mut impl Write, text: &str) {
    let words: Vec<&str> = text.split(' ').collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    let count = number(1).expect("a number");
    let mark = char::from(MARK);
    let mut lines = Vec::new();
    let mut due = clock() + number(3).unwrap_or(0) as i64 * 1000;
    for _ in 0..count {
        match words[0] {
            "tick" => {
                std::thread::sleep(Duration::from_nanos((due - clock()).max(0) as u64));
                due += number(2).expect("a pause") as i64 * 1000;
                update(&mut lines, format_args!("{mark}{}", clock()));
                out.write_all(&lines)
                    .and_then(|()| out.flush())
                    .expect("written");
                lines.clear();
            }
            "flood" => update(&mut lines, format_args!("{mark}{}", clock())),
            "say" => update(
                &mut lines,
                format_args!("Some words of an answer that is long enough. "),
            ),
            other => panic!("what is `{other}`?"),
        }
        if lines.len() > 60 << 10 {
            out.write_all(&lines).expect("written");
            lines.clear();
        }
    }
    out.write_all(&lines).expect("written");
}

/// Answers what it is asked, until its input ends.
pub(crate) fn run() {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let asked: Value = serde_json::from_str(&line).expect("JSON");
        let method = asked["method"].as_str().unwrap_or_default();
        let answer = match method {
            "initialize" => {
                json!({"protocolVersion": 1, "agentCapabilities": {"loadSession": false}})
            }
            "session/new" => json!({"sessionId": "s"}),
            "session/prompt" => {
                let text = asked["params"]["prompt"][0]["text"].as_str();
                turn(&mut out, text.expect("text"));
                json!({"stopReason": "end_turn"})
            }
            _ => json!({}),
        };
        if asked.get("id").is_some() {
            let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": answer});
            writeln!(out, "{answer}")
                .and_then(|()| out.flush())
                .expect("written");
        }
        if let ("initialize", Some(path)) = (method, std::env::var_os(NOTE)) {
            let file = std::fs::File::options()
                .append(true)
                .create(true)
                .open(path);
            file.and_then(|mut file| file.write_all(b"."))
                .expect("noted");
        }
    }
}
