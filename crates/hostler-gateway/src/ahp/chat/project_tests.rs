//! Random transcripts: what is followed entry by entry, what is folded at once, and what was trimmed and made whole again are the
//! same state; and a client that joins anywhere has it too.

use std::sync::Arc;

use ahp::reducers::apply_action_to_chat;
use ahp_types::actions::StateAction;
use ahp_types::state::ChatState;
use hostler_agent::{Entry, EntryKind, Seq};
use serde_json::{Value, json};

use super::super::empty;
use super::super::fold::{Folded, Trimming};
use super::*;

/// A small generator (xorshift): seeds are printed when something does not hold.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn entry(all: &mut Vec<Arc<Entry>>, kind: EntryKind, turn: Option<u64>, data: &Value) {
    let seq = Seq(all.len() as u64 + 1);
    all.push(Arc::new(Entry {
        seq,
        at: 1_700_000_000_000 + seq.0 * 7,
        turn,
        kind,
        data: crate::acp::message::raw(data.to_string()).into(),
    }));
}

/// A transcript as a conversation could have written it.
fn transcript(random: &mut Random, length: usize) -> Vec<Arc<Entry>> {
    let mut all = Vec::new();
    let (mut next, mut running, mut queue, mut asked) = (1_u64, None, Vec::new(), Vec::new());
    while all.len() < length {
        let seq = all.len() as u64 + 1;
        let action = |action: Value| json!({"action": action, "clientId": "c", "clientSeq": seq});
        let message = json!({"text": format!("say {seq}"), "origin": {"kind": "user"}});
        match (random.below(12), running) {
            (0, _) | (_, None) => {
                let mut params =
                    json!({"prompt": [{"type": "text", "text": format!("say {seq}")}]});
                match random.below(3) {
                    0 => {
                        params["_meta"] = json!({"dev.hostler/ahp": action(json!({"type": "chat/turnStarted",
                        "turnId": format!("c{seq}"), "startedAt": "2026-01-01T00:00:00Z", "message": message}))});
                    }
                    1 => {
                        params["_meta"] = json!({"dev.hostler/ahp": action(json!({"type": "chat/pendingMessageSet",
                        "kind": "queued", "id": format!("q{}", random.below(4)), "message": message}))});
                    }
                    _ => {}
                }
                let by = json!({"who": "w", "why": "y"});
                entry(
                    &mut all,
                    EntryKind::Prompt,
                    Some(next),
                    &json!({"turn": next, "by": by, "params": params}),
                );
                match running {
                    None => running = Some(next),
                    Some(_) => queue.push(next),
                }
                next += 1;
            }
            (1, Some(turn)) => {
                let how = match random.below(3) {
                    0 => json!({"turn": turn, "result": {"stopReason": "cancelled"}}),
                    1 => json!({"turn": turn, "error": {"code": 1, "message": "no"}}),
                    _ => json!({"turn": turn, "result": {"stopReason": "end_turn"}}),
                };
                entry(&mut all, EntryKind::TurnEnded, Some(turn), &how);
                running = (!queue.is_empty()).then(|| queue.remove(0));
                asked.clear();
            }
            (2, _) if !queue.is_empty() => {
                let turn = queue.remove(random.below(queue.len() as u64) as usize);
                let how = json!({"turn": turn, "result": {"stopReason": "cancelled"}});
                entry(&mut all, EntryKind::TurnEnded, Some(turn), &how);
            }
            (3, turn) => {
                let call = format!("call{}", random.below(3));
                asked.push(seq);
                let params = json!({"toolCall": {"toolCallId": call}, "options": [
                    {"optionId": "y", "name": "Y", "kind": "allow_once"}, {"optionId": "n", "name": "N", "kind": "reject_once"}]});
                let data =
                    json!({"id": seq, "method": "session/request_permission", "params": params});
                entry(&mut all, EntryKind::Request, turn, &data);
            }
            (4, turn) if !asked.is_empty() => {
                let id = asked.remove(0);
                let option = if random.below(2) == 0 { "y" } else { "n" };
                let by = json!({"who": "w", "why": "y"});
                let data = json!({"id": id, "by": by, "result": {"outcome": {"outcome": "selected", "optionId": option}}});
                entry(&mut all, EntryKind::Answer, turn, &data);
            }
            (5, _) => {
                let draft = action(json!({"type": "chat/draftChanged", "draft": message}));
                entry(
                    &mut all,
                    EntryKind::Notice,
                    None,
                    &json!({"notice": "ahp", "ahp": draft}),
                );
            }
            (6, turn) => {
                let status =
                    ["pending", "in_progress", "completed", "failed"][random.below(4) as usize];
                let update = json!({"sessionUpdate": "tool_call_update", "toolCallId": format!("call{}", random.below(3)),
                    "status": status, "title": format!("title {}", random.below(3)),
                    "content": [{"type": "content", "content": {"type": "text", "text": format!("out {seq}")}}]});
                entry(
                    &mut all,
                    EntryKind::Update,
                    turn,
                    &json!({"sessionId": "s", "update": update}),
                );
            }
            (7, turn) => {
                let update = json!({"sessionUpdate": "plan", "entries": [{"content": format!("step {seq}"), "status": "pending"}]});
                entry(
                    &mut all,
                    EntryKind::Update,
                    turn,
                    &json!({"sessionId": "s", "update": update}),
                );
            }
            (n, turn) => {
                let kind = if n == 8 {
                    "agent_thought_chunk"
                } else {
                    "agent_message_chunk"
                };
                let update = json!({"sessionUpdate": kind, "content": {"type": "text", "text": format!("{seq} ")}});
                entry(
                    &mut all,
                    EntryKind::Update,
                    turn,
                    &json!({"sessionId": "s", "update": update}),
                );
            }
        }
    }
    all
}

