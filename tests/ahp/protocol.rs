//! The handshake, what is not offered, and what makes no sense.

use ahp::ClientError;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::peer::{Peer, ROOT, connect};
use crate::support::{Client, Place, Socket, run};

pub(crate) async fn raw(client: &Client) -> Socket {
    let stream = client.unix().await;
    let (socket, _) = tokio_tungstenite::client_async("ws://localhost/ahp", stream)
        .await
        .expect("a WebSocket");
    socket
}

pub(crate) async fn next(socket: &mut Socket) -> Option<Value> {
    loop {
        match socket.next().await?.ok()? {
            Message::Text(text) => return serde_json::from_str(text.as_str()).ok(),
            Message::Close(_) => return None,
            _ => {}
        }
    }
}

pub(crate) async fn ask(socket: &mut Socket, id: u64, method: &str, params: Value) -> Value {
    let text = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
    socket.send(Message::text(text)).await.expect("sent");
    loop {
        let value = next(socket).await.expect("an answer");
        if value["id"] == id {
            return value;
        }
    }
}

#[test]
fn the_highest_version_that_both_speak_is_chosen_and_others_are_turned_away() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = connect(&host.client).await;
        let offered = vec!["0.3.0".to_owned(), "1.4.2".to_owned(), "1.0.0".to_owned()];
        let result = client.initialize("a".into(), offered, vec![]).await;
        assert_eq!(result.expect("initialized").protocol_version, "1.4.2");
        let mut socket = raw(&host.client).await;
        let params = json!({"channel": ROOT, "clientId": "b", "protocolVersions": ["2.0.0"]});
        let answer = ask(&mut socket, 1, "initialize", params).await;
        assert_eq!(answer["error"]["code"], -32005, "{answer}");
        let versions = &answer["error"]["data"]["supportedVersions"];
        assert!(
            versions.as_array().is_some_and(|all| !all.is_empty()),
            "{answer}"
        );
        assert!(
            next(&mut socket).await.is_none(),
            "the connection is closed"
        );
    });
}

#[test]
fn what_is_not_offered_has_the_specified_error() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut socket = raw(&host.client).await;
        let early = ask(&mut socket, 1, "listSessions", json!({"channel": ROOT})).await;
        assert_eq!(early["error"]["code"], -32600, "{early}");
        let peer = Peer::new(&host.client, "a").await;
        for (method, params, code) in [
            (
                "moveChat",
                json!({"channel": "ahp-chat:/x", "destination": {"kind": "newSession"}}),
                -32601,
            ),
            (
                "authenticate",
                json!({"channel": ROOT, "resource": "r", "token": "t"}),
                -32601,
            ),
            ("runAutomation", json!({"channel": ROOT}), -32602),
            (
                "runAutomation",
                json!({"channel": ROOT, "automation": "ahp-automation:/none", "requestId": "r"}),
                -32008,
            ),
            ("no/such", json!({}), -32601),
            ("subscribe", json!({"channel": "ahp-session:/none"}), -32001),
            ("subscribe", json!({"channel": "ahp-chat:/none"}), -32008),
            ("subscribe", json!({}), -32602),
            (
                "disposeSession",
                json!({"channel": "ahp-session:/none"}),
                -32001,
            ),
            (
                "createSession",
                json!({"channel": "ahp-session:/x", "provider": "nobody"}),
                -32002,
            ),
            ("createSession", json!({"channel": "other:/x"}), -32602),
            (
                "createSession",
                json!({"channel": "ahp-session:/x", "workingDirectories": ["http://x"]}),
                -32602,
            ),
            (
                "listSessions",
                json!({"channel": ROOT, "cursor": "x"}),
                -32602,
            ),
        ] {
            let answer = peer.ask(method, params.clone()).await;
            assert_eq!(answer.expect_err(method).0, code, "{method} {params}");
        }
        let again = peer
            .client
            .initialize("a".into(), vec!["1.0.0".into()], vec![])
            .await;
        assert!(
            matches!(&again, Err(ClientError::Rpc(error)) if error.code == -32600),
            "{again:?}"
        );
    });
}

#[test]
fn garbage_is_answered_and_does_no_harm() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut peer = Peer::new(&host.client, "a").await;
        let (_, chat) = peer.open("g").await;
        let mut socket = raw(&host.client).await;
        for text in [
            "",
            "{",
            "[]",
            "7",
            "{\"jsonrpc\":\"2.0\"}",
            "{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"a\"}",
        ] {
            socket.send(Message::text(text)).await.expect("sent");
            let answer = next(&mut socket).await.expect("an answer");
            assert!(answer["error"]["code"].is_number(), "{text}: {answer}");
        }
        socket
            .send(Message::binary(vec![255, 0, 1]))
            .await
            .expect("sent");
        assert_eq!(
            next(&mut socket).await.expect("an answer")["error"]["code"],
            -32700
        );
        let params = json!({"channel": ROOT, "clientId": "b", "protocolVersions": ["1.0.0"]});
        let answer = ask(&mut socket, 1, "initialize", params).await;
        assert_eq!(answer["result"]["protocolVersion"], "1.0.0", "{answer}");
        for action in [
            json!({"type": "chat/turnStarted"}),
            json!({"type": "no/such"}),
            json!(7),
        ] {
            let told = json!({"jsonrpc": "2.0", "method": "dispatchAction",
                "params": {"channel": chat, "clientSeq": 1, "action": action}});
            socket
                .send(Message::text(told.to_string()))
                .await
                .expect("sent");
            let refused = next(&mut socket).await.expect("a refusal");
            assert!(
                refused["params"]["rejectionReason"].is_string(),
                "{refused}"
            );
            assert_eq!(refused["params"]["action"], action);
        }
        assert_eq!(peer.turn(&chat, "t1", "echo fine").await, "fine\n");
    });
}

#[test]
fn what_is_not_known_of_an_action_is_shown_to_all_as_it_came() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut peer = Peer::new(&host.client, "a").await;
        let (_, chat) = peer.open("u").await;
        let mut socket = raw(&host.client).await;
        let params = json!({"channel": ROOT, "clientId": "b", "protocolVersions": ["1.0.0"], "initialSubscriptions": [chat]});
        let answer = ask(&mut socket, 1, "initialize", params).await;
        assert_eq!(answer["result"]["snapshots"][0]["resource"], chat);
        let action = json!({"type": "chat/draftChanged", "future": {"a": [1]},
            "draft": {"text": "x", "origin": {"kind": "user", "of": "old"}, "new": true}});
        let told = json!({"jsonrpc": "2.0", "method": "dispatchAction",
            "params": {"channel": chat, "clientSeq": 5, "action": action}});
        socket
            .send(Message::text(told.to_string()))
            .await
            .expect("sent");
        let shown = next(&mut socket).await.expect("the action");
        assert_eq!(shown["params"]["action"], action);
        assert_eq!(
            shown["params"]["origin"],
            json!({"clientId": "b", "clientSeq": 5})
        );
        peer.until("the draft", |peer| {
            peer.chat(&chat)
                .draft
                .is_some_and(|draft| draft.text == "x")
        })
        .await;
    });
}
