//! What Hostler tells besides the protocol, and what an agent lets be chosen.

use ahp::SubscriptionEvent;
use ahp_types::actions::StateAction;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::peer::{Peer, ROOT};
use crate::protocol::{ask, next, raw};
use crate::support::{Host, Place, Socket, long, run};

/// The next notification of the extension channel with this in it.
async fn changed(socket: &mut Socket, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let waiting = async {
        loop {
            let told = next(socket).await.expect("more");
            if told["method"] == "dev.hostler/sessionChanged" && holds(&told["params"]["changes"]) {
                return told["params"].clone();
            }
        }
    };
    let told = timeout(long(), waiting).await;
    told.unwrap_or_else(|_| panic!("not told: {what}"))
}

#[test]
fn the_extension_channel_tells_of_processes_and_of_the_end() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut peer = Peer::new(&host.client, "a").await;
        let (session, chat) = peer.open("x").await;
        let mut socket = raw(&host.client).await;
        let hello = json!({"channel": ROOT, "clientId": "b", "protocolVersions": ["1.0.0"]});
        ask(&mut socket, 1, "initialize", hello).await;
        let channel = session.replace("ahp-session:", "ahp-hostler-session:");
        let answer = ask(&mut socket, 2, "subscribe", json!({"channel": channel})).await;
        // It has no state.
        assert_eq!(answer["result"], json!({}), "{answer}");
        let none = json!({"channel": "ahp-hostler-session:/none"});
        let none = ask(&mut socket, 3, "subscribe", none).await;
        assert!(none["error"]["code"].is_number(), "{none}");

        let text = format!("MARK={} sleep 1000", place.mark);
        peer.prompt(&chat, "t1", &text).await;
        let sleeps = |changes: &Value| {
            let all = changes["dev.hostler/processes"].as_array();
            all.is_some_and(|all| all.iter().any(|one| one["command"] == "sleep"))
        };
        let told = changed(&mut socket, "a process", sleeps).await;
        assert_eq!(
            (&told["channel"], &told["session"]),
            (&json!(channel), &json!(session))
        );
        let changes = &told["changes"];
        assert!(
            changes["dev.hostler/memory"].as_u64() > Some(0),
            "{changes}"
        );
        assert_eq!(changes["dev.hostler/session"]["state"], "active");
        let all = changes["dev.hostler/processes"]
            .as_array()
            .expect("processes");
        let own = all.iter().find(|one| one["command"] == "sleep");
        let pid = own.expect("it sleeps")["pid"].as_u64();
        let living: Vec<u64> = place
            .living()
            .iter()
            .map(|found| found.pid.unsigned_abs().into())
            .collect();
        assert!(
            pid.is_some_and(|pid| living.contains(&pid)),
            "{pid:?} {living:?}"
        );

        let params = json!({"channel": session, "_meta": {"dev.hostler/grace": 1}});
        peer.ask("disposeSession", params).await.expect("disposed");
        let reported = |changes: &Value| changes["dev.hostler/report"].is_object();
        let told = changed(&mut socket, "the report", reported).await;
        let report = &told["changes"]["dev.hostler/report"];
        assert_eq!(report["remaining"], 0, "{report}");
        // Clients that know nothing of it were told nothing of it.
        let foreign = |event: &SubscriptionEvent| matches!(event, SubscriptionEvent::Action(one) if one.channel == channel);
        assert!(!peer.heard.iter().any(foreign));
        assert!(place.living().is_empty());
        let gone = ask(&mut socket, 4, "subscribe", json!({"channel": channel})).await;
        assert!(gone["error"]["code"].is_number(), "{gone}");
    });
}

/// A host with an agent that has modes and options.
fn scripted(place: &Place) -> Host {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/acp/scripted.py");
    let config = place.dir.path().join("config.toml");
    let text =
        format!("[agents.scripted]\ncommand = ['python3', '{script}']\ncancel_grace = '500ms'\n");
    std::fs::write(&config, text).expect("written");
    let mut command = place.command(&["--config", config.to_str().expect("text")]);
    command.env("HOSTLER_POLICY_ON_HOST_EXIT", "keep");
    command.env("HOSTLER_POLICY_KEEP_FOR", "300");
    Host::spawn(command, &place.mark)
}

fn chosen(peer: &Peer, session: &str, name: &str) -> Value {
    let config = peer.session(session).config;
    config.map_or(Value::Null, |config| config.values[name].clone())
}

#[test]
fn what_is_chosen_of_an_agent_is_seen_by_all_and_by_those_who_come_to_the_next_host() {
    run(async {
        let place = Place::new();
        let mut first = scripted(&place);
        // Its agent is up before a client of this protocol is there.
        let made = json!({"agent": "scripted", "session": {"cwd": "/tmp"}});
        let made = first.client.post("/v1/conversations", made).await.json();
        let id = made["id"].as_str().expect("an id").to_owned();
        let prompt = format!("/v1/conversations/{id}/prompt");
        let prompted = first
            .client
            .post(&prompt, json!({"text": "say hello"}))
            .await;
        assert!(prompted.status < 300, "{}", prompted.json());
        let session = format!("ahp-session:/{id}");
        let mut peer = Peer::new(&first.client, "a").await;
        let mut other = Peer::new(&first.client, "b").await;
        for peer in [&mut peer, &mut other] {
            peer.follow(&session).await;
            assert_eq!(chosen(peer, &session, "mode"), "ask");
            assert_eq!(chosen(peer, &session, "model"), "small");
        }
        let choose = |config: Value| json!({"type": "session/configChanged", "config": config});
        peer.dispatch(&session, choose(json!({"mode": "code", "model": "large"})))
            .await;
        for peer in [&mut peer, &mut other] {
            peer.until("both are chosen", |peer| {
                chosen(peer, &session, "mode") == "code"
                    && chosen(peer, &session, "model") == "large"
            })
            .await;
        }
        // It is told as the client's who chose.
        let own = |event: &SubscriptionEvent| match event {
            SubscriptionEvent::Action(one) => {
                matches!(one.action, StateAction::SessionConfigChanged(_))
                    && one
                        .origin
                        .as_ref()
                        .is_some_and(|origin| origin.client_id == "a")
            }
            _ => false,
        };
        other.settle().await;
        assert_eq!(other.heard.iter().filter(|event| own(event)).count(), 1);
        let unknown = choose(json!({"colour": "red"}));
        let unknown = other.dispatch(&session, unknown).await;
        assert!(other.refusal(unknown).await.contains("colour"));
        assert_eq!(chosen(&other, &session, "mode"), "code");
        peer.settle().await;
        let mut late = Peer::new(&first.client, "late").await;
        late.follow(&session).await;
        assert_eq!(late.state(&session), peer.state(&session));
        first.signal(Signal::KILL);
        first.ended();
        let second = scripted(&place);
        let (mut peer, _) = peer.back(&second.client).await;
        assert_eq!(chosen(&peer, &session, "mode"), "code");
        assert_eq!(chosen(&peer, &session, "model"), "large");
        peer.ask("disposeSession", json!({"channel": session}))
            .await
            .expect("disposed");
        peer.until("none is there", |peer| {
            peer.root().active_sessions == Some(0)
        })
        .await;
        assert_eq!(second.client.get("/v1/sessions").await.json(), json!([]));
    });
}
