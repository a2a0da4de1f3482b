//! What a conversation has from before its task began: from an earlier host, or from the one that it was forked from.

use hostler_ledger::{ConversationId, EntrySeq as Seq};
use hostler_session::By;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::Instant;

use super::actor::{Actor, Agent};
use super::asked::Asked;
use super::pending::{At, Pending};
use super::turns::{Queued, Running, number};
use super::{Ready, TurnEnd};
use crate::link::{Link, Waiter};
use crate::recover::CUT_OFF;
use crate::rpc::{self, RpcError, raw};
use crate::transcript::EntryKind;

impl Actor {
    /// It was forked from another one.
    pub(crate) fn forked(&mut self, parent: &ConversationId, at: Seq) {
        let notice = json!({ "notice": "forked", "from": parent, "at": at });
        self.push_json(EntryKind::Notice, None, &notice);
        self.dirty = true;
    }

    /// The agent of an earlier host goes on, read from where that was.
    pub(crate) fn goes_on_with(&mut self, link: Link, ready: Ready) {
        self.generation += 1;
        self.offset = link.lines.done();
        self.link = Some(link);
        self.agent = Agent::Up(ready);
        if let Some(name) = self.agent_session.clone() {
            self.is_called(&name);
        }
        let notice = json!({ "notice": "adopted" });
        self.push_json(EntryKind::Notice, None, &notice);
    }

    /// A turn of an earlier host.
    pub(crate) fn queued(&self, id: u64, seq: Seq, params: Box<RawValue>, by: By) -> Queued {
        let (end, _) = watch::channel(None);
        Queued {
            id,
            seq,
            params,
            by,
            end,
            _busy: self.shared.session.busy(),
        }
    }

    /// A turn that the agent has goes on.
    pub(crate) fn goes_on(&mut self, turn: Queued) {
        if let Some(link) = &self.link {
            link.caller
                .calls
                .insert(number(turn.id), Waiter::Turn(turn.id));
        }
        let now = Instant::now();
        self.running = Some(Running {
            turn,
            at: At::Sent,
            began: now,
            heard: now,
            cancel: None,
        });
    }

    /// A turn of which it is not known whether the agent has it. It is not asked for twice.
    pub(crate) fn cut_off(&mut self, turn: Queued) {
        self.over_with(turn, TurnEnd::Interrupted(CUT_OFF.into()));
        let params = json!({ "sessionId": self.agent_session });
        self.send(rpc::notification("session/cancel", &raw(&params)));
    }

    /// What the agent asked the earlier host for and got no answer to.
    pub(crate) fn still_asked(&mut self, pending: &Pending) {
        for request in &pending.requests {
            let asked = Asked {
                agent_id: request.agent_id.clone(),
                method: request.method.clone(),
                deadline: None,
                unknown: 0,
            };
            self.requests.insert(request.id, asked);
        }
        self.attendance_changed();
        // One may have it already, and then takes this for an answer to nothing.
        for answer in &pending.answers {
            let mut line = answer.line.get().as_bytes().to_vec();
            line.push(b'\n');
            self.send_answer(line);
        }
        for served in &pending.served {
            if served.method == "terminal/create" {
                // It may have been created, which would be twice.
                let error = RpcError::internal("the host died while it was created");
                self.send(rpc::response(&served.agent_id, &Err(error)));
            } else {
                self.serve(served.clone());
            }
        }
    }
}
