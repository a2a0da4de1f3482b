//! The host is killed, or taken over, in the middle of a turn.

use ahp_types::commands::ReconnectResult;
use rustix::process::Signal;
use serde_json::json;

use crate::peer::{Peer, message, said, saying};
use crate::support::{Host, Place, run};

/// A host whose sessions outlive it.
pub(crate) fn host(place: &Place, args: &[&str]) -> Host {
    let mut command = place.command(args);
    command.env("HOSTLER_POLICY_ON_HOST_EXIT", "keep");
    // What a failed test leaves goes by itself.
    command.env("HOSTLER_POLICY_KEEP_FOR", "300");
    Host::spawn(command, &place.mark)
}

async fn begun(peer: &mut Peer, chat: &str) {
    peer.turn(chat, "t0", "echo before").await;
    let draft = json!({"type": "chat/draftChanged", "draft": message("kept")});
    peer.dispatch(chat, draft).await;
    let text = "for i in $(seq 1 60); do echo line $i; sleep 0.05; done";
    peer.prompt(chat, "t1", text).await;
    let queued = json!({"type": "chat/pendingMessageSet", "kind": "queued", "id": "q", "message": message("echo after")});
    peer.dispatch(chat, queued).await;
    peer.until("it streams", |peer| {
        let chat = peer.chat(chat);
        saying(chat.active_turn.as_ref()).contains("line 5\n") && chat.queued_messages.is_some()
    })
    .await;
}

async fn goes_on(peer: Peer, place: &Place, host: &Host, session: &str, chat: &str) {
    let last = peer.seq;
    let (mut peer, result) = peer.back(&host.client).await;
    assert!(matches!(result, ReconnectResult::Snapshot(_)), "{result:?}");
    assert!(peer.seq >= last, "{} {last}", peer.seq);
    assert_eq!(peer.session(session).default_chat.as_deref(), Some(chat));
    let mut fresh = Peer::new(&host.client, "fresh").await;
    fresh.follow(session).await;
    fresh.follow(chat).await;
    let all: String = (1..=60).map(|n| format!("line {n}\n")).collect();
    for one in [&mut peer, &mut fresh] {
        one.until("all ends", |one| one.chat(chat).turns.len() == 3)
            .await;
        let state = one.chat(chat);
        assert_eq!(said(&state, "t0"), "before\n");
        assert_eq!(said(&state, "t1"), all);
        assert_eq!(said(&state, &state.turns[2].id), "after\n");
        assert_eq!(state.draft.map(|draft| draft.text).as_deref(), Some("kept"));
        one.settle().await;
    }
    assert!(peer.seq > last);
    for channel in [session, chat] {
        assert_eq!(peer.state(channel), fresh.state(channel), "{channel}");
    }
    peer.ask("disposeSession", json!({"channel": session}))
        .await
        .expect("disposed");
    assert!(place.living().is_empty());
}

#[test]
fn killed_the_turn_goes_on_with_the_next_host_and_numbers_grow() {
    run(async {
        let place = Place::new();
        let mut first = host(&place, &[]);
        let mut peer = Peer::new(&first.client, "a").await;
        let (session, chat) = peer.open("k").await;
        begun(&mut peer, &chat).await;
        first.signal(Signal::KILL);
        first.ended();
        let second = host(&place, &[]);
        goes_on(peer, &place, &second, &session, &chat).await;
    });
}

#[test]
fn taken_over_the_turn_goes_on_with_the_next_host_and_numbers_grow() {
    run(async {
        let place = Place::new();
        let mut first = host(&place, &[]);
        let mut peer = Peer::new(&first.client, "a").await;
        let (session, chat) = peer.open("k").await;
        begun(&mut peer, &chat).await;
        let second = host(&place, &["--takeover"]);
        first.ended();
        goes_on(peer, &place, &second, &session, &chat).await;
    });
}

#[test]
fn a_window_of_a_long_chat_is_read_alone_and_the_rest_when_it_is_wanted() {
    run(async {
        let place = Place::new();
        let mut first = host(&place, &[]);
        let mut peer = Peer::new(&first.client, "a").await;
        let (session, chat) = peer.open("w").await;
        for n in 0..70 {
            peer.turn(&chat, &format!("t{n}"), &format!("echo {n}"))
                .await;
        }
        first.signal(Signal::KILL);
        first.ended();
        let second = host(&place, &[]);
        let mut window = Peer::new(&second.client, "window").await;
        window.follow_as(&chat, None, Some(5)).await;
        assert_eq!(window.chat(&chat).turns.len(), 5);
        while let Some(cursor) = window.chat(&chat).turns_next_cursor {
            let before = window.chat(&chat).turns.len();
            let params = json!({"channel": chat, "cursor": cursor});
            window.ask("fetchTurns", params).await.expect("fetched");
            let more = |peer: &Peer| peer.chat(&chat).turns.len() > before;
            window.until("more", more).await;
        }
        let said = window.turn(&chat, "t70", "echo 70").await;
        assert_eq!(said, "70\n");
        window.settle().await;
        let mut whole = Peer::new(&second.client, "whole").await;
        whole.follow(&chat).await;
        assert_eq!(whole.chat(&chat).turns.len(), 71);
        assert_eq!(whole.state(&chat), window.state(&chat));
        whole
            .ask("disposeSession", json!({"channel": session}))
            .await
            .expect("disposed");
        assert!(place.living().is_empty());
    });
}
