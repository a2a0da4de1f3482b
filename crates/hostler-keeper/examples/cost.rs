//! Measures what a keeper costs: its memory, its start, a spawn through it. Prints `key value` lines for `benches/session.py`.
//!
//! ```text
//! cost keepers N                  averages over N living keepers, in bytes
//! cost ready N                    from asking the zygote until the keeper answers, in microseconds
//! cost spawn N --resident SIZE    from asking the keeper until the program runs, and until its exit is told, in
//!                                 microseconds; this process has SIZE (20M, 2G) of memory resident meanwhile
//! ```
#![allow(missing_docs)]

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use hostler_keeper::config::{Contain, KeeperConfig};
use hostler_keeper::connection::Connection;
use hostler_keeper::identity::{Key, ProcessId};
use hostler_keeper::message::{
    Event, Group, Reply, Request, Spawn, Tidy, ZygoteReply, ZygoteRequest,
};
use hostler_keeper::zygote::Zygote;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // First, as a host does: while this process is small.
    let zygote = Zygote::fork()?;
    match words[..] {
        ["keepers", count] => keepers(&zygote, count.parse()?),
        ["ready", count] => ready(&zygote, count.parse()?),
        ["spawn", count, "--resident", size] => spawn(&zygote, count.parse()?, bytes(size)?),
        _ => Err("usage: cost keepers N | ready N | spawn N --resident SIZE".into()),
    }
}

fn bytes(size: &str) -> Result<usize> {
    let (number, shift) = match size.split_at_checked(size.len().saturating_sub(1)) {
        Some((number, "M")) => (number, 20),
        Some((number, "G")) => (number, 30),
        _ => return Err("a size is a number and M or G".into()),
    };
    Ok(number.parse::<usize>()? << shift)
}

/// A keeper: who it is, and the connection to it.
struct Keeper {
    id: ProcessId,
    connection: Connection,
}

impl Keeper {
    /// Has the zygote fork one, and waits until it says that it is ready.
    fn new(zygote: &Zygote) -> Result<Self> {
        let (connection, theirs) = Connection::pair()?;
        let config = KeeperConfig::new(Contain::Tree, Duration::from_secs(1));
        let request = ZygoteRequest::Keeper(Box::new(config));
        zygote.connection.send(1, &request, &[theirs.as_fd()])?;
        drop(theirs);
        let ready = connection.receive()?.ok_or("the keeper hung up")?;
        let Event::Ready { .. } = ready.message()? else {
            return Err("the keeper is not ready".into());
        };
        loop {
            let reply = zygote.connection.receive()?.ok_or("the zygote hung up")?;
            match reply.message()? {
                ZygoteReply::Forked(id) => return Ok(Self { id, connection }),
                ZygoteReply::Failed(failure) => return Err(failure.into()),
                // Of one that was ended before.
                ZygoteReply::KeeperGone { .. } | ZygoteReply::Signalled { .. } => {}
            }
        }
    }

    /// Ends its tree, and so the keeper.
    fn end(self) -> Result<()> {
        let grace = Duration::ZERO;
        self.connection.send(1, &Request::End { grace }, &[])?;
        while let Some(received) = self.connection.receive()? {
            if let Ok(Reply::Ended(report)) = received.message() {
                assert_eq!(report.remaining, 0);
            }
        }
        Ok(())
    }
}

fn keepers(zygote: &Zygote, count: u64) -> Result<()> {
    let living = (0..count)
        .map(|_| Keeper::new(zygote))
        .collect::<Result<Vec<_>>>()?;
    let (mut dirty, mut pages) = (0, 0);
    for keeper in &living {
        let pid = keeper.id.pid;
        dirty += kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Private_Dirty:")?;
        pages += kilobytes(&format!("/proc/{pid}/status"), "VmPTE:")?;
    }
    println!("private_dirty_bytes {}", dirty * 1024 / count);
    println!("page_table_bytes {}", pages * 1024 / count);
    living.into_iter().try_for_each(Keeper::end)
}

/// The number of kB behind `key` in a file of /proc.
fn kilobytes(path: &str, key: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number
        .ok_or_else(|| format!("no {key} in {path}"))?
        .parse()?)
}

fn ready(zygote: &Zygote, count: usize) -> Result<()> {
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        let keeper = Keeper::new(zygote)?;
        took.push(began.elapsed());
        keeper.end()?;
    }
    print("ready", took);
    Ok(())
}

fn spawn(zygote: &Zygote, count: u64, resident: usize) -> Result<()> {
    let mut memory = vec![0u8; resident];
    // Every page is written, or it would not be resident.
    memory.chunks_mut(4096).for_each(|page| page[0] = 1);
    let keeper = Keeper::new(zygote)?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    let standard: [BorrowedFd<'_>; 3] = [null.as_fd(); 3];
    let (mut runs, mut ends) = (Vec::new(), Vec::new());
    for number in 0..count {
        let key = Key(number + 1);
        let request = Request::Spawn(Box::new(program(key)));
        let began = Instant::now();
        keeper.connection.send(1, &request, &standard)?;
        // The exit may be told first: the program is over quickly.
        let (mut run, mut end) = (None, None);
        while run.is_none() || end.is_none() {
            let received = keeper.connection.receive()?.ok_or("the keeper hung up")?;
            if received.header.id == 0 {
                if let Event::Exited { .. } = received.message()? {
                    end = Some(began.elapsed());
                }
            } else if received.header.id == 1 {
                match received.message()? {
                    Reply::Spawned(_) => run = Some(began.elapsed()),
                    Reply::Failed(failure) => return Err(failure.into()),
                    _ => {}
                }
            }
        }
        runs.extend(run);
        ends.extend(end);
        keeper.connection.send(2, &Request::Forget { key }, &[])?;
        keeper.connection.receive()?;
    }
    print("spawn", runs);
    print("wall", ends);
    assert!(memory.iter().step_by(4096).all(|byte| *byte == 1));
    keeper.end()
}

fn program(key: Key) -> Spawn<'static> {
    const NAME: &CStr = c"/usr/bin/true";
    Spawn {
        key,
        main: false,
        program: NAME,
        args: vec![NAME],
        env: Vec::new(),
        cwd: None,
        fds: vec![0, 1, 2],
        group: Group::Session,
        nice: None,
        umask: None,
        rlimits: Vec::new(),
        blocked: 0,
        ignored: Some(0),
        stored: Vec::new(),
        tidy: Tidy::default(),
    }
}

/// Prints the median and the 90th percentile, in microseconds.
fn print(name: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    for percent in [50, 90] {
        let at = (took.len() * percent / 100).min(took.len().saturating_sub(1));
        let micros = took.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e6);
        println!("{name}_p{percent}_us {micros:.1}");
    }
}
