//! Random schedules of holders, uses, drops and kills: at the end of each there are no members, and no processes.
//!
//! `HOSTLER_SEED` gives the seed, `HOSTLER_SCHEDULES` how many there are. A schedule that fails prints its own seed, with which
//! it is the first one.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hostler_agent::{AgentPool, Conversation, PoolOptions, PoolUse, Wanted};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::pool::{peers, shared, wanted};
use super::support::*;

#[path = "../support/random.rs"]
mod random;

use random::{Random, number};

/// How many run at once.
const AT_ONCE: usize = 4;
const HOLDERS: [&str; 4] = ["one", "two", "three", "four"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_random_schedules_there_are_no_members_and_no_processes() {
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock");
    let seed = number("HOSTLER_SEED").unwrap_or(clock.as_nanos() as u64 >> 10);
    let count = number("HOSTLER_SCHEDULES").unwrap_or(200);
    println!("HOSTLER_SEED={seed} HOSTLER_SCHEDULES={count}");
    let began = std::time::Instant::now();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut schedules = JoinSet::new();
    for seed in (0..count).map(|index| seed.wrapping_add(index)) {
        let turns = turns.clone();
        schedules.spawn(async move {
            let _turn = turns.acquire_owned().await;
            let time = Duration::from_secs(20) * slack();
            let task = tokio::spawn(schedule(seed));
            match tokio::time::timeout(time, task).await {
                Ok(Ok(given)) => Ok(given),
                Ok(Err(_)) => Err(seed),
                Err(_) => {
                    eprintln!("HOSTLER_SEED={seed} hangs");
                    Err(seed)
                }
            }
        });
    }
    let (mut given, mut failed) = (0, Vec::new());
    for outcome in schedules.join_all().await {
        match outcome {
            Ok(more) => given += more,
            Err(seed) => failed.push(seed),
        }
    }
    println!("{given} uses in {:?}", began.elapsed());
    assert!(
        failed.is_empty(),
        "HOSTLER_SEED of those that failed: {failed:?}"
    );
    assert!(count == 0 || given > 0, "nothing was ever given out");
}

/// One use: from its request to its end, or to where it is broken off.
async fn usage(pool: AgentPool, wanted: Wanted, seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let patience = match random.percent(30) {
        true => Duration::from_millis(random.below(150)),
        false => Duration::from_secs(600),
    };
    let Ok(Ok(used)) = tokio::time::timeout(patience, pool.acquire(wanted)).await else {
        return 0;
    };
    use_it(used, &mut random).await;
    1
}

/// Cancels a turn when whoever asked for it is gone, as who uses a pool has to.
struct Cancels(Conversation, u64);

impl Drop for Cancels {
    fn drop(&mut self) {
        self.0.cancel_turn(self.1);
    }
}

async fn use_it(used: PoolUse, random: &mut Random) {
    let conversation = used.conversation().clone();
    let what = match random.below(6) {
        0 => "wait",
        1 => "crash",
        2 => "child",
        3 => "slow 10 10",
        _ => "stream 3",
    };
    if let Ok(turn) = conversation.prompt(text(what), by()).await {
        let cancels = Cancels(conversation, turn.id);
        if what == "wait" || random.percent(30) {
            tokio::time::sleep(Duration::from_millis(random.below(50))).await;
            drop(cancels);
        }
        if random.percent(70) {
            turn.ended().await;
        }
    }
    if random.percent(20) {
        used.discard("a schedule says so");
    }
}

async fn schedule(seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let mut env = Vec::new();
    if random.percent(20) {
        env.push(("PEER_FAIL", "second"));
    }
    if random.percent(20) {
        env.push(("PEER_SLOW", "30"));
    }
    if random.percent(30) {
        env.push(("PEER_LOAD", "1"));
    }
    let host = Host::new(&env);
    let with = PoolOptions {
        warm: Duration::from_millis(random.below(3) * 40),
        all: random.below(4) as usize,
        by_agent: random.below(3) as usize * 2,
        by_group: random.below(3) as usize,
    };
    let most = [with.all, with.by_agent]
        .into_iter()
        .filter(|cap| *cap > 0)
        .min();
    let pool = AgentPool::new(host.agents.clone(), with);
    let mut uses = JoinSet::new();
    let mut given = 0;
    for _ in 0..6 + random.below(10) {
        let holder = HOLDERS[random.below(4) as usize];
        match random.below(10) {
            0 => pool.release_holder(holder),
            1 => {
                let all = host.stage.living();
                let peers: Vec<_> = all.iter().filter(|one| one.name == "peer").collect();
                if let Some(index) = random.pick(&peers) {
                    peers[index].signal(rustix::process::Signal::KILL);
                }
            }
            2 => uses.abort_all(),
            3 => {
                let sessions = host.stage.sessions.list();
                if let Some(index) = random.pick(&sessions) {
                    let session = sessions[index].clone();
                    tokio::spawn(async move {
                        let reason = hostler_session::CloseReason::Client;
                        let _ = session.close(reason, by(), None).await;
                    });
                }
            }
            _ => {
                let mut what = match random.percent(50) {
                    true => wanted(&host, holder),
                    false => shared(&host, holder, ["a", "b"][random.below(2) as usize]),
                };
                if random.percent(40) {
                    what.group = Some(["red", "blue"][random.below(2) as usize].into());
                }
                if what.shared.is_none() && random.percent(20) {
                    what.new.cwd = "/".into();
                }
                uses.spawn(usage(pool.clone(), what, random.next()));
            }
        }
        if random.percent(60) {
            tokio::time::sleep(Duration::from_millis(random.below(80))).await;
        }
        if let Some(most) = most {
            // By the kernel, never more than may be.
            let (up, members) = (peers(&host), pool.members());
            assert!(
                up <= most,
                "HOSTLER_SEED={seed}: {up} are over {most}: {:?} {members:#?}",
                host.stage.living()
            );
        }
    }
    if random.percent(30) {
        pool.end().await;
    } else if random.percent(50) {
        uses.abort_all();
    }
    let in_time = Duration::from_secs(15) * slack();
    let all = async {
        while let Some(done) = uses.join_next().await {
            given += done.unwrap_or(0);
        }
        for holder in HOLDERS {
            pool.release_holder(holder);
        }
        for holder in HOLDERS {
            pool.holder_gone(holder).await;
        }
    };
    if tokio::time::timeout(in_time, all).await.is_err() {
        let (members, waiting) = (pool.members(), pool.waiting());
        let living = host.stage.living();
        for id in members
            .iter()
            .filter_map(|member| member.conversation.as_ref())
        {
            let said = host.agents.entries(id, hostler_agent::Seq(0), 100).await;
            let session = host.agents.get(id.as_str()).map(|one| one.session().info());
            let resources = match host.agents.get(id.as_str()) {
                Ok(one) => format!("{:?}", one.session().resources().await),
                Err(error) => error.to_string(),
            };
            eprintln!("{said:#?} {session:?} {resources}");
        }
        panic!("HOSTLER_SEED={seed} hangs: {waiting} wait for {members:#?}; {living:?}");
    }
    until(&format!("HOSTLER_SEED={seed}: no members"), || {
        pool.members().is_empty() && pool.waiting() == 0
    })
    .await;
    host.stage
        .await_none(&format!("HOSTLER_SEED={seed}: no processes"))
        .await;
    until("no sessions", || host.stage.sessions.list().is_empty()).await;
    given
}
