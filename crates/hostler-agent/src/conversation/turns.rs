//! Turns: one at a time, the others in their order; cancelled by word, then by force; watched.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hostler_ledger::EntrySeq as Seq;
use hostler_session::{Busy, By};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::actor::{Actor, Agent, Message};
use super::pending::{At, PendingTurn};
use super::{Turn, TurnEnd};
use crate::error::{Error, Result};
use crate::link::{Waiter, Writer};
use crate::replay;
use crate::rpc::{self, Answer, RpcError, raw, with_session_id};
use crate::transcript::{EntryKind, PromptData};

/// How long a title is that comes from a prompt.
const TITLE: usize = 80;

/// A turn that waits.
pub(crate) struct Queued {
    pub(crate) id: u64,
    pub(crate) seq: Seq,
    pub(crate) params: Box<RawValue>,
    pub(crate) by: By,
    pub(crate) end: watch::Sender<Option<TurnEnd>>,
    /// Holds an automatic end of the session off.
    pub(crate) _busy: Busy,
}

/// The turn that runs.
pub(crate) struct Running {
    pub(crate) turn: Queued,
    pub(crate) at: At,
    pub(crate) began: Instant,
    /// When the agent last said something.
    pub(crate) heard: Instant,
    pub(crate) cancel: Option<Cancel>,
}

/// A cancel that the agent was told of.
pub(crate) struct Cancel {
    /// When the agent is ended.
    deadline: Instant,
    /// What the turn ends with then, if not as cancelled.
    error: Option<RpcError>,
}

impl Queued {
    pub(crate) fn pending(&self) -> PendingTurn {
        PendingTurn {
            turn: self.id,
            seq: self.seq,
            at: At::Queued,
        }
    }
}

impl Running {
    pub(crate) fn pending(&self) -> PendingTurn {
        PendingTurn {
            at: self.at,
            ..self.turn.pending()
        }
    }
}

/// The result of a turn that was cancelled before its agent could say so.
fn cancelled() -> TurnEnd {
    TurnEnd::Result(raw(&json!({ "stopReason": "cancelled" })).into())
}

/// The number of the request that a turn is: even.
pub(crate) fn number(turn: u64) -> u64 {
    turn * 2
}

fn title_of(params: &RawValue) -> Option<String> {
    let params: serde_json::Value = serde_json::from_str(params.get()).ok()?;
    let text = params["prompt"]
        .as_array()?
        .iter()
        .find_map(|block| block["text"].as_str())?;
    let line = text.trim().lines().next()?.trim();
    let title: String = line.chars().take(TITLE).collect();
    (!title.is_empty()).then_some(title)
}

impl Actor {
    pub(crate) async fn prompt(
        &mut self,
        params: Box<RawValue>,
        by: By,
        instead_of: Option<u64>,
        reply: oneshot::Sender<Result<Turn>>,
    ) {
        if reply.is_closed() {
            return;
        }
        let place = instead_of.map(|turn| self.queue.iter().position(|queued| queued.id == turn));
        if let (Some(turn), Some(None)) = (instead_of, place) {
            let why = format!("turn {turn} does not wait any more");
            let _ = reply.send(Err(Error::Invalid(why)));
            return;
        }
        let limit = self.shared.options.queue;
        if self.queue.len() >= limit && place.is_none() {
            let what = "turns that wait in this conversation";
            let _ = reply.send(Err(Error::Busy { what, limit }));
            return;
        }
        if !self.shared.session.state().is_open() {
            let _ = reply.send(Err(Error::Closed(self.shared.id.clone())));
            return;
        }
        let params = match with_session_id(params.get(), self.shared.id.as_str()) {
            Ok(params) => params,
            Err(error) => {
                let _ = reply.send(Err(Error::Invalid(error.message)));
                return;
            }
        };
        let id = self.next_turn;
        let data = PromptData {
            turn: id,
            by: &by,
            params: &params,
        };
        let seq = self.push_json(EntryKind::Prompt, Some(id), &data);
        self.next_turn += 1;
        self.shared.said.store(true, Ordering::Relaxed);
        let (end, ended) = watch::channel(None);
        if self.shared.row().title.is_none()
            && let Some(title) = title_of(&params)
        {
            self.titled(title);
        }
        self.queue.push_back(Queued {
            id,
            seq,
            params,
            by,
            end,
            _busy: self.shared.session.busy(),
        });
        self.dirty = true;
        self.update.get_or_insert_default();
        if let Err(error) = self.write().await {
            // It was never asked for.
            self.queue.pop_back();
            self.batch.clear();
            self.last = Seq(self.last.0 - 1);
            self.next_turn -= 1;
            let _ = reply.send(Err(error.into()));
            return;
        }
        let turn = Turn {
            id,
            seq,
            end: ended,
        };
        // Whoever is told of it finds it busy.
        self.show_use();
        if reply.send(Ok(turn)).is_err() {
            return self.withdraw(id);
        }
        if let Some(Some(place)) = place {
            self.takes_place(place);
        }
        self.start_next();
    }

