//! What the agent asks people, and the host.

use std::time::Duration;

use hostler_agent::{Answered, ClientCapabilities, EntryKind, PermissionPolicy, RequestId};

use super::support::*;

async fn asked(conversation: &hostler_agent::Conversation) -> RequestId {
    let start = std::time::Instant::now();
    loop {
        if let Some(request) = conversation.requests().await.expect("requests").first() {
            return *request;
        }
        assert!(
            start.elapsed() < Duration::from_secs(10) * slack(),
            "not asked"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn chosen(option: &str) -> hostler_agent::Answer {
    let outcome = serde_json::json!({ "outcome": { "outcome": "selected", "optionId": option } });
    Ok(serde_json::value::to_raw_value(&outcome).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_answer_wins() {
    let host = Host::new(&[]);
    let conversation = host.open().await;
    let one = conversation
        .attach("one", ClientCapabilities::default())
        .await
        .expect("attached");
    let _two = conversation
        .attach("two", ClientCapabilities::default())
        .await
        .expect("attached");
    let turn = prompt(&conversation, "permission").await;
    let request = asked(&conversation).await;
    drop(one);
    let first = conversation
        .answer(request, chosen("no"), by())
        .await
        .expect("taken");
    let late = conversation
        .answer(request, chosen("yes"), by())
        .await
        .expect("taken");
    assert_eq!((first, late), (Answered::First, Answered::Late));
    soon("the end", turn.ended()).await;
    assert_eq!(said(&conversation, turn.id).await, ["no"]);
    let all = entries(&conversation, 0).await;
    let answers = all
        .iter()
        .filter(|entry| entry.kind == EntryKind::Answer)
        .count();
    assert_eq!(answers, 1);
    let request_entry = all
        .iter()
        .find(|entry| entry.kind == EntryKind::Request)
        .expect("asked");
    assert_eq!(
        json(request_entry)["params"]["sessionId"],
        conversation.id().as_str()
    );
    assert_eq!(json(request_entry)["id"], request_entry.seq.0);
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_answered_for_by_the_policy() {
    for (policy, answer) in [
        (PermissionPolicy::Allow, "yes"),
        (PermissionPolicy::Deny, "no"),
        (PermissionPolicy::Ask, "cancelled"),
    ] {
        let mut spec = spec(&[]);
        spec.permission = policy;
        spec.permission_timeout = Duration::from_millis(200);
        let host = Host::with(spec, options());
        let conversation = host.open().await;
        let turn = prompt(&conversation, "permission").await;
        soon("the end", turn.ended()).await;
        assert_eq!(said(&conversation, turn.id).await, [answer], "{policy:?}");
        host.end(&conversation).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_turn_asks_nobody_any_more() {
    let host = Host::new(&[]);
    let conversation = host.open().await;
    let _client = conversation
        .attach("one", ClientCapabilities::default())
        .await
        .expect("attached");
    let turn = prompt(&conversation, "permission").await;
    let request = asked(&conversation).await;
    conversation.cancel(by()).await;
    let end = soon("the end", turn.ended()).await;
    assert_eq!(stop_reason(&end), "cancelled");
    assert_eq!(said(&conversation, turn.id).await, ["cancelled"]);
    let late = conversation
        .answer(request, chosen("yes"), by())
        .await
        .expect("taken");
    assert_eq!(late, Answered::Late);
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_answered_while_a_turn_runs_and_unknown_ones_are_refused_by_the_agent() {
    let host = Host::new(&[]);
    let conversation = host.open().await;
    let turn = prompt(&conversation, "wait").await;
    let params =
        serde_json::value::to_raw_value(&serde_json::json!({ "modeId": "x" })).expect("JSON");
    let answer = soon(
        "an answer",
        conversation.call("session/set_mode", params, by()),
    )
    .await;
    let error = answer.expect("an answer").expect_err("it knows no modes");
    assert_eq!(error.code, hostler_agent::RpcError::METHOD_NOT_FOUND);
    conversation.cancel(by()).await;
    assert_eq!(
        stop_reason(&soon("the end", turn.ended()).await),
        "cancelled"
    );
    host.end(&conversation).await;
}
