//! Every creation, dropped at every await: nothing is left half-owned.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hostler_session::CloseReason;

use super::support::*;

/// Polls a future so often, with so many turns of all other tasks between, and drops it. Says whether it was done.
pub(crate) async fn poll_and_drop<F: Future>(future: F, polls: u32, turns: u32) -> bool {
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
async fn an_open_dropped_anywhere_leaves_no_session() {
    let stage = Stage::new();
    for polls in 0..4 {
        for turns in [0, 1, 2, 3, 5, 8, 50, 200, 2000, 20_000] {
            poll_and_drop(stage.sessions.open(options(), by()), polls, turns).await;
            for session in stage.sessions.list() {
                // Those that were polled to their end are there still, for they were answered.
                let _ = session.close(CloseReason::Client, by(), None).await;
            }
        }
    }
    until("no session is left", || stage.sessions.list().is_empty()).await;
    until("no keeper is left", || stage.keepers().is_empty()).await;
    let open = stage
        .sessions
        .ledger()
        .sessions(&Default::default())
        .unwrap();
    assert!(open.is_empty(), "{open:?}");
}

#[tokio::test]
async fn an_exec_dropped_anywhere_leaves_no_process() {
    let stage = Stage::new();
    let session = stage.open().await;
    for polls in 0..4 {
        for turns in [0, 1, 2, 3, 5, 8, 50, 200, 2000, 20_000] {
            let exec = session.exec(shell("sleep 1000").background(), by());
            if poll_and_drop(exec, polls, turns).await {
                // Answered, and so started.
                for resource in session.resources().await.unwrap() {
                    let handle = stage.sessions.process(resource.id.as_str()).unwrap();
                    handle.end(None, by()).await.unwrap();
                }
            }
        }
    }
    stage.await_none("starts were dropped").await;
    until("nothing is listed as running", || {
        session.info().background == 0
    })
    .await;
    let report = session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    assert!(report.recorded && report.processes.is_empty(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opens_aborted_and_deleted_from_another_thread_leave_nothing() {
    let stage = Stage::new();
    for round in 0..60u32 {
        let sessions = stage.sessions.clone();
        let task = tokio::spawn(async move { sessions.open(options(), by()).await.map(drop) });
        tokio::time::sleep(Duration::from_micros(u64::from(round) * 60)).await;
        if round % 3 == 0 {
            // Deleted while it is made.
            for session in stage.sessions.list() {
                let _ = session.close(CloseReason::Client, by(), None).await;
            }
        }
        task.abort();
        task.abort();
        let _ = task.await;
    }
    for session in stage.sessions.list() {
        let _ = session.close(CloseReason::Client, by(), None).await;
    }
    until("no session is left", || stage.sessions.list().is_empty()).await;
    until("no keeper is left", || stage.keepers().is_empty()).await;
}

#[tokio::test]
async fn a_close_whose_caller_is_gone_goes_on() {
    let stage = Stage::new();
    for polls in 1..3 {
        for turns in [0, 1, 5, 100] {
            let session = stage.open().await;
            exec(&session, shell("sleep 1000").background()).await;
            poll_and_drop(session.close(CloseReason::Client, by(), None), polls, turns).await;
            let report = session.close(CloseReason::Idle, by(), None).await.unwrap();
            assert_eq!((report.reason, report.remaining), (CloseReason::Client, 0));
        }
    }
    assert!(stage.living().is_empty());
}
