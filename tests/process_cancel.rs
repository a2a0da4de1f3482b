//! Every future, dropped at every await: nothing is left half-owned. What is left is counted by the kernel.

#[path = "support/async_tree.rs"]
#[allow(dead_code)]
mod support;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hostler_process::{ExitStatus, Stdio};
use support::{Stage, until};
use tokio::io::AsyncReadExt;

/// Polls a future so often, with so many turns of all other tasks between, and drops it. Says whether it was done.
async fn poll_and_drop<F: Future>(future: F, polls: u32, turns: u32) -> bool {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Poll::Ready(output) = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            drop(output);
            return true;
        }
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
    false
}

#[tokio::test]
async fn a_spawn_dropped_anywhere_leaves_no_process() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let spawn = || tree.spawn(stage.command("sleep").arg("1000").stdout(Stdio::Piped));
    for polls in 0..6 {
        for turns in [0, 1, 2, 3, 5, 8, 200, 2000] {
            poll_and_drop(spawn(), polls, turns).await;
        }
    }
    // Until one is seen to have gone all the way.
    let mut turns = 1000;
    while !poll_and_drop(spawn(), 2, turns).await {
        turns *= 2;
    }
    stage.await_none("spawns were dropped").await;
    while !tree.processes().await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(tree.census().await.unwrap().is_empty());
    assert!(tree.end(Duration::ZERO).await.unwrap().left.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spawns_aborted_from_another_thread_leave_no_process() {
    let stage = Stage::new();
    let tree = std::sync::Arc::new(stage.tree().await);
    for round in 0..200u32 {
        let (tree, command) = (tree.clone(), stage.command("sleep").arg("1000"));
        let task =
            tokio::spawn(async move { tree.spawn(command).await.map(|process| process.pid()) });
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_micros(u64::from(round) * 10) {
            std::hint::spin_loop();
        }
        task.abort();
        // Aborted twice, as clients do.
        task.abort();
        let _ = task.await;
    }
    stage.await_none("spawns were aborted").await;
}

#[tokio::test]
async fn a_tree_dropped_anywhere_in_the_making_leaves_no_keeper() {
    let stage = Stage::new();
    for polls in 0..6 {
        for turns in [0, 1, 2, 3, 5, 8, 200, 2000] {
            poll_and_drop(stage.zygote.tree(stage.options()), polls, turns).await;
        }
    }
    let mut turns = 1000;
    while !poll_and_drop(stage.zygote.tree(stage.options()), 3, turns).await {
        turns *= 2;
    }
    until("no keeper is left", || stage.keepers().is_empty()).await;
}

#[tokio::test]
async fn an_end_whose_caller_is_gone_goes_on() {
    let stage = Stage::new();
    for polls in 1..4 {
        for turns in [0, 1, 3, 100] {
            let tree = stage.tree().await;
            let process = tree
                .spawn(stage.command("sleep").arg("1000"))
                .await
                .unwrap();
            poll_and_drop(tree.end(Duration::from_millis(100)), polls, turns).await;
            assert_eq!(
                process.wait().await.status,
                ExitStatus::Signal {
                    signal: 15,
                    core: false
                }
            );
            let report = tree.ended().await.unwrap();
            assert_eq!((report.left.len(), report.remaining), (1, 0));
            assert_eq!(tree.end(Duration::ZERO).await.unwrap(), report);
        }
    }
    stage.await_none("ends were dropped").await;
}

#[tokio::test]
async fn a_dropped_end_of_a_process_goes_on_and_a_dropped_wait_loses_nothing() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    for polls in 1..4 {
        for turns in [0, 1, 3, 100] {
            let process = tree
                .spawn(stage.command("sleep").arg("1000"))
                .await
                .unwrap();
            poll_and_drop(process.wait(), polls, turns).await;
            poll_and_drop(process.end(Duration::from_millis(100)), polls, turns).await;
            assert_eq!(
                process.wait().await.status,
                ExitStatus::Signal {
                    signal: 15,
                    core: false
                }
            );
        }
    }
    assert!(tree.census().await.unwrap().is_empty());
}

#[tokio::test]
async fn questions_dropped_anywhere_do_no_harm() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let process = tree
        .spawn(stage.command("cat").stdin(Stdio::Piped))
        .await
        .unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    for polls in 0..4 {
        for turns in [0, 1, 3, 100] {
            poll_and_drop(tree.census(), polls, turns).await;
            poll_and_drop(
                tree.store(b"x", null.try_clone().unwrap().into()),
                polls,
                turns,
            )
            .await;
            poll_and_drop(tree.fetch(b"x"), polls, turns).await;
            poll_and_drop(tree.names(), polls, turns).await;
            poll_and_drop(process.signal(hostler_process::Signal::CONT), polls, turns).await;
        }
    }
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    tree.names().await.unwrap();
    let before = open();
    for _ in 0..100 {
        poll_and_drop(tree.fetch(b"x"), 1, 50).await;
    }
    tree.names().await.unwrap();
    // Other tests of this process open and close some meanwhile.
    assert!(open() < before + 60, "{before} before, {} after", open());
    assert_eq!(tree.census().await.unwrap().len(), 1);
}

#[tokio::test]
async fn guards_dropped_in_any_order_release() {
    let stage = Stage::new();
    for tree_first in [true, false] {
        let tree = stage.tree().await;
        let mut process = tree
            .spawn(
                stage
                    .shell("trap '' TERM; setsid sleep 1000 & echo; sleep 1000")
                    .stdout(Stdio::Piped),
            )
            .await
            .unwrap();
        process.take_stdout().unwrap().read_u8().await.unwrap();
        if tree_first {
            drop(tree);
            drop(process);
        } else {
            drop(process);
            drop(tree);
        }
        stage.await_none("guards were dropped").await;
    }
    until("no keeper is left", || stage.keepers().is_empty()).await;
}
