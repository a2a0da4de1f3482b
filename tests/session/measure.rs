//! How fast and how small. Run by hand, in a release build: `cargo test --release -p hostler --test session measure --
//! --ignored --nocapture --test-threads 1`.

use std::time::{Duration, Instant};

use hostler_session::{CloseReason, OnHostExit};
use tokio::task::JoinSet;

use super::support::*;

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!(
        "{what}: p50 {:?}, p90 {:?}, p99 {:?}",
        at(50),
        at(90),
        at(99)
    );
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn descriptors_for_many() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn cycles() {
    let stage = Stage::new();
    let cycle = async |stage: &Stage| {
        let session = stage.open().await;
        let run = session
            .run(hostler_session::ExecOptions::new(["/bin/true"]), by())
            .await
            .unwrap();
        assert!(run.process.wait().await.unwrap().is_success());
        session
            .close(CloseReason::Client, by(), None)
            .await
            .unwrap();
    };
    for _ in 0..20 {
        cycle(&stage).await;
    }
    let (mut times, mut opens, mut runs, mut closes) = (vec![], vec![], vec![], vec![]);
    for _ in 0..500 {
        let began = Instant::now();
        let session = stage.open().await;
        opens.push(began.elapsed());
        let run = session
            .run(hostler_session::ExecOptions::new(["/bin/true"]), by())
            .await
            .unwrap();
        assert!(run.process.wait().await.unwrap().is_success());
        runs.push(began.elapsed() - *opens.last().unwrap());
        session
            .close(CloseReason::Client, by(), None)
            .await
            .unwrap();
        closes.push(began.elapsed() - *opens.last().unwrap() - *runs.last().unwrap());
        times.push(began.elapsed());
    }
    show("open", opens);
    show("true", runs);
    show("close", closes);
    show("open, true, close", times);
    let began = Instant::now();
    let stage = std::sync::Arc::new(stage);
    let mut workers = JoinSet::new();
    for _ in 0..16 {
        let stage = stage.clone();
        workers.spawn(async move {
            for _ in 0..100 {
                let session = stage.open().await;
                let run = session
                    .run(hostler_session::ExecOptions::new(["/bin/true"]), by())
                    .await
                    .unwrap();
                assert!(run.process.wait().await.unwrap().is_success());
                session
                    .close(CloseReason::Client, by(), None)
                    .await
                    .unwrap();
            }
        });
    }
    workers.join_all().await;
    println!(
        "{:.0} cycles a second, 16 at once",
        1600.0 / began.elapsed().as_secs_f64()
    );
    let session = stage.open().await;
    let mut times = Vec::new();
    for _ in 0..500 {
        let began = Instant::now();
        let run = session
            .run(hostler_session::ExecOptions::new(["/bin/true"]), by())
            .await
            .unwrap();
        run.process.wait().await.unwrap();
        times.push(began.elapsed());
    }
    show("true in an open session", times);
    let mut times = Vec::new();
    for _ in 0..200 {
        let session = stage.open().await;
        for _ in 0..5 {
            session
                .exec(
                    hostler_session::ExecOptions::new(["/bin/sleep", "1000"]).background(),
                    by(),
                )
                .await
                .unwrap();
        }
        let began = Instant::now();
        session
            .close(CloseReason::Client, by(), None)
            .await
            .unwrap();
        times.push(began.elapsed());
    }
    show("close of 5 willing processes", times);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_thousand_idle_sessions() {
    descriptors_for_many();
    let stage = Stage::new();
    let warm = stage.open().await;
    exec(&warm, shell("true").background()).await.wait().await;
    let before = resident();
    let began = Instant::now();
    for _ in 0..100 {
        let mut opens = JoinSet::new();
        for _ in 0..10 {
            let sessions = stage.sessions.clone();
            opens.spawn(async move {
                let session = sessions.open(options(), by()).await.unwrap();
                let sleep = hostler_session::ExecOptions::new(["/bin/sleep", "1000"]).background();
                session.exec(sleep, by()).await.unwrap();
            });
        }
        opens.join_all().await;
    }
    println!("1,000 sessions opened in {:?}", began.elapsed());
    let grown = resident() - before;
    println!("{} kB resident a session", grown / 1000 / 1024);
    let began = Instant::now();
    for session in stage.sessions.list() {
        session.resources().await.unwrap();
    }
    println!("listed in {:?}", began.elapsed());
    let began = Instant::now();
    let reports = stage
        .sessions
        .close_all(CloseReason::Shutdown, by(), None, Duration::from_secs(60))
        .await;
    println!("{} closed in {:?}", reports.len(), began.elapsed());
    assert!(reports.len() == 1001 && reports.iter().all(|report| report.is_clean()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn five_hundred_adopted() {
    descriptors_for_many();
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::at(dir.path(), "mark-500", |_| {});
    for _ in 0..500 {
        let session = stage
            .open_with(|options| options.policy.on_host_exit = OnHostExit::Keep)
            .await;
        exec(&session, shell("sleep 1000").background()).await;
    }
    let failed = stage.sessions.hand_over(Duration::from_secs(60)).await;
    assert!(failed.is_empty(), "{failed:?}");
    stage.sessions.ledger().clone().close().unwrap();
    let next = Stage::at(dir.path(), "mark-500", |_| {});
    let recovery = next.sessions.recover(&next.earlier).await.unwrap();
    println!("{} adopted in {:?}", recovery.adopted.len(), recovery.took);
    let reports = next
        .sessions
        .close_all(CloseReason::Shutdown, by(), None, Duration::from_secs(60))
        .await;
    assert!(reports.len() == 500 && reports.iter().all(|report| report.is_clean()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput() {
    let stage = Stage::new();
    let session = stage.open().await;
    for terminal in [false, true] {
        let mut options = shell("seq 1 10000000");
        if terminal {
            options = options.on_terminal(hostler_session::TerminalSize::default());
        }
        let began = Instant::now();
        let mut run = session.run(options, by()).await.unwrap();
        let mut bytes = 0;
        while let Some(chunk) = run.stdout.next(256 << 10).await.unwrap() {
            bytes += chunk.bytes.len();
        }
        let took = began.elapsed();
        println!(
            "terminal: {terminal}: {:.0} MB/s",
            bytes as f64 / took.as_secs_f64() / 1e6
        );
    }
    session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
}