    /// Whoever asked for it does not want it any more, or did not hear that it is there.
    pub(crate) fn withdraw(&mut self, turn: u64) {
        if let Some(place) = self.queue.iter().position(|queued| queued.id == turn)
            && let Some(queued) = self.queue.remove(place)
        {
            self.over_with(queued, cancelled());
            self.unneeded();
        } else if self
            .running
            .as_ref()
            .is_some_and(|running| running.turn.id == turn)
        {
            self.cancel_running(None);
        }
    }

    /// Starts the next turn, if there is one and none runs; brings the agent up for it.
    pub(crate) fn start_next(&mut self) {
        if self.running.is_some() || self.renewing.is_some() || self.over {
            return;
        }
        let Some(first) = self.queue.front() else {
            return;
        };
        match &self.agent {
            Agent::Building(_) => {}
            Agent::Absent => {
                let by = first.by.clone();
                self.build(by);
            }
            Agent::Up(_) => {
                if let Some(turn) = self.queue.pop_front() {
                    self.begin(turn);
                }
            }
        }
    }

    fn begin(&mut self, turn: Queued) {
        let params = self.for_agent(&turn.params, turn.seq);
        let (Some(link), Ok(params)) = (&self.link, &params) else {
            let why = params
                .err()
                .unwrap_or_else(|| RpcError::internal("there is no agent"));
            return self.over_with(turn, TurnEnd::Error(why));
        };
        let id = turn.id;
        let line = rpc::request(number(id), "session/prompt", params);
        link.caller.calls.insert(number(id), Waiter::Turn(id));
        let (writer, mailbox) = (link.caller.writer.clone(), self.shared.mailbox.clone());
        if Writer::may_be_cut(&line) {
            self.long += 1;
        }
        let (long, generation) = (Writer::may_be_cut(&line), self.generation);
        let now = Instant::now();
        self.running = Some(Running {
            turn,
            at: At::Sending,
            began: now,
            heard: now,
            cancel: None,
        });
        self.untold = false;
        self.dirty = true;
        self.then(move || {
            let told = mailbox.clone();
            let done = move || {
                let _ = told.send(Message::Sent { turn: id });
                if long {
                    let _ = told.send(Message::Written { generation });
                }
            };
            if writer.send_then(line, done).is_err() {
                // Too much waits for an agent that does not read: as though it had not been asked.
                let _ = mailbox.send(Message::Withdraw { turn: id });
            }
        });
    }

    /// The parameters of a prompt as the agent gets them.
    fn for_agent(
        &self,
        params: &RawValue,
        before: Seq,
    ) -> std::result::Result<Box<RawValue>, RpcError> {
        let name = self.agent_session.as_deref().unwrap_or_default();
        let params = with_session_id(params.get(), name)?;
        if !self.untold {
            return Ok(params);
        }
        let ledger = self.shared.ledger();
        let told = replay::text(ledger, &self.shared.id, self.forgotten, before)
            .map_err(|error| RpcError::internal(error.to_string()))?;
        if told.is_empty() {
            return Ok(params);
        }
        replay::with_context(&params, &told)
    }

    pub(crate) fn sent(&mut self, turn: u64) {
        if let Some(running) = &mut self.running
            && running.turn.id == turn
        {
            running.at = At::Sent;
            self.dirty = true;
        }
    }

    pub(crate) fn turn_answered(&mut self, turn: u64, answer: Answer) {
        if self
            .running
            .as_ref()
            .is_some_and(|running| running.turn.id == turn)
        {
            self.end_running(match answer {
                Ok(result) => TurnEnd::Result(result.into()),
                Err(error) => TurnEnd::Error(error),
            });
        }
    }

    /// Ends the turn that runs, and starts the next one.
    pub(crate) fn end_running(&mut self, end: TurnEnd) {
        if let Some(running) = self.running.take() {
            self.over_with(running.turn, end);
        }
        self.start_next();
    }

