//! Several clients of one conversation, and clients that come back.

use serde_json::{Value, json};

use crate::peer::{Peer, eventually, marked, of_kind, prompt, said};
use crate::support::{Place, run};

#[test]
fn a_client_that_loads_gets_every_update_once() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut first = Peer::new(&host.client).await;
        let session = first.open().await;
        for n in 0..3 {
            let answer = first.prompt(&session, &format!("seq {n}00 {n}99")).await;
            assert_eq!(answer["result"]["stopReason"], "end_turn", "{answer}");
        }
        // Its own prompts are not shown to it.
        assert!(of_kind(&first.heard, "user_message_chunk").is_empty());
        let told = first.said();
        drop(first);
        let mut second = Peer::new(&host.client).await;
        let loaded = second.load(&session).await;
        assert!(loaded["result"].is_object(), "{loaded}");
        // All of it came before the answer.
        assert_eq!(second.said(), told);
        assert_eq!(of_kind(&second.heard, "user_message_chunk").len(), 3);
        second.heard.clear();
        let params = json!({"sessionId": session, "cwd": "/tmp", "mcpServers": []});
        let mut third = Peer::new(&host.client).await;
        let resumed = third.ask("session/resume", params).await;
        assert!(resumed["result"].is_object(), "{resumed}");
        assert!(third.heard.is_empty(), "{:?}", third.heard);
        third.prompt(&session, "echo to all").await;
        second.until(|heard| said(heard).contains("to all")).await;
        let shown = of_kind(&second.heard, "user_message_chunk");
        assert_eq!(shown[0]["content"]["text"], "echo to all");
        let closed = third
            .ask("session/close", json!({"sessionId": session}))
            .await;
        assert!(closed["result"].is_object(), "{closed}");
        // It can be taken up again.
        let mut fourth = Peer::new(&host.client).await;
        let loaded = fourth.load(&session).await;
        assert!(loaded["result"].is_object(), "{loaded}");
        assert!(fourth.said().starts_with(&told));
    });
}

#[test]
fn twenty_clients_hear_the_same() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut first = Peer::new(&host.client).await;
        let session = first.open().await;
        let mut others = Vec::new();
        for _ in 0..20 {
            let mut peer = Peer::new(&host.client).await;
            assert!(peer.load(&session).await["result"].is_object());
            others.push(peer);
        }
        let answer = first.prompt(&session, "seq 1 2000").await;
        assert_eq!(answer["result"]["stopReason"], "end_turn");
        let told = first.said();
        assert!(told.ends_with("2000\n"));
        for peer in &mut others {
            peer.until(|heard| said(heard).len() >= told.len()).await;
            assert_eq!(peer.said(), told);
        }
        // Each prompts; each is answered its own, and all hear all.
        let mut ids = Vec::new();
        for (n, peer) in others.iter_mut().enumerate() {
            let text = format!("echo from {n}");
            ids.push(peer.send("session/prompt", prompt(&session, &text)).await);
        }
        for (peer, id) in others.iter_mut().zip(&ids) {
            let answer = peer.answer(id).await;
            assert_eq!(answer["result"]["stopReason"], "end_turn", "{answer}");
        }
        for n in 0..20 {
            let line = format!("from {n}\n");
            first.until(|heard| said(heard).contains(&line)).await;
        }
    });
}

#[test]
fn a_socket_that_is_dropped_in_the_middle_of_a_message_is_a_client_that_left() {
    run(async {
        let place = Place::new();
        let mut command = place.command(&[]);
        command.env("HOSTLER_POLICY_ON_DISCONNECT", "close");
        let host = crate::support::Host::spawn(command, &place.mark);
        let mut peer = Peer::new(&host.client).await;
        let session = peer.open().await;
        peer.send("session/prompt", prompt(&session, &marked(&place)))
            .await;
        peer.until(|heard| said(heard).contains("begun")).await;
        eventually("it runs", async || !place.living().is_empty()).await;
        // The head of a frame that says that more follows, and then nothing.
        use tokio::io::AsyncWriteExt;
        let stream = peer.socket.get_mut();
        stream
            .write_all(&[0x81, 0xFE, 0x10, 0x00, 1, 2, 3, 4, 5])
            .await
            .expect("sent");
        drop(peer);
        place.all_gone();
        eventually("the session is closed", async || {
            let session = host
                .client
                .get(&format!("/v1/sessions/{session}"))
                .await
                .json();
            session["state"] == "closed"
        })
        .await;
    });
}

#[test]
fn a_client_that_answers_no_ping_is_gone() {
    run(async {
        let place = Place::new();
        let mut command = place.command(&[]);
        command
            .env("HOSTLER_POLICY_ON_DISCONNECT", "close")
            .env("HOSTLER_ACP_PING", "1");
        let host = crate::support::Host::spawn(command, &place.mark);
        let mut peer = Peer::new(&host.client).await;
        let session = peer.open().await;
        // Nothing reads the socket from here on, so nothing answers.
        eventually("the session is closed", async || {
            let session = host
                .client
                .get(&format!("/v1/sessions/{session}"))
                .await
                .json();
            session["state"] == "closed"
        })
        .await;
        drop(peer);
    });
}

#[test]
fn a_turn_is_cancelled_and_so_is_a_request() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut peer = Peer::new(&host.client).await;
        let session = peer.open().await;
        for by_request in [false, true] {
            peer.heard.clear();
            let id = peer
                .send("session/prompt", prompt(&session, &marked(&place)))
                .await;
            peer.until(|heard| said(heard).contains("begun")).await;
            match by_request {
                true => {
                    peer.tell("$/cancel_request", json!({"requestId": id}))
                        .await
                }
                false => {
                    peer.tell("session/cancel", json!({"sessionId": session}))
                        .await
                }
            }
            let answer = peer.answer(&id).await;
            assert_eq!(answer["result"]["stopReason"], "cancelled", "{answer}");
            place.all_gone();
        }
        let answer: Value = peer.prompt(&session, "exit 0").await;
        assert!(answer["result"].is_object(), "{answer}");
    });
}
