//! What a host had counted goes on with the next one: time without use, time without clients, and who waits for a command.

use std::time::{Duration, Instant};

use hostler_session::{CloseReason, OnDisconnect, OnHostExit, Session, SessionState};

use super::support::*;

/// Shorter than what is counted, so that only all of them together are long enough.
const BETWEEN: Duration = Duration::from_millis(700);
const COUNTED: Duration = Duration::from_secs(3);

/// The next host on the same directory.
async fn taken_over(stage: Stage) -> Stage {
    let failed = stage.sessions.hand_over(Duration::from_secs(30)).await;
    assert!(failed.is_empty(), "{failed:?}");
    stage.sessions.ledger().clone().close().unwrap();
    let mut next = Stage::at(&stage.dir.clone(), &stage.mark.clone(), |_| {});
    next.sessions.recover(&next.earlier).await.unwrap();
    next.take_directory(stage);
    next
}

/// Takes over again and again until the session is closed; says when that was, counted from the start, and why.
async fn until_closed(mut stage: Stage, session: Session) -> (Duration, CloseReason) {
    let began = Instant::now();
    let id = session.id().to_string();
    drop(session);
    loop {
        tokio::time::sleep(BETWEEN).await;
        let Ok(session) = stage.sessions.get(&id) else {
            break;
        };
        if !session.state().is_open() {
            break;
        }
        drop(session);
        stage = taken_over(stage).await;
        assert!(
            began.elapsed() < COUNTED * 4 * slack(),
            "takeovers hold the session for ever"
        );
    }
    let took = began.elapsed();
    let ledger = stage.sessions.ledger().clone();
    let mut reason = None;
    until("the end is recorded", || {
        let reports = ledger.reports(1).unwrap();
        reason = reports.first().map(|report| report.closed.reason.clone());
        reason.is_some()
    })
    .await;
    let reason = [CloseReason::Idle, CloseReason::Disconnect]
        .into_iter()
        .find(|one| Some(one.as_str()) == reason.as_deref());
    (took, reason.expect("a reason"))
}

#[tokio::test]
async fn takeovers_do_not_hold_off_an_idle_end() {
    let stage = Stage::new();
    let session = stage
        .open_with(|options| options.policy.idle = Some(COUNTED))
        .await;
    let (took, reason) = until_closed(stage, session).await;
    assert_eq!(reason, CloseReason::Idle);
    assert!(took >= COUNTED - BETWEEN, "{took:?}");
}

#[tokio::test]
async fn takeovers_do_not_prolong_the_time_without_clients() {
    let stage = Stage::new();
    let session = stage
        .open_with(|options| {
            options.policy.idle = None;
            options.policy.on_disconnect = OnDisconnect::Detach;
            options.policy.detached_grace = Some(COUNTED);
        })
        .await;
    drop(session.attach("a test").await.unwrap());
    until("it is detached", || {
        session.state() == SessionState::Detached
    })
    .await;
    let (took, reason) = until_closed(stage, session).await;
    assert_eq!(reason, CloseReason::Disconnect);
    assert!(took >= COUNTED - BETWEEN, "{took:?}");
}

#[tokio::test]
async fn a_command_whose_client_does_not_come_back_is_ended() {
    for comes_back in [false, true] {
        let stage = Stage::new();
        let session = stage
            .open_with(|options| {
                options.policy.on_host_exit = OnHostExit::Keep;
                options.policy.detached_grace = Some(Duration::from_millis(800));
            })
            .await;
        let running = session.run(shell("exec sleep 1000"), by()).await.unwrap();
        let id = running.process.id().to_string();
        drop((running, session));
        let stage = taken_over(stage).await;
        let process = stage.sessions.process(&id).unwrap();
        let guard = comes_back.then(|| process.end_on_drop(by()));
        if let Some(guard) = guard {
            tokio::time::sleep(Duration::from_millis(1600)).await;
            assert!(process.status().exit.is_none(), "its client is there");
            drop(guard);
        }
        process.wait().await;
        stage.await_none("the command is gone").await;
    }
}

#[tokio::test]
async fn one_whose_time_passed_between_two_hosts_takes_its_children_along() {
    const GRACE: Duration = Duration::from_millis(500);
    let stage = Stage::new();
    let parent = stage
        .open_with(|options| {
            options.policy.on_disconnect = OnDisconnect::Detach;
            options.policy.detached_grace = Some(GRACE);
        })
        .await;
    let mut above = parent.id().clone();
    let mut ids = vec![above.clone()];
    for _ in 0..3 {
        let child = stage
            .open_with(|options| options.parent = Some(above))
            .await;
        exec(&child, shell("exec sleep 1000").background()).await;
        above = child.id().clone();
        ids.push(above.clone());
    }
    drop(parent.attach("a test").await.unwrap());
    let detached = Instant::now();
    until("it is detached", || {
        parent.state() == SessionState::Detached
    })
    .await;
    drop(parent);
    assert!(
        stage
            .sessions
            .hand_over(Duration::from_secs(30))
            .await
            .is_empty()
    );
    stage.sessions.ledger().clone().close().unwrap();
    until("its time is over", || detached.elapsed() > GRACE).await;
    let mut next = Stage::at(&stage.dir.clone(), &stage.mark.clone(), |_| {});
    next.take_directory(stage);
    next.sessions.recover(&next.earlier).await.unwrap();
    let ledger = next.sessions.ledger().clone();
    until("all are closed", || {
        ids.iter()
            .all(|id| ledger.session(id).unwrap().unwrap().closed.is_some())
    })
    .await;
    next.await_none("nothing is left").await;
}
