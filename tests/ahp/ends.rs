//! Disposal at bad moments: one end, nothing that survives it, and each notification once.

use std::time::Duration;

use ahp::SubscriptionEvent;
use ahp_types::actions::StateAction;
use ahp_types::commands::ReconnectResult;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::peer::{Peer, ROOT, saying};
use crate::support::{Place, run};

/// How many clients there are.
const MANY: usize = 20;

fn removed(peer: &Peer, session: &str) -> usize {
    let told = peer.heard.iter().filter(
        |event| matches!(event, SubscriptionEvent::SessionRemoved(gone) if gone.session == session),
    );
    told.count()
}

/// How many actions like this came.
fn count(peer: &Peer, is: impl Fn(&StateAction) -> bool) -> usize {
    let told = peer.heard.iter().filter(
        |event| matches!(event, SubscriptionEvent::Action(envelope) if is(&envelope.action)),
    );
    told.count()
}

/// Whether it is the last word of a session.
fn is_report(action: &StateAction) -> bool {
    matches!(action, StateAction::SessionMetaChanged(changed)
        if changed.meta.as_ref().is_some_and(|meta| meta.contains_key("dev.hostler/report")))
}

/// Streams in a chat, with a child that leaves its group and does not hear.
async fn stream(peer: &mut Peer, place: &Place, chat: &str) {
    let text = format!(
        "export MARK={}; setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' & while :; do echo more; sleep 0.01; done",
        place.mark
    );
    peer.prompt(chat, "t1", &text).await;
    let streams =
        |peer: &Peer| saying(peer.chat(chat).active_turn.as_ref()).contains("more\nmore\n");
    peer.until("it streams", streams).await;
    assert!(!place.living().is_empty());
}

/// Disposes of a session that does not go before its grace is over.
fn disposing(peer: &Peer, session: &str, grace: f64) -> JoinHandle<()> {
    let client = peer.client.clone();
    let params = json!({"channel": session, "_meta": {"dev.hostler/grace": grace}});
    tokio::spawn(async move {
        let gone: Result<Value, _> = client.request("disposeSession", params).await;
        gone.expect("disposed");
    })
}

#[test]
fn twenty_who_dispose_at_once_while_a_turn_streams_to_them_hear_of_one_end() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut first = Peer::new(&host.client, "first").await;
        let (session, chat) = first.open("d").await;
        let mut peers = Vec::new();
        for n in 1..MANY {
            let mut peer = Peer::new(&host.client, &format!("other {n}")).await;
            peer.follow(&session).await;
            peer.follow(&chat).await;
            peers.push(peer);
        }
        stream(&mut first, &place, &chat).await;
        peers.push(first);
        let asked = peers.iter().map(|peer| async {
            let params = json!({"channel": session, "_meta": {"dev.hostler/grace": 0.3}});
            let answer = peer.ask("disposeSession", params).await;
            // Not later: it was answered.
            assert!(place.living().is_empty(), "{:?}", place.living());
            answer
        });
        let answers = join_all(asked).await;
        assert!(answers.iter().any(Result::is_ok), "{answers:?}");
        for answer in answers {
            let code = answer.err().map(|(code, _)| code);
            assert!(code.is_none_or(|code| code == -32001), "{code:?}");
        }
        for peer in &mut peers {
            peer.until("none is there", |peer| {
                removed(peer, &session) > 0 && peer.root().active_sessions == Some(0)
            })
            .await;
            peer.settle().await;
            assert_eq!(removed(peer, &session), 1, "{}", peer.name);
            assert_eq!(count(peer, is_report), 1, "{}", peer.name);
            let none = |action: &StateAction| matches!(action, StateAction::RootActiveSessionsChanged(now) if now.active_sessions == 0);
            assert_eq!(count(peer, none), 1, "{}", peer.name);
            // The report is the last that is told before it.
            let told = peer.heard.iter().filter(|event| match event {
                SubscriptionEvent::Action(envelope) => {
                    envelope.channel == session || envelope.channel == chat
                }
                SubscriptionEvent::SessionRemoved(_) => true,
                _ => false,
            });
            let told: Vec<&SubscriptionEvent> = told.collect();
            let [
                ..,
                SubscriptionEvent::Action(report),
                SubscriptionEvent::SessionRemoved(_),
            ] = &told[..]
            else {
                panic!("{:?}", told.last());
            };
            assert!(is_report(&report.action), "{report:?}");
            let meta = peer.session(&session).meta.expect("how it ended");
            assert_eq!(meta["dev.hostler/report"]["remaining"], 0, "{meta:?}");
        }
    });
}

