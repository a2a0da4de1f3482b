//! Turns, their order, and agents that misbehave.

use std::path::Path;

use hostler_agent::{AgentsOptions, EntryKind, Error, Seq, TurnEnd};

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_come_whole_in_their_order_and_nothing_is_left() {
    let host = Host::new(&[]);
    let conversation = host.open().await;
    let first = prompt(&conversation, "stream 1000").await;
    let end = soon("the end", first.ended()).await;
    assert_eq!(stop_reason(&end), "end_turn");
    let all = entries(&conversation, 0).await;
    for (entry, seq) in all.iter().zip(1..) {
        assert_eq!(entry.seq, Seq(seq), "numbers without gaps");
    }
    let expected: Vec<String> = (0..1000).map(|index| index.to_string()).collect();
    assert_eq!(said(&conversation, first.id).await, expected);
    let ended = all.last().expect("an entry");
    assert_eq!(ended.kind, EntryKind::TurnEnded);
    assert_eq!(json(ended)["result"]["stopReason"], "end_turn");
    // The ledger says the same, from any place.
    for after in [0, 1, 500, 1001] {
        let read = host
            .agents
            .entries(conversation.id(), Seq(after), 5000)
            .await
            .expect("read");
        let shown = entries(&conversation, after).await;
        assert_eq!(read.len(), shown.len());
        for (a, b) in read.iter().zip(&shown) {
            assert_eq!((a.seq, a.kind, a.turn), (b.seq, b.kind, b.turn));
            assert_eq!(a.data.get(), b.data.get());
        }
    }
    let resources = conversation.session().resources().await.expect("resources");
    assert_eq!(resources[0].kind, "agent");
    let info = conversation.session().info();
    assert_eq!((info.foreground, info.background), (0, 0));
    assert_eq!(conversation.info().title.as_deref(), Some("stream 1000"));
    host.end(&conversation).await;
    assert!(host.agents.get(conversation.id().as_str()).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_wait_for_one_another_and_no_more_than_may() {
    let host = Host::with(
        spec(&[]),
        AgentsOptions {
            queue: 2,
            ..options()
        },
    );
    let conversation = host.open().await;
    conversation.ready(by()).await.expect("an agent");
    let one = prompt(&conversation, "wait").await;
    let two = prompt(&conversation, "stream 1").await;
    let three = prompt(&conversation, "stream 1").await;
    let full = conversation.prompt(text("stream 1"), by()).await;
    assert!(matches!(full, Err(Error::Busy { .. })), "{full:?}");
    conversation.cancel(by()).await;
    for turn in [&one, &two, &three] {
        let end = soon("the end", turn.ended()).await;
        assert_eq!(stop_reason(&end), "cancelled");
    }
    assert!(said(&conversation, two.id).await.is_empty());
    assert_eq!(
        stop_reason(&turn(&conversation, "stream 3").await),
        "end_turn"
    );
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_dies_in_a_turn_ends_it_and_the_next_is_told() {
    let host = Host::new(&[]);
    let conversation = host.open().await;
    turn(&conversation, "echo the word is heron").await;
    let TurnEnd::Error(error) = turn(&conversation, "crash").await else {
        panic!("it crashed");
    };
    assert!(error.message.contains("about to crash"), "{error}");
    let next = prompt(&conversation, "echo again").await;
    assert_eq!(
        stop_reason(&soon("the end", next.ended()).await),
        "end_turn"
    );
    let said = said(&conversation, next.id).await.concat();
    assert!(said.contains("the word is heron"), "{said}");
    assert_eq!(notices(&conversation, "agent_started").await, 2);
    assert_eq!(notices(&conversation, "agent_ended").await, 1);
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_huge_lines_and_megabytes_of_errors_stop_nothing() {
    let host = Host::with(
        spec(&[]),
        AgentsOptions {
            max_message: 1 << 20,
            ..options()
        },
    );
    let conversation = host.open().await;
    for what in ["garbage 500", "huge 5000000", "stderr 3000000", "stream 10"] {
        assert_eq!(
            stop_reason(&turn(&conversation, what).await),
            "end_turn",
            "{what}"
        );
    }
    let noted =
        notices(&conversation, "malformed").await + notices(&conversation, "stray_answer").await;
    assert_eq!(noted, 32, "some are noted, and no more than that");
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_line_and_ten_thousand_bad_ones_of_a_shell_are_survived() {
    // Not on the SDK: an agent that answers the handshake and then writes nothing but nonsense.
    let script = r#"
        read line; echo '{"jsonrpc":"2.0","id":'$(echo "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')',"result":{"protocolVersion":1}}'
        read line; echo '{"jsonrpc":"2.0","id":'$(echo "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')',"result":{"sessionId":"x"}}'
        read line
        i=0; while [ $i -lt 10000 ]; do i=$((i+1)); echo '{"jsonrpc":"2.0","method":'$i'}'; done
        echo '{"jsonrpc":"2.0","id":'$(echo "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')',"result":{"stopReason":"end_turn"}}'
        exec sleep 1000"#;
    let mut shell = hostler_agent::AgentSpec::new(["sh", "-c", script]);
    shell.handshake_timeout = spec(&[]).handshake_timeout;
    let host = Host::with(shell, options());
    let conversation = host.open().await;
    assert_eq!(stop_reason(&turn(&conversation, "x").await), "end_turn");
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let host = Host::new(&[]);
    let mut new = host.conversation();
    new.agent = "nobody".into();
    let error = host.agents.open(new, by()).await.expect_err("no agent");
    assert!(matches!(error, Error::NoAgent(_)), "{error}");
    let mut new = host.conversation();
    new.cwd = Path::new("here").into();
    let error = host.agents.open(new, by()).await.expect_err("not absolute");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    until("no session is left", || {
        host.stage.sessions.list().is_empty()
    })
    .await;
    let conversation = host.open().await;
    let array = serde_json::value::to_raw_value(&[1]).expect("JSON");
    let error = conversation
        .prompt(array, by())
        .await
        .expect_err("an array");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    host.end(&conversation).await;
    let error = conversation
        .prompt(text("x"), by())
        .await
        .expect_err("closed");
    assert!(matches!(error, Error::Closed(_)), "{error}");
}
