//! Sessions that end without being asked.

use std::time::{Duration, Instant};

use hostler_session::{
    CloseReason, Error, OnDisconnect, Policy, Session, SessionOptions, SessionState,
};

use super::support::*;

async fn closes(session: &Session) -> CloseReason {
    let start = Instant::now();
    while session.state() != SessionState::Closed {
        assert!(
            start.elapsed() < Duration::from_secs(4) * slack(),
            "it does not close"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    session.report().unwrap().reason
}

fn policy(change: impl FnOnce(&mut Policy)) -> SessionOptions {
    let mut options = options();
    change(&mut options.policy);
    options
}

const SHORT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn an_idle_session_closes_but_not_while_something_goes_on() {
    let stage = Stage::new();
    let options = policy(|policy| policy.idle = Some(SHORT));
    let session = stage.sessions.open(options, by()).await.unwrap();
    let turn = session.busy();
    let run = session.run(shell("sleep 0.5"), by()).await.unwrap();
    assert!(run.process.wait().await.unwrap().is_success());
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(session.state(), SessionState::Active, "a turn is under way");
    drop(turn);
    let began = Instant::now();
    assert_eq!(closes(&session).await, CloseReason::Idle);
    assert!(
        began.elapsed() >= SHORT,
        "armed again from the end of the turn"
    );
}

#[tokio::test]
async fn background_processes_hold_an_end_off_for_so_long() {
    let stage = Stage::new();
    let options = policy(|policy| {
        policy.idle = Some(SHORT);
        policy.background_holds = SHORT * 3;
    });
    let session = stage.sessions.open(options.clone(), by()).await.unwrap();
    exec(&session, shell("sleep 1000").background()).await;
    let began = Instant::now();
    assert_eq!(closes(&session).await, CloseReason::Idle);
    assert!(began.elapsed() >= SHORT * 3, "{:?}", began.elapsed());
    // One that ends lets it go.
    let session = stage
        .sessions
        .open(policy(|policy| policy.idle = Some(SHORT)), by())
        .await
        .unwrap();
    let process = exec(&session, shell("sleep 1000").background()).await;
    tokio::time::sleep(SHORT * 3).await;
    assert_eq!(session.state(), SessionState::Active);
    process.end(None, by()).await.unwrap();
    assert_eq!(closes(&session).await, CloseReason::Idle);
}

#[tokio::test]
async fn age_and_detachment_end_sessions() {
    let stage = Stage::new();
    let session = stage
        .sessions
        .open(policy(|policy| policy.max_age = Some(SHORT)), by())
        .await
        .unwrap();
    let client = session.attach("test").await.unwrap();
    assert_eq!(closes(&session).await, CloseReason::Expired);
    drop(client);
    let session = stage
        .sessions
        .open(policy(|policy| policy.detached_grace = Some(SHORT)), by())
        .await
        .unwrap();
    let first = session.attach("test").await.unwrap();
    let second = session.attach("test").await.unwrap();
    drop(first);
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(session.state(), SessionState::Active);
    drop(second);
    assert_eq!(
        session.changed_from(SessionState::Active).await,
        SessionState::Detached
    );
    let third = session.attach("test").await.unwrap();
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(session.state(), SessionState::Active);
    drop(third);
    assert_eq!(closes(&session).await, CloseReason::Disconnect);
    let session = stage
        .sessions
        .open(
            policy(|policy| policy.on_disconnect = OnDisconnect::Close),
            by(),
        )
        .await
        .unwrap();
    exec(&session, shell("sleep 1000").background()).await;
    drop(session.attach("test").await.unwrap());
    assert_eq!(closes(&session).await, CloseReason::Disconnect);
    assert!(stage.living().is_empty());
}

#[tokio::test]
async fn nothing_of_it_is_on_when_it_is_zero() {
    let stage = Stage::new();
    let json = r#"{"idle_seconds":0,"max_age_seconds":null,"detached_grace_seconds":0.0}"#;
    let zero: Policy = serde_json::from_str(json).unwrap();
    assert_eq!(zero, Policy::default());
    let session = stage
        .sessions
        .open(policy(|policy| policy.idle = Some(Duration::ZERO)), by())
        .await
        .unwrap();
    tokio::time::sleep(SHORT).await;
    assert_eq!(session.state(), SessionState::Active);
    session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    let bad = policy(|policy| policy.daily_reset = Some(24));
    assert!(matches!(
        stage.sessions.open(bad, by()).await,
        Err(Error::Invalid(_))
    ));
}

#[tokio::test]
async fn the_least_recently_used_quiet_session_makes_room() {
    let stage = Stage::with(|options| options.max_sessions = Some(3));
    let first = stage.open().await;
    let second = stage.open().await;
    let third = stage.open().await;
    exec(&first, shell("sleep 1000").background()).await;
    third.touch();
    let fourth = stage.open().await;
    assert_eq!(second.report().unwrap().reason, CloseReason::Limit);
    assert_eq!(first.state(), SessionState::Active, "something runs in it");
    let _clients = (
        third.attach("test").await.unwrap(),
        fourth.attach("test").await.unwrap(),
    );
    let refused = stage.sessions.open(options(), by()).await;
    assert!(matches!(refused, Err(Error::Limit { limit: 3, .. })));
}

#[tokio::test]
async fn a_session_whose_keeper_is_killed_closes() {
    let stage = Stage::new();
    let session = stage.open().await;
    let process = exec(
        &session,
        shell("setsid sleep 1000 & exec sleep 1000").background(),
    )
    .await;
    until("they are up", || stage.living().len() == 2).await;
    stage.keepers()[0].signal(rustix::process::Signal::KILL);
    assert_eq!(closes(&session).await, CloseReason::AgentGone);
    assert!(process.wait().await.unwrap().lost);
    let report = session.report().unwrap();
    assert!(report.is_clean() && report.recorded, "{report:?}");
    assert!(stage.living().is_empty());
}

#[tokio::test]
async fn a_session_over_its_memory_closes() {
    let stage = Stage::new();
    let session = stage
        .open_with(|options| options.policy.limits.memory = Some(64 << 20))
        .await;
    exec(
        &session,
        shell("head -c 500M /dev/zero | tail -c 500M | sleep 1000").background(),
    )
    .await;
    assert_eq!(closes(&session).await, CloseReason::Limit);
    assert!(stage.living().is_empty());
}
