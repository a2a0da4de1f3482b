//! What a host adds to what an agent says: time, rate, what many clients cost, and the first token.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::agent::clock;
use crate::client::{Client, Protocol};

/// Where clients go, and how.
#[derive(Debug, Clone)]
pub(crate) struct To {
    pub(crate) protocol: Protocol,
    pub(crate) address: String,
}

impl To {
    async fn client(&self, agent: &str) -> io::Result<Client> {
        Client::new(self.protocol, &self.address, agent).await
    }

    async fn sessions(&self, count: usize) -> io::Result<Vec<Client>> {
        let mut all = Vec::new();
        for _ in 0..count {
            let mut client = self.client("bench").await?;
            client.open().await?;
            // Its agent is up once it has said something.
            client.prompt("flood 1").await?;
            client.update().await?;
            client.ended().await?;
            all.push(client);
        }
        Ok(all)
    }
}

/// Prints p50, p99 and the longest of times in nanoseconds.
pub(crate) fn tell(name: &str, all: &mut [i64]) {
    all.sort_unstable();
    for (what, percent) in [("p50", 50), ("p99", 99), ("max", 100)] {
        let at = (all.len() * percent / 100).min(all.len() - 1);
        println!("{name}_{what}_us {:.1}", all[at] as f64 / 1000.0);
    }
}

/// From an agent's write until a client has it: so many sessions, each with so many updates that far apart.
pub(crate) async fn latency(to: &To, sessions: usize, each: usize, pause: u64) -> io::Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for (at, mut client) in to.sessions(sessions).await?.into_iter().enumerate() {
        // Sessions have nothing to do with each other; all wait until the last has been prompted.
        let phase = 500_000 + at as u64 * pause / sessions as u64;
        tasks.spawn(async move {
            client
                .prompt(&format!("tick {each} {pause} {phase}"))
                .await?;
            client.updates(each).await
        });
    }
    let mut all = Vec::new();
    for done in tasks.join_all().await {
        all.extend(done?);
    }
    tell("token", &mut all);
    Ok(())
}

/// Agents that write as fast as they can, one client each.
pub(crate) async fn rate(to: &To, sessions: usize, each: usize) -> io::Result<()> {
    let all = to.sessions(sessions).await?;
    let mut tasks = tokio::task::JoinSet::new();
    let began = Instant::now();
    for mut client in all {
        tasks.spawn(async move {
            client.prompt(&format!("flood {each}")).await?;
            client.updates(each).await
        });
    }
    let mut seen = 0;
    for done in tasks.join_all().await {
        seen += done?.len();
    }
    println!(
        "updates_a_second {:.0}",
        seen as f64 / began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The processor time that a process has used so far.
fn used(pid: Option<&str>) -> f64 {
    let Some(pid) = pid else { return 0.0 };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |at| rest.split_ascii_whitespace().nth(at)?.parse::<f64>().ok();
    let ticks = ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0);
    ticks * 1e6 / rustix::param::clock_ticks_per_second() as f64
}

/// So many clients on one session, in turns that are short enough for the slowest.
pub(crate) async fn sharing(
    to: &To,
    clients: usize,
    updates: usize,
    turns: usize,
    host: Option<&str>,
) -> io::Result<()> {
    let mut first = to.sessions(1).await?.remove(0);
    let mut others = Vec::new();
    for _ in 1..clients {
        let mut client = to.client("bench").await?;
        client.join(&first.session).await?;
        others.push(client);
    }
    let (mut took, cpu) = (Duration::ZERO, used(host));
    for _ in 0..turns {
        let began = Instant::now();
        first.prompt(&format!("flood {updates}")).await?;
        let mut tasks = tokio::task::JoinSet::new();
        for mut client in others.drain(..) {
            tasks.spawn(async move {
                client.updates(updates).await?;
                Ok::<_, io::Error>(client)
            });
        }
        first.updates(updates).await?;
        for done in tasks.join_all().await {
            others.push(done?);
        }
        took += began.elapsed();
        first.ended().await?;
    }
    println!("wall_us {:.0}", took.as_secs_f64() * 1e6);
    println!("cpu_us {:.0}", used(host) - cpu);
    Ok(())
}

/// From the request for a session to the first token. `ready`: where agents note that they are up ahead of that.
pub(crate) async fn first(
    to: &To,
    agent: &str,
    rounds: usize,
    ready: Option<&Path>,
) -> io::Result<()> {
    let up = || {
        ready.map_or(0, |path| {
            std::fs::metadata(path).map_or(0, |file| file.len())
        })
    };
    let mut all = Vec::new();
    let mut before = 0;
    for _ in 0..rounds {
        let mut client = to.client(agent).await?;
        let until = Instant::now() + Duration::from_secs(20);
        while ready.is_some() && up() <= before && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        before = up();
        // What the agent has just said is taken, and the machine at rest.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let began = clock();
        client.open().await?;
        client.prompt("flood 1").await?;
        client.update().await?;
        all.push(clock() - began);
    }
    tell("first", &mut all);
    Ok(())
}
