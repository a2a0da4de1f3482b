//! A frame of a client of `/ahp`: what is dispatched is reduced into a state as the host does it, and what is not known of it
//! survives.
#![no_main]
#![allow(dead_code)]

use ahp::reducers::{apply_action_to_chat, apply_action_to_root, apply_action_to_session, apply_action_to_terminal};
use ahp_types::actions::StateAction;
use ahp_types::commands::{
    CreateSessionParams, CreateTerminalParams, FetchTurnsParams, InitializeParams, ListSessionsParams, ReconnectParams,
    SubscribeParams,
};
use ahp_types::state::SnapshotState;
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

#[path = "../../crates/hostler-gateway/src/acp/message.rs"]
mod message;
#[path = "../../crates/hostler-gateway/src/ahp/uri.rs"]
mod uri;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dispatched<'a> {
    channel: String,
    client_seq: i64,
    #[serde(borrow)]
    action: &'a RawValue,
}

fn read<T: DeserializeOwned>(params: &RawValue) -> Option<T> {
    serde_json::from_str(params.get()).ok()
}

/// States as they stand before anything happened.
fn states() -> Vec<SnapshotState> {
    let all = [
        json!({"agents": []}),
        json!({"provider": "a", "title": "", "status": 1, "lifecycle": "ready", "activeClients": [], "chats": []}),
        json!({"resource": "ahp-chat:/a", "title": "", "status": 1, "modifiedAt": "2026-01-01T00:00:00.000Z", "turns": []}),
        json!({"title": "", "content": [], "claim": {"kind": "client", "clientId": "a"}, "lifecycle": {"status": "running"}}),
    ];
    all.map(|state| serde_json::from_value(state).expect("a state")).into()
}

fn dispatch(params: &RawValue) {
    let Ok(dispatched) = serde_json::from_str::<Dispatched<'_>>(params.get()) else {
        return;
    };
    let channel = &dispatched.channel;
    let _ = (uri::session_part(channel), uri::terminal_part(channel), uri::path(channel), uri::extension(channel));
    // What goes to the others is what came, whatever is known of it here.
    let envelope = json!({"channel": channel, "action": dispatched.action, "serverSeq": 1});
    let text = serde_json::to_string(&envelope).expect("JSON");
    let again: Value = serde_json::from_str(&text).expect("JSON");
    if let Ok(came) = serde_json::from_str::<Value>(dispatched.action.get()) {
        assert_eq!(again["action"], came);
    }
    let Ok(action) = serde_json::from_str::<StateAction>(dispatched.action.get()) else {
        return;
    };
    for mut state in states() {
        let _ = match &mut state {
            SnapshotState::Root(state) => apply_action_to_root(state, &action),
            SnapshotState::Session(state) => apply_action_to_session(state, &action),
            SnapshotState::Chat(state) => apply_action_to_chat(state, &action),
            SnapshotState::Terminal(state) => apply_action_to_terminal(state, &action),
            _ => continue,
        };
        serde_json::to_string(&state).expect("JSON");
    }
}

fuzz_target!(|frame: &[u8]| {
    // A binary frame is taken as text.
    let text = String::from_utf8_lossy(frame);
    let (method, params) = match message::parse(&text) {
        Ok(message::Incoming::Request { method, params, .. } | message::Incoming::Notification { method, params }) => (method, params),
        Ok(message::Incoming::Response { .. }) => return,
        Err(malformed) => {
            let answer: Value = serde_json::from_str(&malformed.answer()).expect("JSON");
            assert!(answer["error"]["code"].is_number());
            return;
        }
    };
    let Some(params) = params else { return };
    match &*method {
        "dispatchAction" => dispatch(params),
        "initialize" => {
            if let Some(params) = read::<InitializeParams>(params) {
                let _ = ahp_types::version::negotiate_protocol_version(&params.protocol_versions);
            }
        }
        "reconnect" => drop(read::<ReconnectParams>(params)),
        "subscribe" => drop(read::<SubscribeParams>(params)),
        "createSession" => drop(read::<CreateSessionParams>(params)),
        "createTerminal" => drop(read::<CreateTerminalParams>(params)),
        "fetchTurns" => drop(read::<FetchTurnsParams>(params)),
        "listSessions" => drop(read::<ListSessionsParams>(params)),
        _ => {}
    }
});
