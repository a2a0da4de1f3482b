//! Bringing agents up: deadlines, refusals, and breaking it off anywhere.

use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hostler_agent::{AgentSpec, EntryKind, Error, Seq, Step};

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_come_up_is_ended_and_its_last_words_are_told() {
    for (at, step) in [("initialize", Step::Initialize), ("new", Step::NewSession)] {
        let env = [
            ("PEER_HANG", at),
            ("PEER_LOUD", "1"),
            ("PEER_CHILD", "1"),
            ("PEER_DEAF", "1"),
        ];
        let mut spec = spec(&env);
        spec.handshake_timeout = Duration::from_secs(1);
        let host = Host::with(spec, options());
        let opened = host.agents.open_ready(host.conversation(), by()).await;
        let error = opened.expect_err("it hangs");
        let Error::Handshake {
            step: stopped,
            stderr,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!(*stopped, step);
        assert!(stderr.contains("it is loud"), "{stderr}");
        host.stage.await_none("after the deadline").await;
        until("no session is left", || {
            host.stage.sessions.list().is_empty()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_ends_at_once_or_is_not_there_or_wants_a_login_says_so() {
    for (spec, step, words) in [
        (
            AgentSpec::new(["sh", "-c", "echo no such luck >&2; exit 3"]),
            Step::Initialize,
            "no such luck",
        ),
        (AgentSpec::new(["/there/is/no/such/agent"]), Step::Start, ""),
        (spec(&[("PEER_LOGIN", "1")]), Step::NewSession, "logged in"),
    ] {
        // Without what it is started through, its own start is what fails.
        let plain = hostler_agent::AgentsOptions::default();
        let host = Host::with(spec, plain);
        let conversation = host.open().await;
        let error = soon("an error", conversation.ready(by()))
            .await
            .expect_err("no agent");
        let Error::Handshake { step: stopped, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*stopped, step, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        let end = turn(&conversation, "stream 1").await;
        assert!(stop_reason(&end).contains("Error"), "{end:?}");
        host.end(&conversation).await;
    }
}

/// Polls a future so often, then drops it; whether it was done before.
async fn polled<F: Future>(future: F, polls: u32) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|cx: &mut Context<'_>| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if left == 0 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_that_is_broken_off_at_any_await_leaves_nothing_twice() {
    for _ in 0..2 {
        let host = Host::new(&[("PEER_CHILD", "1")]);
        let mut polls = 0;
        loop {
            polls += 1;
            let opening = host.agents.open_ready(host.conversation(), by());
            if let Some(done) = soon("a poll", polled(opening, polls)).await {
                let (conversation, _) = done.expect("a conversation");
                host.end(&conversation).await;
                break;
            }
            until("no session is left", || {
                host.stage.sessions.list().is_empty()
            })
            .await;
            host.stage.await_none("after it was broken off").await;
            assert!(polls < 1000);
        }
        assert!(polls > 1, "it was broken off {polls} times");
    }
}

/// Evicts an agent that did come up, in the moment in which whoever waited went: then it was not broken off.
async fn came_up(conversation: &hostler_agent::Conversation, up: &mut usize, heard: bool) {
    // What was asked for before is done when this is answered.
    conversation.requests().await.expect("requests");
    let started = notices(conversation, "agent_started").await;
    assert!(!heard || started > *up, "it said that it was up");
    if started > *up {
        *up = started;
        conversation.evict(by()).await.expect("evicted");
    }
}

/// Waits for the end of all turns. A prompt whose caller goes is queued all the same, or nobody has heard of it.
async fn turns_ended(conversation: &hostler_agent::Conversation) {
    // What was asked for before is done when this is answered.
    conversation.requests().await.expect("requests");
    let (mut follower, last) = (conversation.follow(Seq(0)), conversation.last());
    let mut under_way = 0;
    while follower.after() < last || under_way > 0 {
        let some = soon("the end of a turn", follower.next(64)).await;
        for entry in some.expect("entries") {
            match entry.kind {
                EntryKind::Prompt => under_way += 1,
                EntryKind::TurnEnded => under_way -= 1,
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_broken_off_at_any_time_leaves_nothing_of_the_agent() {
    let host = Host::new(&[("PEER_CHILD", "1")]);
    let conversation = host.open().await;
    let mut up = 0;
    // Through all of its phases: from before the start of the process to after the answer.
    for round in 0..40_u64 {
        let limit = Duration::from_micros(round * round * 40);
        let ready = tokio::time::timeout(limit, conversation.ready(by())).await;
        came_up(&conversation, &mut up, ready.is_ok()).await;
        host.stage.await_none("after it was broken off").await;
        let prompting = conversation.prompt(text("stream 1"), by());
        drop(polled(prompting, 1).await);
        turns_ended(&conversation).await;
        came_up(&conversation, &mut up, false).await;
        host.stage
            .await_none("after a prompt nobody heard of")
            .await;
    }
    assert_eq!(
        stop_reason(&turn(&conversation, "stream 1").await),
        "end_turn"
    );
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_closes_in_the_middle_of_a_handshake_leaves_nothing() {
    for at in ["initialize", "new"] {
        let host = Host::new(&[("PEER_HANG", at), ("PEER_CHILD", "1"), ("PEER_DEAF", "1")]);
        let conversation = host.open().await;
        let waiting = conversation.clone();
        let ready = tokio::spawn(async move { waiting.ready(by()).await });
        until("the agent is there", || !host.stage.living().is_empty()).await;
        host.end(&conversation).await;
        let error = soon("an error", ready)
            .await
            .expect("joined")
            .expect_err("closed");
        assert!(
            matches!(error, Error::Closed(_) | Error::Handshake { .. }),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_ends_as_it_comes_up_keeps_nobody_waiting() {
    let script = r#"
        read line; echo '{"jsonrpc":"2.0","id":'$(echo "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')',"result":{"protocolVersion":1}}'
        read line; echo '{"jsonrpc":"2.0","id":'$(echo "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')',"result":{"sessionId":"x"}}'
        echo "that was all" >&2; exit 3"#;
    let mut shell = hostler_agent::AgentSpec::new(["sh", "-c", script]);
    shell.handshake_timeout = spec(&[]).handshake_timeout;
    // Its own end is the process's: nothing is put before it that would take time.
    let host = Host::with(shell, hostler_agent::AgentsOptions::default());
    let (mut up, mut ended) = (0, 0);
    for _ in 0..60 {
        let conversation = host.open().await;
        // It is up for a moment, or it has ended: either is an answer.
        match soon("an answer", conversation.ready(by())).await {
            Ok(_) => up += 1,
            Err(error) => {
                assert!(error.to_string().contains("that was all"), "{error}");
                ended += 1;
            }
        }
        host.end(&conversation).await;
    }
    println!("{up} were up for a moment, {ended} had ended");
}
