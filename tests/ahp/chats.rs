//! Sessions and chats that come and go.

use ahp::SubscriptionEvent;
use serde_json::{Value, json};

use crate::peer::{Peer, ROOT, message, said, saying};
use crate::support::{Place, run};

fn removed(peer: &Peer, session: &str) -> bool {
    peer.heard.iter().any(
        |event| matches!(event, SubscriptionEvent::SessionRemoved(gone) if gone.session == session),
    )
}

fn added(peer: &Peer, session: &str) -> bool {
    peer.heard.iter().any(|event| {
        matches!(event, SubscriptionEvent::SessionAdded(new) if new.summary.resource == session)
    })
}

#[test]
fn dispose_in_the_middle_of_a_turn_leaves_nothing_and_all_hear_of_it() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut first = Peer::new(&host.client, "first").await;
        let (session, chat) = first.open("d").await;
        let taken = first
            .ask("createSession", json!({"channel": session}))
            .await;
        assert_eq!(taken.expect_err("taken").0, -32003);
        let mut others = Vec::new();
        for n in 0..20 {
            let mut peer = Peer::new(&host.client, &format!("other {n}")).await;
            peer.follow(&session).await;
            peer.follow(&chat).await;
            others.push(peer);
        }
        // A child that leaves its group and does not hear.
        let text = format!(
            "export MARK={}; setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' & while :; do echo more; sleep 0.01; done",
            place.mark
        );
        first.prompt(&chat, "t1", &text).await;
        first
            .until("it streams", |peer| {
                saying(peer.chat(&chat).active_turn.as_ref()).contains("more\nmore\n")
            })
            .await;
        assert!(!place.living().is_empty());
        let asked = others[0]
            .ask("disposeSession", json!({"channel": session}))
            .await;
        asked.expect("disposed");
        // Not later: it was answered.
        assert!(place.living().is_empty(), "{:?}", place.living());
        for peer in others.iter_mut().chain([&mut first]) {
            peer.until("it is removed", |peer| removed(peer, &session))
                .await;
            let report = peer.session(&session).meta.expect("how it ended");
            assert_eq!(report["dev.hostler/report"]["remaining"], 0, "{report:?}");
        }
        assert!(added(&first, &session));
        let gone = first.ask("subscribe", json!({"channel": session})).await;
        assert_eq!(gone.expect_err("gone").0, -32001);
        first
            .until("none is there", |peer| {
                peer.root().active_sessions == Some(0)
            })
            .await;
    });
}

#[test]
fn an_agent_that_does_not_come_up_is_told_and_its_session_can_be_disposed() {
    run(async {
        let place = Place::new();
        let config = place.dir.path().join("config.toml");
        std::fs::write(&config, "[agents.broken]\ncommand = [\"false\"]\n").expect("written");
        let host = place.host_with(&["--config", config.to_str().expect("text")]);
        let mut peer = Peer::new(&host.client, "a").await;
        assert!(
            peer.root()
                .agents
                .iter()
                .any(|agent| agent.provider == "broken")
        );
        let session = "ahp-session:/broken";
        let params = json!({"channel": session, "provider": "broken"});
        peer.ask("createSession", params).await.expect("created");
        peer.follow(session).await;
        peer.until("it has failed", |peer| {
            peer.session(session).creation_error.is_some()
        })
        .await;
        peer.ask("disposeSession", json!({"channel": session}))
            .await
            .expect("disposed");
        peer.until("it is removed", |peer| removed(peer, session))
            .await;
    });
}

#[test]
fn sessions_of_other_kinds_of_clients_are_shown_too() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let made = host
            .client
            .post("/v1/sessions", json!({"name": "plain"}))
            .await;
        let id = made.expect(201)["id"].as_str().expect("an id").to_owned();
        let mut peer = Peer::new(&host.client, "a").await;
        let session = format!("ahp-session:/{id}");
        peer.follow(&session).await;
        let state = peer.session(&session);
        assert_eq!(
            (state.title.as_str(), state.provider.as_str()),
            ("plain", "none")
        );
        assert!(state.chats.is_empty());
        let made = host
            .client
            .post(
                "/v1/conversations",
                json!({"agent": "shell", "session": {"cwd": "/tmp"}}),
            )
            .await;
        let made = made.json();
        let chat = format!(
            "ahp-chat:/{}",
            made["id"].as_str().unwrap_or_else(|| panic!("{made}"))
        );
        let other = chat.replace("ahp-chat", "ahp-session");
        peer.until("it is added", |peer| added(peer, &other)).await;
        peer.follow(&chat).await;
        let path = format!("/v1/conversations/{}/prompt", &chat["ahp-chat:/".len()..]);
        let prompted = host
            .client
            .post(&path, json!({"text": "echo by rest"}))
            .await;
        assert!(prompted.status < 300, "{}", prompted.json());
        peer.until("its end", |peer| !peer.chat(&chat).turns.is_empty())
            .await;
        assert_eq!(said(&peer.chat(&chat), "turn-1"), "by rest\n");
        let closed = host.client.delete(&format!("/v1/sessions/{id}")).await;
        closed.expect(200);
        peer.until("it is removed", |peer| removed(peer, &session))
            .await;
    });
}

