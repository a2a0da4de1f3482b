//! Sessions whose keeper does not answer when the next host comes.

use std::path::Path;
use std::time::Duration;

use hostler_session::{CloseReason, OnHostExit, Session, SessionState, Signal};

use super::support::*;

/// A host that comes while the keeper of the one session is stopped.
async fn with_a_silent_keeper(dir: &Path, mark: &str) -> (Stage, Session, Found) {
    let stage = Stage::at(dir, mark, |_| {});
    let session = stage
        .open_with(|options| {
            options.name = Some("quiet".into());
            options.policy.on_host_exit = OnHostExit::Keep;
        })
        .await;
    exec(&session, shell("exec sleep 1000").background()).await;
    let keeper = Found::read(session.info().keeper.unwrap().cast_signed()).unwrap();
    let failed = stage.sessions.hand_over(Duration::from_secs(60)).await;
    assert!(failed.is_empty(), "{failed:?}");
    stage.sessions.ledger().clone().close().unwrap();
    // It would wake a keeper that is stopped.
    let zygote = Found::read(stage.zygote.pid().as_raw_nonzero().get()).unwrap();
    zygote.signal(Signal::KILL);
    until("the zygote is gone", || !zygote.still_lives()).await;
    keeper.signal(Signal::STOP);
    let next = Stage::at(dir, mark, |_| {});
    let recovery = next.sessions.recover(&next.earlier).await.unwrap();
    assert_eq!(recovery.unreached.len(), 1, "{recovery:?}");
    let stuck = next.sessions.get("quiet").unwrap();
    assert_eq!(stuck.id(), session.id());
    assert_eq!(stuck.state(), SessionState::Stuck);
    assert_eq!(stuck.info().remaining, 1);
    (next, stuck, keeper)
}

#[tokio::test]
async fn a_session_that_was_not_reached_is_stuck_and_goes_on_when_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mark = format!("mark-unreached-{}", std::process::id());
    let (stage, stuck, keeper) = with_a_silent_keeper(dir.path(), &mark).await;
    assert!(stuck.exec(shell("true"), by()).await.is_err());
    assert!(stuck.resources().await.unwrap().is_empty());
    keeper.signal(Signal::CONT);
    until("it goes on", || {
        let session = stage.sessions.get("quiet");
        session.is_ok_and(|session| session.state() == SessionState::Active)
    })
    .await;
    let session = stage.sessions.get("quiet").unwrap();
    assert_eq!(session.info().background, 1);
    let report = session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    assert!(report.is_clean() && report.recorded, "{report:?}");
    assert!(stage.living().is_empty() && stage.sessions.list().is_empty());
}

#[tokio::test]
async fn the_close_of_one_that_was_not_reached_is_answered_and_done_when_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mark = format!("mark-unreached-close-{}", std::process::id());
    let (stage, stuck, keeper) = with_a_silent_keeper(dir.path(), &mark).await;
    let report = stuck.close(CloseReason::Client, by(), None).await.unwrap();
    assert!(!report.is_clean() && !report.proven, "{report:?}");
    assert_eq!(stuck.state(), SessionState::Stuck);
    keeper.signal(Signal::CONT);
    until("it is closed", || stuck.state() == SessionState::Closed).await;
    assert!(stuck.report().unwrap().is_clean());
    until("no session is left", || stage.sessions.list().is_empty()).await;
    assert!(stage.living().is_empty());
}