fn value(state: &ChatState) -> Value {
    serde_json::to_value(state).expect("JSON")
}

#[test]
fn however_it_came_about_the_state_is_the_same() {
    let first = std::env::var("HOSTLER_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let first: u64 = first.unwrap_or(1);
    for seed in first..first + 200 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let all = transcript(&mut random, 120);
        // As it is sent: by text, which is what clients get.
        let mut projector = Projector::default();
        let mut host = empty("ahp-chat:/x", String::new(), 0);
        let mut states = vec![host.clone()];
        let mut sent: Vec<Vec<StateAction>> = Vec::new();
        for entry in &all {
            let mut actions = Vec::new();
            for out in projector.take(entry) {
                let Out::Chat(act) = out else { continue };
                let text = match &act.raw {
                    Some(raw) => raw.get().to_owned(),
                    None => serde_json::to_string(&act.action).expect("JSON"),
                };
                apply_action_to_chat(&mut host, &act.action);
                actions.push(serde_json::from_str(&text).expect("an action"));
            }
            sent.push(actions);
            states.push(host.clone());
        }
        // At once.
        let mut folded = Folded::default();
        let mut whole = empty("ahp-chat:/x", String::new(), 0);
        for entry in &all {
            folded.take(entry, &mut whole);
        }
        assert_eq!(value(&whole), value(&host), "seed {seed}");
        // Trimmed: all but the turns that are over.
        let mut trimmed = empty("ahp-chat:/x", String::new(), 0);
        let mut folded = Folded::default();
        let mut trimming = Trimming::default();
        for entry in &all {
            trimming.take(entry.clone(), &mut folded, &mut trimmed);
        }
        trimming.finish(&mut folded, &mut trimmed);
        let mut expected = host.clone();
        expected.turns.clear();
        trimmed.turns.clear();
        assert_eq!(value(&trimmed), value(&expected), "seed {seed}");
        // A client that joins anywhere.
        for _ in 0..5 {
            let at = random.below(all.len() as u64) as usize;
            let mut client: ChatState =
                serde_json::from_value(value(&states[at])).expect("a state");
            for actions in &sent[at..] {
                for action in actions {
                    apply_action_to_chat(&mut client, action);
                }
            }
            assert_eq!(value(&client), value(&host), "seed {seed}, joined at {at}");
        }
    }
}
