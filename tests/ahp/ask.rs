//! What agents ask of people: the first answer counts.

use ahp_types::state::{SessionInputRequest, SessionStatus, ToolCallState, TurnState};
use serde_json::json;

use crate::peer::{Peer, calls, said};
use crate::support::{Host, Place, run};

/// An agent that asks before it does anything, and then asks for a name.
const ASKER: &str = r#"
import json, sys
def send(**message): print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
def update(**update): send(method="session/update", params={"sessionId": "x", "update": update})
pending = None
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    if method == "initialize": send(id=id, result={"protocolVersion": 1, "agentCapabilities": {}})
    elif method == "session/new": send(id=id, result={"sessionId": "x", "modes": {"currentModeId": "ask", "availableModes": [{"id": "ask", "name": "Ask"}, {"id": "go", "name": "Go"}]}})
    elif method == "session/prompt":
        pending = id
        update(sessionUpdate="agent_thought_chunk", content={"type": "text", "text": "hm"})
        update(sessionUpdate="plan", entries=[{"content": "look", "priority": "high", "status": "in_progress"}])
        update(sessionUpdate="tool_call", toolCallId="c1", title="Write a file", kind="edit", status="pending", rawInput={"path": "/tmp/f"},
            content=[{"type": "diff", "path": "/tmp/f", "oldText": "a\n", "newText": "a\nb\n"}], locations=[{"path": "/tmp/f"}])
        send(id=7, method="session/request_permission", params={"sessionId": "x", "toolCall": {"toolCallId": "c1"},
            "options": [{"optionId": "yes", "name": "Yes", "kind": "allow_once"}, {"optionId": "always", "name": "Always", "kind": "allow_always"}, {"optionId": "no", "name": "No", "kind": "reject_once"}]})
    elif id == 7:
        chosen = message["result"]["outcome"].get("optionId")
        update(sessionUpdate="tool_call_update", toolCallId="c1", status="completed" if chosen in ("yes", "always") else "failed")
        send(id=8, method="elicitation/create", params={"sessionId": "x", "mode": "form", "message": "Who?",
            "requestedSchema": {"type": "object", "properties": {"name": {"type": "string", "title": "Name"}, "age": {"type": "integer"}}, "required": ["name"]}})
    elif id == 8:
        update(sessionUpdate="agent_message_chunk", content={"type": "text", "text": "%s %s" % (chosen, json.dumps(message["result"].get("content"), sort_keys=True))})
        send(id=pending, result={"stopReason": "end_turn", "usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}})
    elif method == "session/cancel": pass
    elif id is not None and method: send(id=id, error={"code": -32601, "message": "no"})
"#;

fn host(place: &Place) -> Host {
    let script = place.dir.path().join("asker.py");
    std::fs::write(&script, ASKER).expect("written");
    let config = place.dir.path().join("config.toml");
    let text = format!("[agents.asker]\ncommand = [\"python3\", {script:?}]\n");
    std::fs::write(&config, text).expect("written");
    place.host_with(&["--config", config.to_str().expect("text")])
}

#[test]
fn a_permission_and_a_form_are_answered_by_whoever_is_first() {
    run(async {
        let place = Place::new();
        let host = host(&place);
        let mut first = Peer::new(&host.client, "first").await;
        let (session, chat) = first.open_with("p", "asker").await;
        let mut second = Peer::new(&host.client, "second").await;
        second.follow(&session).await;
        second.follow(&chat).await;
        first.prompt(&chat, "t1", "go").await;
        for peer in [&mut first, &mut second] {
            peer.until("it is asked", |peer| {
                peer.session(&session)
                    .input_needed
                    .is_some_and(|all| all.len() == 1)
            })
            .await;
            let state = peer.chat(&chat);
            assert!(SessionStatus::from_bits(state.status).contains(SessionStatus::InputNeeded));
            let calls = calls(&state);
            let Some(ToolCallState::PendingConfirmation(pending)) = calls.last() else {
                panic!("{calls:?}");
            };
            assert_eq!(pending.options.as_ref().map(Vec::len), Some(3));
            let edits = pending.edits.as_ref().expect("edits");
            let diff = edits.items[0].diff.as_ref().expect("numbers");
            assert_eq!((diff.added, diff.removed), (Some(1), Some(0)));
            let SessionInputRequest::ToolConfirmation(asked) =
                &peer.session(&session).input_needed.expect("asked")[0]
            else {
                panic!("no confirmation");
            };
            assert_eq!(asked.chat, chat);
        }
        let confirm = |option: &str, approved: bool| {
            json!({"type": "chat/toolCallConfirmed", "turnId": "t1", "toolCallId": "c1", "approved": approved,
                "confirmed": "user-action", "selectedOptionId": option})
        };
        let wrong = second.dispatch(&chat, confirm("no", true)).await;
        assert!(second.refusal(wrong).await.contains("no such option"));
        second.dispatch(&chat, confirm("always", true)).await;
        first
            .until("the form is there", |peer| {
                let asked = peer.session(&session).input_needed;
                matches!(asked.as_deref(), Some([SessionInputRequest::ChatInput(_)]))
            })
            .await;
        let late = first.dispatch(&chat, confirm("no", false)).await;
        assert!(first.refusal(late).await.contains("before"));
        let Some(SessionInputRequest::ChatInput(form)) =
            first.session(&session).input_needed.expect("asked").pop()
        else {
            panic!("no form");
        };
        let form = form.request;
        assert_eq!(form.questions.as_ref().map(Vec::len), Some(2));
        let answer = |value: serde_json::Value| json!({"state": "submitted", "value": value});
        let draft = json!({"type": "chat/inputAnswerChanged", "requestId": form.id, "questionId": "age",
            "answer": answer(json!({"kind": "number", "value": 7}))});
        first.dispatch(&chat, draft).await;
        let done = json!({"type": "chat/inputCompleted", "requestId": form.id, "response": "accept",
            "answers": {"name": answer(json!({"kind": "text", "value": "Ada"}))}});
        first.dispatch(&chat, done.clone()).await;
        for peer in [&mut first, &mut second] {
            peer.until("its end", |peer| !peer.chat(&chat).turns.is_empty())
                .await;
            peer.settle().await;
            let state = peer.chat(&chat);
            assert_eq!(said(&state, "t1"), r#"always {"age": 7, "name": "Ada"}"#);
            assert_eq!(state.turns[0].state, TurnState::Complete);
            assert_eq!(
                state.turns[0]
                    .usage
                    .as_ref()
                    .and_then(|usage| usage.output_tokens),
                Some(4)
            );
            assert!(peer.session(&session).input_needed.is_none());
            let parts = serde_json::to_value(&state.turns[0].response_parts).expect("JSON");
            let kinds: Vec<&str> = parts
                .as_array()
                .expect("parts")
                .iter()
                .filter_map(|part| part["kind"].as_str())
                .collect();
            assert_eq!(
                kinds,
                [
                    "reasoning",
                    "toolCall",
                    "toolCall",
                    "inputRequest",
                    "markdown"
                ],
                "{parts}"
            );
            assert_eq!(parts[1]["toolCall"]["status"], "completed");
            assert_eq!(parts[2]["toolCall"]["selectedOption"]["id"], "always");
            assert_eq!(parts[2]["toolCall"]["status"], "completed");
        }
        let late = second.dispatch(&chat, done).await;
        assert!(second.refusal(late).await.contains("before"));
        let mut third = Peer::new(&host.client, "third").await;
        third.follow(&session).await;
        third.follow(&chat).await;
        first.settle().await;
        assert_eq!(third.state(&chat), first.state(&chat));
        assert_eq!(third.state(&session), first.state(&session));
    });
}

#[test]
fn a_denial_ends_the_call_and_says_why() {
    run(async {
        let place = Place::new();
        let host = host(&place);
        let mut peer = Peer::new(&host.client, "a").await;
        let (session, chat) = peer.open_with("n", "asker").await;
        peer.prompt(&chat, "t1", "go").await;
        peer.until("it is asked", |peer| {
            peer.session(&session).input_needed.is_some()
        })
        .await;
        let deny = json!({"type": "chat/toolCallConfirmed", "turnId": "t1", "toolCallId": "c1", "approved": false,
            "reason": "denied", "reasonMessage": "not there"});
        peer.dispatch(&chat, deny).await;
        peer.until("it is cancelled", |peer| {
            let calls = calls(&peer.chat(&chat));
            matches!(calls.last(), Some(ToolCallState::Cancelled(call)) if call.reason_message == Some("not there".into()))
        })
        .await;
        let cancel = json!({"type": "chat/turnCancelled", "turnId": "t1", "duration": 0});
        peer.dispatch(&chat, cancel).await;
        peer.until("its end", |peer| !peer.chat(&chat).turns.is_empty())
            .await;
        peer.settle().await;
        let mut late = Peer::new(&host.client, "late").await;
        late.follow(&chat).await;
        assert_eq!(late.state(&chat), peer.state(&chat));
    });
}
