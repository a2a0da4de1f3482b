//! Evict, reset, fork, load; cancelling by force; watchdogs.

use std::time::Duration;

use hostler_agent::TurnEnd;
use hostler_session::CloseReason;

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evict_ends_the_agent_with_all_under_it_and_nothing_else() {
    let host = Host::new(&[]);
    let conversation = host.open().await;
    let other = exec(
        &conversation.session(),
        shell("exec sleep 1000").background(),
    )
    .await;
    turn(&conversation, "echo the word is heron").await;
    turn(&conversation, "child").await;
    until("its children are there", || host.stage.living().len() >= 5).await;
    let waits = prompt(&conversation, "wait").await;
    conversation.evict(by()).await.expect("evicted");
    assert!(matches!(
        soon("the end", waits.ended()).await,
        TurnEnd::Interrupted(_)
    ));
    until("only the other is left", || host.stage.living().len() == 1).await;
    assert!(other.status().exit.is_none());
    let next = prompt(&conversation, "echo on").await;
    soon("the end", next.ended()).await;
    let said = said(&conversation, next.id).await.concat();
    assert!(said.contains("the word is heron"), "{said}");
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_takes_with_it_what_it_had_started() {
    let host = Host::new(&[]);
    let conversation = host.open().await;
    turn(&conversation, "child").await;
    until("its children are there", || host.stage.living().len() >= 4).await;
    let end = turn(&conversation, "crash").await;
    assert!(matches!(end, TurnEnd::Error(_)));
    host.stage.await_none("after the agent crashed").await;
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_forgets_and_keeps_the_transcript() {
    let host = Host::new(&[("PEER_LOAD", "1")]);
    let conversation = host.open().await;
    turn(&conversation, "echo the word is heron").await;
    conversation.reset(by()).await.expect("reset");
    host.stage.await_none("after the reset").await;
    let next = prompt(&conversation, "echo on").await;
    soon("the end", next.ended()).await;
    assert_eq!(said(&conversation, next.id).await, ["echo on"]);
    assert_eq!(said(&conversation, 1).await, ["echo the word is heron"]);
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_can_load_is_not_told_and_its_history_is_not_doubled() {
    let host = Host::new(&[("PEER_LOAD", "1")]);
    let conversation = host.open().await;
    turn(&conversation, "echo the word is heron").await;
    conversation.evict(by()).await.expect("evicted");
    let next = prompt(&conversation, "echo on").await;
    soon("the end", next.ended()).await;
    assert_eq!(said(&conversation, next.id).await, ["echo on"]);
    let updates = entries(&conversation, 0).await;
    let updates = updates
        .iter()
        .filter(|entry| entry.data.get().contains("\"history\""));
    assert_eq!(updates.count(), 0);
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_has_what_was_said_and_goes_its_own_way() {
    let host = Host::new(&[]);
    let conversation = host.open().await;
    turn(&conversation, "echo the word is heron").await;
    let fork = conversation.fork(by()).await.expect("a fork");
    assert_ne!(fork.id(), conversation.id());
    assert_eq!(fork.info().parent.as_ref(), Some(conversation.id()));
    turn(&conversation, "echo only here").await;
    let next = prompt(&fork, "echo on").await;
    soon("the end", next.ended()).await;
    let all = entries(&fork, 0).await;
    let last = all.iter().rfind(|entry| {
        entry.turn == Some(next.id) && entry.kind == hostler_agent::EntryKind::Update
    });
    let last = json(last.expect("it said something"));
    let said = last["update"]["content"]["text"].as_str().expect("text");
    assert!(
        said.contains("the word is heron") && !said.contains("only here"),
        "{said}"
    );
    fork.close(CloseReason::Client, by()).await.expect("closed");
    assert_eq!(
        stop_reason(&turn(&conversation, "stream 1").await),
        "end_turn"
    );
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_conversation_is_listed_and_taken_up_again_under_its_id() {
    let host = Host::new(&[]);
    let conversation = host.open().await;
    let id = conversation.id().clone();
    turn(&conversation, "echo the word is heron").await;
    host.end(&conversation).await;
    until("it is not live", || host.agents.get(id.as_str()).is_err()).await;
    let listed = host.agents.list(&Default::default()).expect("a list");
    assert_eq!((listed.len(), listed[0].live), (1, false));
    let again = host.agents.load(&id, by()).await.expect("loaded");
    assert_eq!(again.id(), &id);
    assert_ne!(again.session().id().as_str(), id.as_str());
    let by_session = host
        .agents
        .get(again.session().id().as_str())
        .expect("found");
    assert_eq!(by_session.id(), &id);
    let next = prompt(&again, "echo on").await;
    soon("the end", next.ended()).await;
    let said = said(&again, next.id).await.concat();
    assert!(said.contains("the word is heron"), "{said}");
    host.end(&again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_does_not_end_is_ended_by_force_and_the_next_one_runs() {
    let mut spec = spec(&[("PEER_DEAF", "1")]);
    spec.turn_idle = Duration::from_millis(300);
    let host = Host::with(spec, options());
    let conversation = host.open().await;
    conversation.ready(by()).await.expect("an agent");
    let hangs = prompt(&conversation, "hang").await;
    conversation.cancel(by()).await;
    assert_eq!(
        stop_reason(&soon("the end", hangs.ended()).await),
        "cancelled"
    );
    // Nobody cancels it: the watchdog does.
    let TurnEnd::Error(error) = turn(&conversation, "hang").await else {
        panic!("it was silent for too long");
    };
    assert!(error.message.contains("said nothing"), "{error}");
    assert_eq!(
        stop_reason(&turn(&conversation, "stream 1").await),
        "end_turn"
    );
    host.end(&conversation).await;
}