    /// A turn has ended: an entry, and whoever waits hears it.
    pub(crate) fn over_with(&mut self, turn: Queued, end: TurnEnd) {
        let data = match &end {
            TurnEnd::Result(result) => json_of(turn.id, "result", result),
            TurnEnd::Error(error) => json_of(turn.id, "error", &raw(error)),
            TurnEnd::Interrupted(why) => json_of(turn.id, "interrupted", &raw(why)),
        };
        self.push(EntryKind::TurnEnded, Some(turn.id), data.into());
        self.dirty = true;
        self.update.get_or_insert_default();
        self.then(move || {
            turn.end.send_replace(Some(end));
        });
    }

    // --- cancelling ---

    pub(crate) fn cancel(&mut self, _by: &By) {
        self.cancel_queue();
        self.cancel_running(None);
        self.unneeded();
    }

    pub(crate) fn cancel_queue(&mut self) {
        for queued in std::mem::take(&mut self.queue) {
            self.over_with(queued, cancelled());
        }
    }

    /// Tells the agent to end its turn, which it has a grace for.
    pub(crate) fn cancel_running(&mut self, error: Option<RpcError>) {
        let grace = self.shared.spec.cancel_grace;
        let Some(running) = &mut self.running else {
            return;
        };
        if running.cancel.is_some() {
            return;
        }
        running.cancel = Some(Cancel {
            deadline: Instant::now() + grace,
            error,
        });
        let params = json!({ "sessionId": self.agent_session });
        let line = rpc::notification("session/cancel", &raw(&params));
        // Before the answers, so that the agent knows what they come of.
        self.send(line);
        self.cancel_requests();
        if let Ok(agents) = self.shared.agents() {
            agents.end_delegated(self.shared.session.id());
        }
    }

    /// Ends an agent that did not end its turn, and the turn.
    fn enforce(&mut self) {
        let by = By::new("host", "it did not end its turn when that was cancelled");
        let error = self
            .running
            .as_mut()
            .and_then(|running| running.cancel.as_mut())
            .and_then(|cancel| cancel.error.take());
        let running = self.running.take();
        self.drop_agent(&by);
        if let Some(running) = running {
            self.over_with(running.turn, error.map_or_else(cancelled, TurnEnd::Error));
        }
        self.start_next();
    }

    // --- watching ---

    /// When something is to be done without being asked.
    pub(crate) fn wake(&self) -> Option<Instant> {
        let asked = self
            .requests
            .values()
            .filter_map(|asked| asked.deadline)
            .min();
        let turn = self
            .running
            .as_ref()
            .and_then(|running| self.turn_deadline(running));
        let renewing = self.renewing.as_ref().map(|renewing| renewing.deadline);
        let all = [asked, turn, renewing, self.idle_until()];
        all.into_iter().flatten().min()
    }

    fn turn_deadline(&self, running: &Running) -> Option<Instant> {
        if let Some(cancel) = &running.cancel {
            return Some(cancel.deadline);
        }
        let spec = &self.shared.spec;
        let after = |from: Instant, time: Duration| (!time.is_zero()).then(|| from + time);
        // An agent that waits for somebody's answer is not idle.
        let waits = !self.requests.is_empty() || !self.served.is_empty();
        let idle = after(running.heard, spec.turn_idle).filter(|_| !waits);
        let limit = after(running.began, spec.turn_limit);
        [idle, limit].into_iter().flatten().min()
    }

    pub(crate) fn due(&mut self) {
        let now = Instant::now();
        self.requests_due(now);
        self.idle_due(now);
        self.renewal_due(now);
        let Some(running) = &self.running else { return };
        if self
            .turn_deadline(running)
            .is_none_or(|deadline| deadline > now)
        {
            return;
        }
        if running.cancel.is_some() {
            return self.enforce();
        }
        let limit = self.shared.spec.turn_limit;
        let why = if !limit.is_zero() && now >= running.began + limit {
            format!("the turn took longer than {limit:?}")
        } else {
            format!(
                "the agent said nothing for {:?}",
                self.shared.spec.turn_idle
            )
        };
        self.cancel_running(Some(RpcError::internal(why)));
    }
}

fn json_of(turn: u64, member: &str, value: &RawValue) -> Box<RawValue> {
    RawValue::from_string(format!("{{\"turn\":{turn},\"{member}\":{}}}", value.get()))
        .unwrap_or_else(|_| RawValue::NULL.to_owned())
}
