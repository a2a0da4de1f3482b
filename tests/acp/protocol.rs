//! What is no message, or is none that can be acted on, is answered by the protocol, and hurts nobody.

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::peer::Peer;
use crate::support::{Place, run};

#[test]
fn malformed_messages_are_answered_and_the_connection_goes_on() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut other = Peer::new(&host.client).await;
        let session = other.open().await;
        let mut peer = Peer::new(&host.client).await;
        for (text, code, id) in [
            ("{", -32700, Value::Null),
            ("[]", -32600, Value::Null),
            (
                r#"[{"jsonrpc":"2.0","id":1,"method":"x"}]"#,
                -32600,
                Value::Null,
            ),
            ("3", -32600, Value::Null),
            (r#"{"id":7,"method":"x"}"#, -32600, json!(7)),
            (
                r#"{"jsonrpc":"2.0","id":8,"method":"no/such"}"#,
                -32601,
                json!(8),
            ),
            (
                r#"{"jsonrpc":"2.0","id":9,"method":"session/new","params":{}}"#,
                -32602,
                json!(9),
            ),
            (
                r#"{"jsonrpc":"2.0","id":10,"method":"session/prompt","params":{"sessionId":"s-no","prompt":[]}}"#,
                -32002,
                json!(10),
            ),
        ] {
            peer.say(text).await;
            let answer = peer.answer(&id).await;
            assert_eq!(answer["error"]["code"], code, "{text}: {answer}");
        }
        // Answers to nothing, and a notification of nothing.
        peer.say(r#"{"jsonrpc":"2.0","id":"x","result":{}}"#).await;
        peer.tell("_nothing", json!({})).await;
        // 2,000 more of all sorts, without an end.
        for n in 0..2000_u32 {
            let text =
                r#"{"jsonrpc":"2.0","id":1,"method":"session/cancel","params":{"sessionId":["#;
            let cut = &text[..(n as usize * 7) % text.len()];
            peer.say(cut).await;
            let answer = peer.answer(&Value::Null).await;
            assert!(answer["error"]["code"].is_i64(), "{cut}: {answer}");
        }
        let list = peer.ask("session/list", json!({})).await;
        assert_eq!(
            list["result"]["sessions"][0]["sessionId"], *session,
            "{list}"
        );
        let said = other.prompt(&session, "echo still there").await;
        assert_eq!(said["result"]["stopReason"], "end_turn");
    });
}

#[test]
fn what_is_too_large_ends_its_own_connection_only() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut other = Peer::new(&host.client).await;
        let session = other.open().await;
        let mut peer = Peer::new(&host.client).await;
        let large = Message::text("x".repeat((16 << 20) + 1));
        let _ = peer.socket.send(large).await;
        while peer.hear().await {}
        let said = other.prompt(&session, "echo still there").await;
        assert_eq!(said["result"]["stopReason"], "end_turn");
        assert!(other.said().contains("still there"));
    });
}

#[test]
fn initialize_comes_first_and_once() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut peer = Peer::silent(&host.client).await;
        let answer = peer.ask("session/list", json!({})).await;
        assert_eq!(answer["error"]["code"], -32600);
        let hello = json!({"protocolVersion": 7});
        let answer = peer.ask("initialize", hello.clone()).await;
        assert_eq!(answer["result"]["protocolVersion"], 1);
        let answer = peer.ask("initialize", hello).await;
        assert_eq!(answer["error"]["code"], -32600);
    });
}
