//! Ending a process with all that came of it, until its ports are free again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use hostler_process::sockets;
use hyper::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::held;
use super::told::{Ended, Member, list, members, ports};
use crate::client::api::Process;
use crate::client::error::{Failure, Result};
use crate::client::host::{Host, part, understand};
use crate::client::signals;

/// The grace of what was orphaned, where none is asked for. (What is under the process has the session's.)
const GRACE: Duration = Duration::from_secs(5);
/// How long after SIGKILL it may take until nothing is left, and until the ports are free.
const CLEARED: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// What an end came to.
#[derive(Debug, Serialize)]
pub(super) struct Stopped {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Whether nothing of it lives and all its ports are free.
    stopped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<Ended>,
    /// How many processes came to an end with it.
    ended: usize,
    /// The ports on which it listened, and nobody listens any more.
    ports_free: Vec<u16>,
    /// Those on which somebody still does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports_taken: Vec<Taken>,
    /// What of it still lives: it could not be ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left: Vec<String>,
    took_ms: u64,
}

/// A port that is not free.
#[derive(Debug, Serialize)]
struct Taken {
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
}

impl Stopped {
    /// Whether it is as was asked for.
    pub(super) fn is_whole(&self) -> bool {
        self.stopped
    }

    /// In a line.
    pub(super) fn line(&self) -> String {
        let name = self.name.as_ref().map(|name| format!(" ({name})"));
        let name = format!("{}{}", self.id, name.unwrap_or_default());
        let mut line = match (self.stopped, self.ended) {
            (true, 0) => format!("{name} had ended already; nothing of it is left"),
            (true, _) => format!("{name} is stopped; nothing of it is left"),
            (false, _) if self.left.is_empty() => format!("{name} is ended"),
            (false, _) => format!("{name} is NOT stopped: {} still run", list(&self.left)),
        };
        if !self.ports_free.is_empty() {
            line += &format!("; free again: port {}", list(&self.ports_free));
        }
        for taken in &self.ports_taken {
            let by = taken.by.as_deref().unwrap_or("a process of another user");
            line += &format!("; port {} is NOT free: {by} listens there", taken.port);
        }
        line
    }
}

/// How to end it.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// The first signal.
    pub(super) signal: i32,
    /// How long until the last one; the session's grace where there is none.
    pub(super) grace: Option<Duration>,
}

/// Ends it: first itself and what is under it, then what it has orphaned; and waits until its ports are free, for a bounded time.
pub(super) async fn stop(host: &mut Host, process: &Process, how: How) -> Result<Stopped> {
    let began = Instant::now();
    let mut seen = Seen::default();
    seen.add(members(host, &process.id).await?);
    let own = format!("/v1/processes/{}", part(&process.id));
    let mut grace = how.grace;
    if how.signal == signals::KILL {
        grace = Some(Duration::ZERO);
    } else if how.signal != signals::TERM && !process.has_ended() {
        let given = grace.unwrap_or(GRACE);
        first(host, &own, how.signal, given).await?;
        // That was its grace.
        grace = Some(given.saturating_sub(began.elapsed()));
    }
    let query = grace.map(|grace| format!("?grace={}", grace.as_secs_f64()));
    let path = format!("{own}{}", query.unwrap_or_default());
    let ended: Process = understand(host.json(Method::DELETE, &path, None).await?)?;

    let kill_at = Instant::now() + grace.unwrap_or(GRACE);
    let left = loop {
        let left = members(host, &process.id).await?;
        seen.add(left.clone());
        if left.is_empty() || Instant::now() > kill_at + CLEARED {
            break left;
        }
        let kills = Instant::now() >= kill_at;
        for member in &left {
            let who = (member.pid, member.start_time);
            let told = if kills {
                &mut seen.killed
            } else {
                &mut seen.asked
            };
            if told.insert(who) {
                signal(host, &own, member, if kills { "KILL" } else { "TERM" }).await?;
            }
        }
        sleep(PAUSE).await;
    };
    let listened = seen.ports.iter().copied().collect::<Vec<_>>();
    let taken = until_free(&listened).await;
    let busy: HashSet<u16> = taken.iter().map(|taken| taken.port).collect();
    Ok(Stopped {
        id: process.id.clone(),
        name: process.name.clone(),
        stopped: left.is_empty() && taken.is_empty(),
        exit: ended.exit.map(Ended::from),
        ended: seen.who.len().saturating_sub(left.len()),
        ports_free: listened
            .into_iter()
            .filter(|port| !busy.contains(port))
            .collect(),
        ports_taken: taken,
        left: left
            .iter()
            .map(|member| format!("{} (pid {})", member.command, member.pid))
            .collect(),
        took_ms: began.elapsed().as_millis() as u64,
    })
}

/// What was seen of it on the way.
#[derive(Debug, Default)]
struct Seen {
    who: HashSet<(u32, u64)>,
    ports: BTreeSet<u16>,
    asked: HashSet<(u32, u64)>,
    killed: HashSet<(u32, u64)>,
}

impl Seen {
    fn add(&mut self, members: Vec<Member>) {
        self.ports.extend(ports(&members));
        let who = members
            .iter()
            .filter(|member| !held::holds(&member.command))
            .map(|member| (member.pid, member.start_time));
        self.who.extend(who);
    }
}

/// Sends the first signal to its group, as a terminal would, and waits for its end.
async fn first(host: &mut Host, own: &str, number: i32, grace: Duration) -> Result<()> {
    let body = json!({ "signal": signals::word(number), "group": true });
    let path = format!("{own}/signal");
    match host.json(Method::POST, &path, Some(&body)).await {
        // It has ended meanwhile.
        Err(Failure::Refused { code, .. }) if code == "conflict" => return Ok(()),
        sent => drop(sent?),
    }
    let path = format!("{own}/wait?timeout={}", grace.as_secs_f64());
    match host.get(&path).await {
        Err(Failure::Refused { code, .. }) if code == "timeout" => Ok(()),
        ended => ended.map(drop),
    }
}

/// Signals one that was orphaned, by its identity.
async fn signal(host: &mut Host, own: &str, member: &Member, word: &str) -> Result<()> {
    let body: Value = json!({
        "signal": word, "pid": member.pid, "start_time": member.start_time,
    });
    match host
        .json(Method::POST, &format!("{own}/signal"), Some(&body))
        .await
    {
        // It is gone, which the next look shows.
        Err(Failure::Refused { .. }) => Ok(()),
        sent => sent.map(drop),
    }
}

/// Waits until nobody listens on any of these ports, for a bounded time; gives those where somebody does.
async fn until_free(ports: &[u16]) -> Vec<Taken> {
    if ports.is_empty() {
        return Vec::new();
    }
    let until = Instant::now() + CLEARED;
    loop {
        let listening: BTreeMap<u16, u64> = sockets::tcp(std::process::id())
            .into_iter()
            .filter(|socket| socket.listens && ports.contains(&socket.local.port))
            .map(|socket| (socket.local.port, socket.inode))
            .collect();
        if listening.is_empty() {
            return Vec::new();
        }
        if Instant::now() >= until {
            let taken = listening.into_iter();
            return taken
                .map(|(port, inode)| Taken {
                    port,
                    by: holder(inode),
                })
                .collect();
        }
        sleep(PAUSE).await;
    }
}

/// Who holds a socket, as far as this user may see.
fn holder(inode: u64) -> Option<String> {
    let entries = std::fs::read_dir("/proc").ok()?;
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|&pid| sockets::held(pid).contains(&inode))
        .find_map(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            Some(format!("{} (pid {pid})", name.trim_end()))
        })
}
