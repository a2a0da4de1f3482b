//! Turns, with many who follow.

use ahp_types::state::{SessionLifecycle, SessionStatus, ToolCallState, TurnState};
use serde_json::json;

use crate::peer::{Peer, ROOT, calls, message, queue, said, saying};
use crate::support::{Place, run};

#[test]
fn a_turn_streams_to_all_and_late_ones_have_the_same() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut first = Peer::new(&host.client, "first").await;
        first.remember();
        let (session, chat) = first.open("one").await;
        first
            .until("the agent is up", |peer| {
                peer.session(&session).lifecycle == SessionLifecycle::Ready
            })
            .await;
        assert_eq!(first.session(&session).provider, "shell");
        let mut second = Peer::new(&host.client, "second").await;
        second.remember();
        second.follow(&session).await;
        second.follow_as(&chat, Some(40), None).await;
        let text = "for i in $(seq 1 30); do echo line $i; sleep 0.02; done";
        first.prompt(&chat, "t1", text).await;
        first
            .until("it streams", |peer| {
                saying(peer.chat(&chat).active_turn.as_ref()).contains("line 5\n")
            })
            .await;
        assert!(matches!(
            &calls(&first.chat(&chat))[..],
            [ToolCallState::Running(_)]
        ));
        let mut late = Peer::new(&host.client, "late").await;
        late.remember();
        late.follow(&chat).await;
        let all: String = (1..=30).map(|n| format!("line {n}\n")).collect();
        for peer in [&mut first, &mut second, &mut late] {
            peer.until("its end", |peer| !peer.chat(&chat).turns.is_empty())
                .await;
            assert_eq!(said(&peer.chat(&chat), "t1"), all);
            assert_eq!(peer.chat(&chat).turns[0].state, TurnState::Complete);
            peer.settle().await;
        }
        let mut last = Peer::new(&host.client, "last").await;
        last.follow(&session).await;
        last.follow(&chat).await;
        for peer in [&first, &second, &late] {
            assert_eq!(peer.state(&chat), last.state(&chat), "{}", peer.name);
        }
        for peer in [&first, &second] {
            assert_eq!(peer.state(&session), last.state(&session), "{}", peer.name);
        }
        // At every number that two of them have, they have the same.
        let mut common = 0;
        for (a, b) in [(&first, &second), (&first, &late), (&second, &late)] {
            for (seq, state) in &a.past[&chat] {
                if let Some(other) = b.past[&chat].get(seq) {
                    assert_eq!(state, other, "{} and {} at {seq}", a.name, b.name);
                    common += 1;
                }
            }
        }
        assert!(common > 30, "{common}");
        // The one that takes them together was sent less.
        assert!(second.past[&chat].len() < first.past[&chat].len());
        let title = first.session(&session).title;
        assert!(title.starts_with("for i in"), "{title}");
    });
}

#[test]
fn a_turn_is_cancelled_by_whoever_wants_and_only_what_runs() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut first = Peer::new(&host.client, "first").await;
        let (_, chat) = first.open("c").await;
        let mut second = Peer::new(&host.client, "second").await;
        second.follow(&chat).await;
        let text = format!("echo begun; env MARK={} sleep 1000", place.mark);
        first.prompt(&chat, "t1", &text).await;
        second
            .until("it has begun", |peer| {
                saying(peer.chat(&chat).active_turn.as_ref()).contains("begun")
            })
            .await;
        assert!(!place.living().is_empty());
        let busy = second.prompt(&chat, "t2", "echo no").await;
        assert!(second.refusal(busy).await.contains("in progress"));
        let cancel = json!({"type": "chat/turnCancelled", "turnId": "t1", "duration": 0});
        second.dispatch(&chat, cancel.clone()).await;
        for peer in [&mut first, &mut second] {
            peer.until("its end", |peer| !peer.chat(&chat).turns.is_empty())
                .await;
            assert_eq!(peer.chat(&chat).turns[0].state, TurnState::Cancelled);
        }
        place.all_gone();
        let late = second.dispatch(&chat, cancel).await;
        assert!(second.refusal(late).await.contains("does not run"));
        assert_eq!(first.turn(&chat, "t3", "echo again").await, "again\n");
    });
}

