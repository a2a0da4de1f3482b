//! What comes between what an agent or a program writes and a client on a WebSocket: agent, bare relay, clients and clocks for
//! `benches/agents.py` and `benches/ahp.py`. Prints `key value` lines; times are in microseconds.
//!
//! ```sh
//! stream agent                                              # an agent (ACP on stdio)
//! stream relay SOCKET                                       # the bare relay
//! stream tokens PROTOCOL ADDRESS SESSIONS EACH PAUSE        # from the agent's write to the client; PAUSE in µs
//! stream rate PROTOCOL ADDRESS SESSIONS EACH                # updates a second
//! stream share PROTOCOL ADDRESS CLIENTS EACH TURNS [PID]    # many clients on one session; PID: of the host
//! stream first PROTOCOL ADDRESS AGENT ROUNDS [NOTES]        # the first token of a session; NOTES: see `agent`
//! stream sandbox ADDRESS SESSIONS EACH PAUSE                # `tokens`, and with a PAUSE of 0 `rate`, of sandbox-agent
//! stream history ADDRESS TURNS                              # makes a session with a past
//! stream join ADDRESS CHAT TURNS ROUNDS [whole]             # snapshots with TURNS turns (0: all)
//! stream stall ADDRESS CHAT ROUNDS                          # tokens of another session while CHAT is joined wholly
//! stream terminal ADDRESS LAST                              # `seq 1 LAST` by AHP
//! stream tap ADDRESS PATH LAST FIRST END                    # the same of a peer
//! ```
//!
//! PROTOCOL: bare, acp or ahp. ADDRESS: the path of a Unix socket, or HOST:PORT.

mod agent;
mod client;
mod history;
mod relay;
mod sandbox;
mod socket;
mod terminal;
mod tokens;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use client::Protocol;
use tokens::To;

/// Nothing takes longer, or it does not end.
const PATIENCE: Duration = Duration::from_secs(170);

async fn run(words: &[&str]) -> io::Result<()> {
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    let count = |at: usize| number(at).unwrap_or(1) as usize;
    let to = |protocol: &str, address: &str| To {
        protocol: Protocol::named(protocol),
        address: address.to_owned(),
    };
    match *words {
        ["tokens", protocol, address, ..] => {
            let pause = number(5).unwrap_or(1000);
            tokens::latency(&to(protocol, address), count(3), count(4), pause).await
        }
        ["rate", protocol, address, ..] => {
            tokens::rate(&to(protocol, address), count(3), count(4)).await
        }
        ["share", protocol, address, ..] => {
            let host = words.get(6).copied();
            tokens::sharing(&to(protocol, address), count(3), count(4), count(5), host).await
        }
        ["first", protocol, address, agent, ..] => {
            let notes = words.get(5).map(Path::new);
            tokens::first(&to(protocol, address), agent, count(4), notes).await
        }
        ["sandbox", address, ..] => {
            sandbox::tokens(address, count(2), count(3), number(4).unwrap_or(0)).await
        }
        ["history", address, ..] => history::make(address, count(2)).await,
        ["join", address, chat, ..] => {
            let turns = number(3).filter(|turns| *turns > 0);
            history::join(
                address,
                chat,
                turns,
                count(4),
                words.get(5) == Some(&"whole"),
            )
            .await
        }
        ["stall", address, chat, ..] => history::stall(address, chat, count(3)).await,
        ["terminal", address, ..] => terminal::ours(address, number(2).unwrap_or(1)).await,
        ["tap", address, path, last, first, end] => {
            let last = last.parse().map_err(io::Error::other)?;
            terminal::peers(address, path, last, first, end).await
        }
        _ => Err(io::Error::other(format!("what is {words:?}?"))),
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if words == ["agent"] {
        agent::run();
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let done = runtime.and_then(|runtime| {
        runtime.block_on(async {
            if let ["relay", socket] = *words {
                relay::serve(Path::new(socket)).await;
                return Ok(());
            }
            let done = tokio::time::timeout(PATIENCE, run(&words)).await;
            done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stream: {error}");
            ExitCode::FAILURE
        }
    }
}
