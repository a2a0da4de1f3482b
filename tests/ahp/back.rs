//! Clients that come back, and clients that do not.

use std::time::Duration;

use ahp_types::commands::ReconnectResult;
use serde_json::json;

use crate::peer::{Peer, message, saying};
use crate::support::{Place, run};

#[test]
fn who_comes_back_has_missed_nothing() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut first = Peer::new(&host.client, "first").await;
        let (session, chat) = first.open("b").await;
        let mut flapping = Peer::new(&host.client, "flapping").await;
        flapping.follow(&session).await;
        flapping.follow(&chat).await;
        let text = "for i in $(seq 1 100); do echo line $i; sleep 0.01; done";
        first.prompt(&chat, "t1", text).await;
        let mut replays = 0;
        while flapping.chat(&chat).turns.is_empty() {
            let has = saying(flapping.chat(&chat).active_turn.as_ref()).len();
            flapping
                .until("a little more", |peer| {
                    saying(peer.chat(&chat).active_turn.as_ref()).len() > has
                        || !peer.chat(&chat).turns.is_empty()
                })
                .await;
            let (back, result) = flapping.back(&host.client).await;
            assert!(
                matches!(&result, ReconnectResult::Replay(replay) if replay.missing.is_empty()),
                "{result:?}"
            );
            flapping = back;
            replays += 1;
        }
        assert!(replays > 2, "{replays}");
        first
            .until("its end", |peer| !peer.chat(&chat).turns.is_empty())
            .await;
        first.settle().await;
        flapping.settle().await;
        for channel in [&chat, &session] {
            assert_eq!(first.state(channel), flapping.state(channel), "{channel}");
        }
        // What was disposed meanwhile is missing.
        flapping.client.shutdown().await;
        first
            .ask("disposeSession", json!({"channel": session}))
            .await
            .expect("disposed");
        let (flapping, result) = flapping.back(&host.client).await;
        match result {
            ReconnectResult::Replay(replay) => {
                let mut missing = replay.missing;
                missing.sort();
                assert_eq!(missing, [chat, session]);
            }
            result => panic!("{result:?}"),
        }
        drop(flapping);
    });
}

#[test]
fn who_reads_nothing_slows_nobody_and_comes_back_to_all_of_it() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut first = Peer::new(&host.client, "first").await;
        let (_, chat) = first.open("s").await;
        // It follows, and never reads again.
        let stream = host.client.unix().await;
        let (mut silent, _) = tokio_tungstenite::client_async("ws://localhost/ahp", stream)
            .await
            .expect("a WebSocket");
        let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params":
            {"channel": "ahp-root://", "clientId": "silent", "protocolVersions": ["1.0.0"], "initialSubscriptions": [chat]}});
        futures_util::SinkExt::send(
            &mut silent,
            tokio_tungstenite::tungstenite::Message::text(hello.to_string()),
        )
        .await
        .expect("sent");
        for n in 0..16 {
            let text = "head -c 900000 /dev/zero | tr '\\0' x | fold -w 999";
            let said = first.turn(&chat, &format!("t{n}"), text).await;
            assert_eq!(said.chars().filter(|c| *c == 'x').count(), 900_000);
        }
        // Too much waited for it: it is told to come back.
        let mut closed = None;
        while let Some(Ok(message)) = futures_util::StreamExt::next(&mut silent).await {
            if let tokio_tungstenite::tungstenite::Message::Close(frame) = message {
                closed = frame;
            }
        }
        let code = closed.map(|frame| u16::from(frame.code));
        assert!(code.is_none_or(|code| code == 1013), "{code:?}");
    });
}

#[test]
fn what_a_client_held_alone_is_released_when_it_does_not_come_back() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut first = Peer::new(&host.client, "first").await;
        let (session, chat) = first.open("r").await;
        let mut second = Peer::new(&host.client, "second").await;
        second.follow(&session).await;
        let active = json!({"type": "session/activeClientSet", "activeClient": {"clientId": "second", "tools": []}});
        second.dispatch(&session, active).await;
        let is_active = |peer: &Peer| !peer.session(&session).active_clients.is_empty();
        first.until("it is active", is_active).await;
        second.client.shutdown().await;
        let began = std::time::Instant::now();
        first
            .until("it is active no more", |peer| !is_active(peer))
            .await;
        // Not at once: it might have come back.
        assert!(
            began.elapsed() > Duration::from_secs(20),
            "{:?}",
            began.elapsed()
        );
        let set = json!({"type": "chat/draftChanged", "draft": message("x")});
        first.dispatch(&chat, set).await;
        first
            .until("it goes on", |peer| peer.chat(&chat).draft.is_some())
            .await;
    });
}