#[test]
fn messages_wait_are_changed_reordered_and_withdrawn() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut peer = Peer::new(&host.client, "a").await;
        let (_, chat) = peer.open("q").await;
        let gate = place.dir.path().join("gate");
        let text = format!("until [ -e {} ]; do sleep 0.02; done", gate.display());
        peer.prompt(&chat, "t1", &text).await;
        let set = |id: &str, text: &str| json!({"type": "chat/pendingMessageSet", "kind": "queued", "id": id, "message": message(text)});
        for id in ["a", "b", "c", "d"] {
            peer.dispatch(&chat, set(id, &format!("echo {id}"))).await;
        }
        let waits = |expected: &[&str]| {
            let expected: Vec<String> =
                expected.iter().map(|text| format!("echo {text}")).collect();
            let chat = chat.clone();
            move |peer: &Peer| queue(&peer.chat(&chat)) == expected
        };
        peer.until("four wait", waits(&["a", "b", "c", "d"])).await;
        peer.dispatch(&chat, set("b", "echo B")).await;
        peer.until("one was changed", waits(&["a", "B", "c", "d"]))
            .await;
        peer.dispatch(
            &chat,
            json!({"type": "chat/queuedMessagesReordered", "order": ["d", "b"]}),
        )
        .await;
        peer.until("they have another order", waits(&["d", "B", "a", "c"]))
            .await;
        peer.dispatch(
            &chat,
            json!({"type": "chat/pendingMessageRemoved", "kind": "queued", "id": "a"}),
        )
        .await;
        peer.until("one is gone", waits(&["d", "B", "c"])).await;
        let steer = json!({"type": "chat/pendingMessageSet", "kind": "steering", "id": "s", "message": message("x")});
        let steer = peer.dispatch(&chat, steer).await;
        assert!(peer.refusal(steer).await.contains("queue"));
        let mut late = Peer::new(&host.client, "late").await;
        late.follow(&chat).await;
        for one in [&mut peer, &mut late] {
            let runs = |one: &Peer| !calls(&one.chat(&chat)).is_empty();
            one.until("its command runs", runs).await;
            one.settle().await;
        }
        assert_eq!(late.state(&chat), peer.state(&chat));
        std::fs::write(&gate, "").expect("written");
        for one in [&mut peer, &mut late] {
            one.until("all have run", |one| one.chat(&chat).turns.len() == 4)
                .await;
            let turns = one.chat(&chat).turns;
            let all: Vec<String> = turns[1..]
                .iter()
                .map(|turn| said(&one.chat(&chat), &turn.id))
                .collect();
            assert_eq!(all, ["d\n", "B\n", "c\n"]);
            one.settle().await;
        }
        assert_eq!(late.state(&chat), peer.state(&chat));
    });
}

#[test]
fn what_is_not_acps_is_kept_and_told() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut peer = Peer::new(&host.client, "a").await;
        let (session, chat) = peer.open("k").await;
        let mut other = Peer::new(&host.client, "b").await;
        peer.dispatch(
            &chat,
            json!({"type": "chat/draftChanged", "draft": message("half a th")}),
        )
        .await;
        peer.dispatch(&chat, json!({"type": "chat/isReadChanged", "isRead": true}))
            .await;
        peer.dispatch(
            &session,
            json!({"type": "session/titleChanged", "title": "A name"}),
        )
        .await;
        peer.dispatch(
            &session,
            json!({"type": "session/isArchivedChanged", "isArchived": true}),
        )
        .await;
        let active = json!({"type": "session/activeClientSet", "activeClient": {"clientId": "a", "tools": []}});
        peer.dispatch(&session, active).await;
        peer.until("all of it", |peer| {
            let (of, talk) = (peer.session(&session), peer.chat(&chat));
            let flags = SessionStatus::from_bits(of.status);
            of.title == "A name"
                && flags.contains(SessionStatus::IsArchived)
                && of.active_clients.len() == 1
                && SessionStatus::from_bits(talk.status).contains(SessionStatus::IsRead)
                && talk.draft.is_some_and(|draft| draft.text == "half a th")
        })
        .await;
        let foreign = json!({"type": "session/activeClientSet", "activeClient": {"clientId": "z", "tools": []}});
        let foreign = peer.dispatch(&session, foreign).await;
        assert!(peer.refusal(foreign).await.contains("itself"));
        let truncated = peer
            .dispatch(&chat, json!({"type": "chat/truncated"}))
            .await;
        assert!(peer.refusal(truncated).await.contains("fork"));
        peer.settle().await;
        other.follow(&session).await;
        other.follow(&chat).await;
        assert_eq!(other.state(&chat), peer.state(&chat));
        assert_eq!(other.state(&session), peer.state(&session));
        // Listings say the same.
        let list = peer
            .ask("listSessions", json!({"channel": ROOT}))
            .await
            .expect("a list");
        assert_eq!(list["items"][0]["title"], "A name");
        assert_eq!(list["items"][0]["resource"], session);
        // A client that no longer follows is not active.
        peer.client
            .unsubscribe(session.clone())
            .await
            .expect("told");
        other
            .until("nobody is active", |other| {
                other.session(&session).active_clients.is_empty()
            })
            .await;
    });
}