#[test]
fn who_comes_back_or_comes_while_a_session_ends_sees_its_end() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut first = Peer::new(&host.client, "first").await;
        let (session, chat) = first.open("d").await;
        let mut flapper = Peer::new(&host.client, "flapping").await;
        flapper.follow(&session).await;
        flapper.follow(&chat).await;
        stream(&mut first, &place, &chat).await;
        let disposing = disposing(&first, &session, 3.0);
        let closes = |peer: &Peer| {
            let meta = peer.session(&session).meta.unwrap_or_default();
            meta["dev.hostler/session"]["state"] == "closing"
        };
        first.until("it closes", closes).await;
        // Who joins now sees that, and how it ends.
        let mut late = Peer::new(&host.client, "late").await;
        late.follow(&session).await;
        late.follow(&chat).await;
        assert!(closes(&late));
        let mut times = 0;
        loop {
            let (back, result) = flapper.back(&host.client).await;
            flapper = back;
            let ReconnectResult::Replay(replay) = result else {
                panic!("{result:?}");
            };
            if removed(&flapper, &session) > 0 || !replay.missing.is_empty() {
                break;
            }
            // It is there until it has ended.
            times += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
            flapper.catch_up();
        }
        assert!(times > 0, "it was never there while it ended");
        disposing.await.expect("disposed");
        assert!(place.living().is_empty(), "{:?}", place.living());
        for peer in [&mut first, &mut late] {
            peer.until("it is removed", |peer| removed(peer, &session) > 0)
                .await;
            peer.settle().await;
            assert_eq!(
                (removed(peer, &session), count(peer, is_report)),
                (1, 1),
                "{}",
                peer.name
            );
        }
        flapper.settle().await;
        assert!(removed(&flapper, &session) <= 1);
        let none = |peer: &Peer| peer.root().active_sessions == Some(0);
        flapper.until("none is there", none).await;
        for uri in [&session, &chat] {
            let gone = flapper.ask("subscribe", json!({"channel": uri})).await;
            assert!([-32001, -32008].contains(&gone.expect_err("gone").0));
        }
        let list = flapper.ask("listSessions", json!({"channel": ROOT})).await;
        assert_eq!(list.expect("a list")["items"], json!([]));
    });
}

#[test]
fn a_session_whose_terminal_a_client_holds_ends_with_it() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut first = Peer::new(&host.client, "first").await;
        let (session, chat) = first.open("d").await;
        let terminal = "ahp-terminal:/held";
        let script = "trap '' TERM HUP; setsid sh -c 'trap \"\" TERM HUP; sleep 1000; sleep 1000' & echo ready; cat; cat";
        let params = json!({"channel": terminal, "claim": {"kind": "session", "session": session, "chat": chat},
            "_meta": {"dev.hostler/argv": ["sh", "-c", script], "dev.hostler/env": {"MARK": place.mark}}});
        first.ask("createTerminal", params).await.expect("made");
        let mut holder = Peer::new(&host.client, "holder").await;
        for peer in [&mut first, &mut holder] {
            peer.follow(terminal).await;
        }
        let claim =
            json!({"type": "terminal/claimed", "claim": {"kind": "client", "clientId": "holder"}});
        holder.dispatch(terminal, claim).await;
        holder
            .dispatch(
                terminal,
                json!({"type": "terminal/input", "data": "typed\r"}),
            )
            .await;
        let shown = |text: &'static str| {
            move |peer: &Peer| peer.state(terminal)["content"].to_string().contains(text)
        };
        holder.until("its child is there", shown("ready")).await;
        holder.until("what was typed", shown("typed")).await;
        assert!(place.living().len() >= 3, "{:?}", place.living());
        let params = json!({"channel": session, "_meta": {"dev.hostler/grace": 0.3}});
        first.ask("disposeSession", params).await.expect("disposed");
        assert!(place.living().is_empty(), "{:?}", place.living());
        for peer in [&mut first, &mut holder] {
            peer.until("it is not listed", |peer| {
                removed(peer, &session) > 0
                    && peer.root().terminals.is_none_or(|all| all.is_empty())
            })
            .await;
            peer.settle().await;
            let exited = |action: &StateAction| matches!(action, StateAction::TerminalExited(_));
            assert_eq!(
                (removed(peer, &session), count(peer, exited)),
                (1, 1),
                "{}",
                peer.name
            );
        }
        let late = json!({"type": "terminal/input", "data": "late\r"});
        let late = holder.dispatch(terminal, late).await;
        assert!(holder.refusal(late).await.contains("no channel"));
    });
}