#[test]
fn chats_are_made_forked_and_disposed_within_a_session() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut peer = Peer::new(&host.client, "a").await;
        let (session, chat) = peer.open("f").await;
        for n in 1..=3 {
            peer.turn(&chat, &format!("t{n}"), &format!("echo {n}"))
                .await;
        }
        let fork = json!({"channel": session, "chat": "ahp-chat:/fork",
            "source": {"kind": "fork", "chat": chat, "turnId": "t2"}, "initialMessage": message("echo forked")});
        peer.ask("createChat", fork.clone()).await.expect("forked");
        assert_eq!(
            peer.ask("createChat", fork).await.expect_err("taken").0,
            -32010
        );
        peer.follow("ahp-chat:/fork").await;
        peer.until("its end", |peer| {
            peer.chat("ahp-chat:/fork").turns.len() == 3
        })
        .await;
        let turns = peer.chat("ahp-chat:/fork").turns;
        let ids: Vec<&str> = turns.iter().map(|turn| &*turn.id).collect();
        assert_eq!(ids[..2], ["t1", "t2"]);
        assert_eq!(said(&peer.chat("ahp-chat:/fork"), &turns[2].id), "forked\n");
        assert_eq!(peer.chat(&chat).turns.len(), 3);
        peer.ask(
            "createChat",
            json!({"channel": session, "chat": "ahp-chat:/plain"}),
        )
        .await
        .expect("made");
        peer.follow("ahp-chat:/plain").await;
        assert_eq!(
            peer.turn("ahp-chat:/plain", "p1", "echo plain").await,
            "plain\n"
        );
        let shown = |peer: &Peer| {
            let chats = peer.session(&session).chats;
            chats
                .into_iter()
                .map(|chat| chat.resource)
                .collect::<Vec<_>>()
        };
        assert_eq!(shown(&peer), [&*chat, "ahp-chat:/fork", "ahp-chat:/plain"]);
        let list = peer
            .ask("listSessions", json!({"channel": ROOT}))
            .await
            .expect("a list");
        assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
        let own = peer.ask("disposeChat", json!({"channel": chat})).await;
        assert_eq!(own.expect_err("refused").0, -32602);
        peer.ask("disposeChat", json!({"channel": "ahp-chat:/fork"}))
            .await
            .expect("disposed");
        peer.until("it is gone", |peer| shown(peer).len() == 2)
            .await;
        for (turn, code) in [("t9", -32602), ("", -32602)] {
            let params = json!({"channel": session, "chat": "ahp-chat:/no",
                "source": {"kind": "fork", "chat": chat, "turnId": turn}});
            assert_eq!(
                peer.ask("createChat", params).await.expect_err("refused").0,
                code
            );
        }
        // With the session all its chats end.
        let text = format!("echo begun; env MARK={} sleep 1000", place.mark);
        peer.prompt("ahp-chat:/plain", "p2", &text).await;
        peer.until("it has begun", |peer| {
            saying(peer.chat("ahp-chat:/plain").active_turn.as_ref()).contains("begun")
        })
        .await;
        peer.ask("disposeSession", json!({"channel": session}))
            .await
            .expect("disposed");
        assert!(place.living().is_empty());
    });
}

#[test]
fn a_window_of_turns_is_paged_back_to_the_first() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut whole = Peer::new(&host.client, "whole").await;
        let (_, chat) = whole.open("w").await;
        for n in 0..60 {
            whole
                .turn(&chat, &format!("t{n}"), &format!("echo {n}"))
                .await;
        }
        let mut window = Peer::new(&host.client, "window").await;
        window.follow_as(&chat, None, Some(4)).await;
        let ids = |peer: &Peer| {
            let turns = peer.chat(&chat).turns;
            turns.into_iter().map(|turn| turn.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(&window), ["t56", "t57", "t58", "t59"]);
        let bad = window
            .ask("fetchTurns", json!({"channel": chat, "cursor": "x"}))
            .await;
        assert_eq!(bad.expect_err("refused").0, -32602);
        while let Some(cursor) = window.chat(&chat).turns_next_cursor {
            let before = ids(&window).len();
            let params = json!({"channel": chat, "cursor": cursor});
            window.ask("fetchTurns", params).await.expect("fetched");
            window.until("more", |peer| ids(peer).len() > before).await;
        }
        window.turn(&chat, "t60", "echo 60").await;
        whole
            .until("the last", |peer| peer.chat(&chat).turns.len() == 61)
            .await;
        whole.settle().await;
        assert_eq!(window.state(&chat), whole.state(&chat));
        let page = whole
            .ask("listSessions", json!({"channel": ROOT, "limit": 1}))
            .await;
        assert_eq!(page.expect("a page")["nextCursor"], Value::Null);
    });
}

#[test]
fn background_processes_are_shown_and_gone_when_they_end() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut peer = Peer::new(&host.client, "a").await;
        let (session, chat) = peer.open("bg").await;
        let list = host.client.get("/v1/sessions").await.json();
        let id = list[0]["id"].as_str().expect("an id").to_owned();
        let body = json!({"argv": ["sleep", "1000"], "name": "sleeper",
            "env": {"MARK": place.mark}});
        let started = host
            .client
            .post(&format!("/v1/sessions/{id}/processes"), body)
            .await;
        assert!(started.status < 300, "{}", started.json());
        let process = started.json()["id"].as_str().expect("an id").to_owned();
        peer.until("it is shown", |peer| {
            let work = serde_json::to_value(peer.chat(&chat).background_work).expect("JSON");
            work[0]["label"] == "sleeper" && work[0]["command"] == "sleep 1000"
        })
        .await;
        peer.until("the kernel's view is shown", |peer| {
            let meta = peer.session(&session).meta.unwrap_or_default();
            let all = meta.get("dev.hostler/processes").cloned();
            all.is_some_and(|all| {
                let all = all.as_array().cloned().unwrap_or_default();
                all.iter().any(|one| one["command"] == "sleep")
            })
        })
        .await;
        let ended = host
            .client
            .delete(&format!("/v1/processes/{process}"))
            .await;
        assert!(ended.status < 300, "{}", ended.json());
        peer.until("it is gone", |peer| {
            peer.chat(&chat)
                .background_work
                .is_none_or(|all| all.is_empty())
        })
        .await;
    });
}
