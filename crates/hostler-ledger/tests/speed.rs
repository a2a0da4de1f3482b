//! What writes cost: `cargo test --release -p hostler-ledger --test speed -- --ignored --nocapture`.

mod common;

use std::time::{Duration, Instant};

use common::*;
use hostler_ledger::{Durability, Ledger, LedgerOptions};

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
