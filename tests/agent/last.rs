//! What is done before a session ends without being asked.

use std::time::Duration;

use hostler_agent::{BeforeClose, Conversation, EntryKind};
use hostler_session::{CloseReason, SessionState};

use super::support::*;

async fn opened(last: BeforeClose) -> (Host, Conversation) {
    let mut spec = spec(&[]);
    spec.before_close = Some(last);
    let host = Host::with(spec, options());
    let mut new = host.conversation();
    new.session.policy.idle = Some(Duration::from_millis(300));
    let conversation = host.agents.open(new, by()).await.expect("a conversation");
    (host, conversation)
}

async fn closed(host: &Host, conversation: &Conversation) -> CloseReason {
    let session = conversation.session();
    let mut state = session.state();
    while state != SessionState::Closed {
        state = soon("the close", session.changed_from(state)).await;
    }
    host.stage.await_none("after the close").await;
    let report = session.report().expect("a report");
    assert_eq!(report.remaining, 0);
    report.reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_command_and_a_last_turn_are_whole_in_the_transcript() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("flushed");
    let script = format!("echo flushed >>{}", file.display());
    let (host, conversation) = opened(BeforeClose {
        prompt: Some("slow 20 50".into()),
        command: vec!["/bin/sh".into(), "-c".into(), script],
        ..BeforeClose::default()
    })
    .await;
    turn(&conversation, "stream 1").await;
    assert_eq!(closed(&host, &conversation).await, CloseReason::Idle);
    // Once, though the turn lasted longer than the idle time.
    assert_eq!(std::fs::read_to_string(&file).expect("it"), "flushed\n");
    let id = conversation.id().clone();
    let all = host.agents.entries(&id, hostler_agent::Seq(0), 1000);
    let all = all.await.expect("entries");
    let updates = all
        .iter()
        .filter(|entry| entry.kind == EntryKind::Update && entry.turn == Some(2));
    assert_eq!(updates.count(), 20);
    let prompts = all.iter().filter(|entry| entry.kind == EntryKind::Prompt);
    assert_eq!(prompts.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_bounded_and_delays_no_close_that_is_asked_for() {
    let forever = |timeout| BeforeClose {
        prompt: Some("hang".into()),
        timeout,
        ..BeforeClose::default()
    };
    let (host, conversation) = opened(forever(Duration::from_millis(500))).await;
    turn(&conversation, "stream 1").await;
    assert_eq!(closed(&host, &conversation).await, CloseReason::Idle);

    let (host, conversation) = opened(forever(Duration::from_secs(3600))).await;
    turn(&conversation, "stream 1").await;
    until("the last turn is asked for", || conversation.last().0 >= 5).await;
    soon("the close", conversation.close(CloseReason::Client, by()))
        .await
        .expect("closed");
    assert_eq!(closed(&host, &conversation).await, CloseReason::Client);
}
