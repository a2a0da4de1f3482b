//! What writes cost: `cargo test --release -p hostler-ledger --test speed -- --ignored --nocapture`.

mod common;

use std::time::{Duration, Instant};

use common::*;
use hostler_ledger::{Durability, Ledger, LedgerOptions, ResourceId, SessionId};

#[test]
#[ignore = "a measurement"]
fn writes() {
    let base = std::env::var_os("LEDGER_SPEED_DIR").unwrap_or_else(|| "/var/tmp".into());
    for durability in [Durability::Power, Durability::Process] {
        let dir = tempfile::tempdir_in(&base).expect("a directory");
        let ledger = open_with(
            dir.path(),
            &LedgerOptions {
                durability,
                ..LedgerOptions::default()
            },
        )
        .ledger;
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        measure(&runtime, &ledger, 1, 200);
        let (rate, mut times) = measure(&runtime, &ledger, 1, 3000);
        times.sort();
        let at = |share: f64| times[(times.len() as f64 * share) as usize];
        println!(
            "{durability:?}: 1 writer {rate:.0}/s, p50 {:?}, p95 {:?}, p99 {:?}, max {:?}",
            at(0.5),
            at(0.95),
            at(0.99),
            times[times.len() - 1]
        );
        let before = ledger.stats();
        let (rate, mut times) = measure(&runtime, &ledger, 20, 500);
        times.sort();
        let stats = ledger.stats();
        let group = (stats.writes - before.writes) as f64 / (stats.commits - before.commits) as f64;
        println!(
            "{durability:?}: 20 writers {rate:.0}/s, p50 {:?}, {group:.1} writes a commit",
            times[times.len() / 2]
        );
    }
}

/// Writes a second, and how long each took. A write here opens a session or intends a process: one change.
fn measure(
    runtime: &tokio::runtime::Runtime,
    ledger: &Ledger,
    writers: usize,
    each: usize,
) -> (f64, Vec<Duration>) {
    runtime.block_on(async {
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..writers {
            let ledger = ledger.clone();
            tasks.spawn(async move {
                let mut times = Vec::with_capacity(each);
                while times.len() < each {
                    for change in cycle() {
                        let begun = Instant::now();
                        ledger.write(vec![change]).await.expect("written");
                        times.push(begun.elapsed());
                    }
                }
                times
            });
        }
        let times: Vec<_> = tasks.join_all().await.concat();
        (times.len() as f64 / begun.elapsed().as_secs_f64(), times)
    })
}

/// Frames that are in the log: `mxFrame` of its index's header (<https://sqlite.org/walformat.html>).
fn frames(dir: &std::path::Path) -> u32 {
    let index = std::fs::read(dir.join("ledger.db-shm")).expect("the log's index");
    u32::from_ne_bytes(index[16..20].try_into().expect("four bytes"))
}

/// What a process that is started and ends costs, written as a host writes it: what is before its start, and in all.
#[test]
#[ignore = "a measurement"]
fn processes() {
    const BEFORE: usize = 20_000;
    const MEASURED: usize = 5_000;
    let base = std::env::var_os("LEDGER_SPEED_DIR").unwrap_or_else(|| "/var/tmp".into());
    let dir = tempfile::tempdir_in(&base).expect("a directory");
    let ledger = open(dir.path());
    let session = SessionId::new();
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let begun = vec![opened(&session, None, None)];
        ledger.write(begun).await.expect("written");
        // Some hundred sessions of others.
        for _ in 0..300 {
            ledger.write_unsynced(cycle()).await.expect("written");
        }
        let (mut before_start, mut all, mut pages) = (Vec::new(), Vec::new(), 0u64);
        let mut last = 0;
        for n in 0..BEFORE + MEASURED {
            let process = ResourceId::new("process");
            let begun = Instant::now();
            let written = ledger.write_unsynced(vec![intended(&process, &session)]);
            written.await.expect("written");
            let started = begun.elapsed();
            ledger.write_soon(vec![identified(&process)]);
            ledger.write_soon(vec![released(&process)]);
            let took = begun.elapsed();
            if n >= BEFORE {
                before_start.push(started);
                all.push(took);
                let now = frames(dir.path());
                // Lower where it has begun anew.
                pages += u64::from(if now >= last { now - last } else { now });
                last = now;
            } else if n + 1 == BEFORE {
                last = frames(dir.path());
            }
        }
        for (what, times) in [
            ("before its start", &mut before_start),
            ("in all", &mut all),
        ] {
            times.sort();
            let at = |share: f64| times[(times.len() as f64 * share) as usize];
            println!(
                "{what}: p50 {:?}, p95 {:?}, p99 {:?}",
                at(0.5),
                at(0.95),
                at(0.99)
            );
        }
        println!("{:.1} pages a process", pages as f64 / MEASURED as f64);
    });
}

/// How long a small write takes while 100 MB are written beside it.
#[test]
#[ignore = "a measurement"]
fn beside_a_burst() {
    let base = std::env::var_os("LEDGER_SPEED_DIR").unwrap_or_else(|| "/var/tmp".into());
    let dir = tempfile::tempdir_in(&base).expect("a directory");
    let ledger = open(dir.path());
    let writer = ledger.clone();
    let burst = std::thread::spawn(move || {
        let text = "x".repeat(40_000);
        for _ in 0..2_500 {
            let change = event(serde_json::json!({ "text": text }));
            block_on(writer.write_unsynced(vec![change])).expect("written");
        }
    });
    let mut times = Vec::new();
    while !burst.is_finished() {
        let begun = Instant::now();
        let change = event(serde_json::json!(1));
        block_on(ledger.write_unsynced(vec![change])).expect("written");
        times.push(begun.elapsed());
        std::thread::sleep(Duration::from_micros(500));
    }
    burst.join().expect("the burst");
    times.sort();
    let at = |share: f64| times[(times.len() as f64 * share) as usize];
    println!(
        "{} writes: p50 {:?}, p95 {:?}, p99 {:?}, max {:?}",
        times.len(),
        at(0.5),
        at(0.95),
        at(0.99),
        times[times.len() - 1]
    );
}
