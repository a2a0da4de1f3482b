//! A fresh context on the same process, and turns by their number.

use std::time::Duration;

use hostler_agent::{Error, Seq, TurnEnd};

use super::support::*;

/// What the agent says to this, alone.
pub(crate) async fn asks(conversation: &hostler_agent::Conversation, what: &str) -> String {
    let asked = prompt(conversation, what).await;
    soon(what, asked.ended()).await;
    said(conversation, asked.id).await.concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_is_forgotten_and_the_process_is_the_same() {
    let host = Host::new(&[("PEER_CLOSE", "1")]);
    let conversation = host.open().await;
    turn(&conversation, "echo the word is heron").await;
    let (pid, session) = (
        asks(&conversation, "pid").await,
        asks(&conversation, "session").await,
    );
    conversation.renew(by()).await.expect("renewed");
    assert_eq!(asks(&conversation, "echo on").await, "echo on");
    assert_eq!(asks(&conversation, "pid").await, pid);
    // Both are the agent's own words, with the conversation's id in their place only as the session's name.
    let second = asks(&conversation, "session").await;
    assert_ne!(second, session, "another session of the agent");
    assert_eq!(asks(&conversation, "closed").await, session);
    assert_eq!(notices(&conversation, "renewed").await, 1);
    // An agent that comes back is told what was said since, and nothing from before.
    conversation.evict(by()).await.expect("evicted");
    let told = asks(&conversation, "echo again").await;
    assert!(
        told.contains("echo on") && !told.contains("heron"),
        "{told}"
    );
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_words_of_a_forgotten_context_are_let_go_of() {
    let host = Host::new(&[]);
    let conversation = host.open().await;
    turn(&conversation, "late 300").await;
    conversation.renew(by()).await.expect("renewed");
    let slow = asks(&conversation, "slow 5 100").await;
    assert_eq!(slow, "01234");
    let all = entries(&conversation, 0).await;
    assert!(
        !all.iter()
            .any(|entry| entry.data.get().contains("too late"))
    );
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_while_a_turn_runs_and_without_an_agent_it_begins_anew() {
    let host = Host::new(&[("PEER_LOAD", "1")]);
    let conversation = host.open().await;
    let waits = prompt(&conversation, "wait").await;
    let error = conversation.renew(by()).await.expect_err("a turn runs");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    conversation.cancel(by()).await;
    soon("the end", waits.ended()).await;
    turn(&conversation, "echo the word is heron").await;
    conversation.evict(by()).await.expect("evicted");
    conversation.renew(by()).await.expect("renewed");
    assert_eq!(asks(&conversation, "echo on").await, "echo on");
    let updates = entries(&conversation, 0).await;
    // One that could load the earlier session was not asked to.
    assert!(
        !updates
            .iter()
            .any(|entry| entry.data.get().contains("\"history\""))
    );
    host.end(&conversation).await;
    let error = conversation.renew(by()).await.expect_err("closed");
    assert!(matches!(error, Error::Closed(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_gives_no_other_session_is_ended_and_the_next_begins_anew() {
    for (name, value) in [("PEER_FAIL", "second"), ("PEER_HANG", "second")] {
        let mut spec = spec(&[(name, value)]);
        spec.handshake_timeout = Duration::from_secs(2);
        let host = Host::with(spec, options());
        let conversation = host.open().await;
        turn(&conversation, "echo the word is heron").await;
        let pid = asks(&conversation, "pid").await;
        conversation.renew(by()).await.expect("as after a reset");
        host.stage.await_none("it was ended").await;
        assert_eq!(asks(&conversation, "echo on").await, "echo on", "{name}");
        assert_ne!(asks(&conversation, "pid").await, pid);
        host.end(&conversation).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_it_goes_on_and_what_is_asked_meanwhile_comes_after_it() {
    let host = Host::new(&[("PEER_SLOW", "200")]);
    let conversation = host.open().await;
    turn(&conversation, "echo the word is heron").await;
    let pid = asks(&conversation, "pid").await;
    let mut renew = Box::pin(conversation.renew(by()));
    // It has been asked for after this.
    let asked = tokio::time::timeout(Duration::from_millis(50), &mut renew).await;
    assert!(asked.is_err());
    drop(renew);
    assert_eq!(asks(&conversation, "echo on").await, "echo on");
    assert_eq!(notices(&conversation, "renewed").await, 1);
    assert_eq!(asks(&conversation, "pid").await, pid);
    // And where the agent is killed in the middle of it, nobody waits for ever.
    let mut renew = Box::pin(conversation.renew(by()));
    let asked = tokio::time::timeout(Duration::from_millis(50), &mut renew).await;
    assert!(asked.is_err());
    let all = host.stage.living();
    let peer = all
        .iter()
        .find(|one| one.name == "peer")
        .expect("it is there");
    peer.signal(rustix::process::Signal::KILL);
    soon("the renewal", renew).await.expect("it begins anew");
    assert_eq!(asks(&conversation, "echo on").await, "echo on");
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_are_found_by_their_number_while_they_run_and_afterwards() {
    let host = Host::new(&[]);
    let conversation = host.open().await;
    let id = conversation.id().clone();
    let first = prompt(&conversation, "stream 1000").await;
    let end = conversation.turn(first.id, first.seq);
    let end = soon("the end", end).await.expect("it has ended");
    assert_eq!(stop_reason(&end), "end_turn");
    let again = soon("again", conversation.turn(first.id, Seq(0))).await;
    assert_eq!(stop_reason(&again.expect("it had ended")), "end_turn");
    let text: String = (0..1000).map(|index| index.to_string()).collect();
    assert_eq!(
        host.agents
            .turn_text(&id, first.id, first.seq)
            .expect("read"),
        text
    );
    let crash = prompt(&conversation, "crash").await;
    let end = soon("the end", conversation.turn(crash.id, crash.seq)).await;
    assert!(matches!(end, Some(TurnEnd::Error(_))), "{end:?}");
    let waits = prompt(&conversation, "wait").await;
    assert!(
        host.agents
            .turn_end(&id, waits.id, waits.seq)
            .expect("read")
            .is_none()
    );
    let end = conversation.turn(waits.id, waits.seq);
    let never = conversation.turn(waits.id + 1, waits.seq);
    host.end(&conversation).await;
    // Of the end of its agent and that of its session, either may be seen first.
    let cut_off = |end| matches!(end, Some(TurnEnd::Interrupted(_) | TurnEnd::Error(_)));
    assert!(cut_off(soon("the end", end).await));
    assert!(soon("no end", never).await.is_none());
    // The same from the ledger, where the conversation is not live any more.
    let ended = |turn, seq| host.agents.turn_end(&id, turn, seq).expect("read");
    assert!(matches!(
        ended(first.id, first.seq),
        Some(TurnEnd::Result(_))
    ));
    assert!(matches!(ended(crash.id, Seq(0)), Some(TurnEnd::Error(_))));
    assert!(cut_off(ended(waits.id, waits.seq)));
    assert!(ended(waits.id + 1, Seq(0)).is_none());
    assert_eq!(
        host.agents
            .turn_text(&id, first.id, first.seq)
            .expect("read"),
        text
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_is_too_long_is_cut_and_says_so() {
    let host = Host::new(&[]);
    let conversation = host.open().await;
    let word = "ü".repeat(1 << 20);
    let mut all = 0;
    let echoed = prompt(&conversation, &format!("echo {word}{word}{word}")).await;
    all += "echo ".len() + 3 * word.len();
    assert_eq!(
        stop_reason(&soon("the end", echoed.ended()).await),
        "end_turn"
    );
    let text = host
        .agents
        .turn_text(conversation.id(), echoed.id, echoed.seq)
        .expect("read");
    let kept = text.find("\n[").expect("a note");
    assert!(kept <= 4 << 20 && kept > (4 << 20) - 4, "{kept}");
    let note = format!("\n[{} bytes more were cut off]", all - kept);
    assert_eq!(&text[kept..], note);
    host.end(&conversation).await;
}
