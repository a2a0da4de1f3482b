//! The agent of a conversation: brought up when it is needed, ended when it is not to be there, gone when it dies.

use std::sync::Arc;

use hostler_ledger::ConversationUpdate;
use hostler_session::By;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{oneshot, watch};

use super::actor::{Actor, Agent, Message};
use super::{Ready, TurnEnd};
use crate::error::{Error, Result};
use crate::handshake::{self, Built, Plan, Spawned, Started};
use crate::link::{self, Caller, Link};
use crate::rpc::{RpcError, with_session_id};
use crate::transcript::EntryKind;

impl Actor {
    pub(crate) fn ready(
        &mut self,
        token: u64,
        by: By,
        reply: oneshot::Sender<Result<(Ready, Caller)>>,
    ) {
        if reply.is_closed() {
            return;
        }
        if !self.shared.session.state().is_open() {
            let _ = reply.send(Err(Error::Closed(self.shared.id.clone())));
            return;
        }
        if let (Agent::Up(ready), Some(link)) = (&self.agent, &self.link) {
            let _ = reply.send(Ok((ready.clone(), link.caller.clone())));
            return;
        }
        self.waiting.insert(token, reply);
        if matches!(self.agent, Agent::Absent) {
            self.build(by);
        }
    }

    /// Breaks a handshake off that nobody waits for any more.
    pub(crate) fn unneeded(&mut self) {
        let building = matches!(self.agent, Agent::Building(_));
        if building && self.waiting.is_empty() && self.queue.is_empty() {
            self.drop_agent(&By::new("host", "nobody waits for it any more"));
        }
    }

    /// Brings the agent up, in a task of its own.
    pub(crate) fn build(&mut self, by: By) {
        self.generation += 1;
        self.noted = 0;
        self.ended_early = None;
        let generation = self.generation;
        let plan = Plan {
            warm: self.warm.take(),
            ..self.plan(by)
        };
        let mailbox = self.shared.mailbox.clone();
        let ending = self.ending.take();
        let task = tokio::spawn(async move {
            if let Some(mut ending) = ending {
                // The one before it is gone first, with its locks and ports.
                let _ = ending.changed().await;
            }
            let (tell, told) = oneshot::channel();
            let forward = async {
                if let Ok(spawned) = told.await {
                    let _ = mailbox.send(Message::Spawned {
                        generation,
                        spawned,
                    });
                }
                std::future::pending::<()>().await;
            };
            let built = tokio::select! {
                built = handshake::build(plan, tell) => built,
                () = forward => return,
            };
            let _ = mailbox.send(Message::Built { generation, built });
        });
        self.agent = Agent::Building(task.abort_handle());
    }

    /// How the agent is brought up, or asked for another context.
    pub(crate) fn plan(&self, by: By) -> Plan {
        Plan {
            agent: self.shared.row().agent,
            spec: self.shared.spec.clone(),
            wrap: self.shared.options.wrap.clone(),
            tools: self.shared.options.tools.clone(),
            new: self.shared.new.clone(),
            session: self.shared.session.clone(),
            earlier: self.agent_session.clone(),
            warm: None,
            by,
        }
    }

    /// Its process is there: what it writes is read from here on.
    pub(crate) fn spawned(&mut self, generation: u64, (started, caller): Spawned) {
        if generation != self.generation || !matches!(self.agent, Agent::Building(_)) {
            return;
        }
        let limits = (
            self.shared.options.max_message,
            self.shared.options.max_unread,
        );
        let agent = self.shared.row().agent;
        let link = match started {
            Started::Cold(process) => Link::new(&agent, process, 0, limits),
            Started::Warm(link) => *link,
        };
        let _ = caller.send(link.caller.clone());
        self.link = Some(link);
        self.offset = 0;
        self.dirty = true;
        self.path = None;
    }

    pub(crate) fn built(&mut self, generation: u64, built: Result<Built>) {
        if generation != self.generation {
            return;
        }
        match (built, self.ended_early.take()) {
            (Ok(_), Some(error)) | (Err(error), _) => self.did_not_come_up(error),
            (Ok(built), None) => self.is_up(built),
        }
    }

    fn is_up(&mut self, built: Built) {
        self.is_called(&built.agent_session);
        self.untold = !built.knows;
        let ready = self.stands_by(built.initialize, built.session);
        let process = self.link.as_ref().map(|link| link.process.id().clone());
        let notice = json!({
            "notice": "agent_started",
            "agent": self.shared.row().agent,
            "process": process,
            "took_up": built.knows,
        });
        self.push_json(EntryKind::Notice, None, &notice);
        let Some(caller) = self.link.as_ref().map(|link| link.caller.clone()) else {
            return;
        };
        let waiting = std::mem::take(&mut self.waiting);
        self.then(move || {
            for reply in waiting.into_values() {
                let _ = reply.send(Ok((ready.clone(), caller.clone())));
            }
        });
        self.start_next();
        if let Ok(agents) = self.shared.agents() {
            agents.make_room(&self.shared.id);
        }
    }

    /// What the agent said of itself and of the session is known from here on.
    pub(crate) fn stands_by(&mut self, initialize: Arc<RawValue>, session: Arc<RawValue>) -> Ready {
        let id = self.shared.id.as_str();
        let session = with_session_id(session.get(), id).map_or(session, Into::into);
        let ready = Ready {
            initialize,
            session,
        };
        self.agent = Agent::Up(ready.clone());
        self.dirty = true;
        let detail = self.shared.detail(Some(&ready));
        self.shared.change(|row| row.detail = detail.clone());
        self.update.get_or_insert_default().detail = Some(detail);
        ready
    }

    fn did_not_come_up(&mut self, error: Error) {
        // It has ended already, with what was under it.
        self.agent = Agent::Absent;
        self.lose_link(&By::new("host", "it did not come up"));
        let notice = json!({ "notice": "agent_failed", "why": error.to_string() });
        self.push_json(EntryKind::Notice, None, &notice);
        let rpc = match &error {
            Error::Handshake { rpc: Some(rpc), .. } => RpcError {
                message: error.to_string(),
                ..(**rpc).clone()
            },
            error => RpcError::internal(error.to_string()),
        };
        for queued in std::mem::take(&mut self.queue) {
            self.over_with(queued, TurnEnd::Error(rpc.clone()));
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.then(move || {
            for reply in waiting.into_values() {
                let _ = reply.send(Err(error.clone()));
            }
        });
    }

    /// It has ended by itself, and all that it had written was read.
    pub(crate) fn agent_ended(&mut self) {
        let Some(link) = &self.link else { return };
        let error = link.ended();
        let by = By::new("host", "the agent has ended");
        if let Agent::Building(_) = self.agent {
            // Whoever shakes its hand hears that no answer will come, and says why; or has all answers, and does not know.
            self.ended_early = Some(error);
            return self.lose_link(&by);
        }
        let exit = link.exit.flatten();
        let running = self.running.take();
        self.drop_agent(&by);
        let (code, signal) = exit.map_or((None, None), |exit| (exit.code, exit.signal));
        let notice = json!({
            "notice": "agent_ended", "why": error.to_string(), "code": code, "signal": signal,
        });
        let turn = running.as_ref().map(|running| running.turn.id);
        self.push_json(EntryKind::Notice, turn, &notice);
        if let Some(running) = running {
            self.over_with(
                running.turn,
                TurnEnd::Error(RpcError::internal(error.to_string())),
            );
        }
        self.start_next();
    }

    /// Nothing connects with the process any more.
    fn lose_link(&mut self, by: &By) {
        self.forget_requests(by);
        self.not_renewed();
        self.former.clear();
        if let Some(link) = self.link.take() {
            link.caller.calls.close();
        }
        self.offset = 0;
        self.long = 0;
        self.path = None;
        self.dirty = true;
    }

    /// Ends the agent, however it stands, with what is under it. The next one waits for that.
    pub(crate) fn drop_agent(&mut self, by: &By) {
        if let Agent::Building(task) = std::mem::replace(&mut self.agent, Agent::Absent) {
            task.abort();
        }
        self.generation += 1;
        let process = self.link.as_ref().map(|link| link.process.clone());
        self.lose_link(by);
        let Some(process) = process else { return };
        let (gone, ending) = watch::channel(());
        let by = by.clone();
        tokio::spawn(async move {
            let _ = link::end(&process, None, by).await;
            drop(gone);
        });
        self.ending = Some(ending);
    }

    pub(crate) fn evict(&mut self, forget: bool, by: &By, reply: oneshot::Sender<Result<()>>) {
        let running = self.running.take();
        let (doing, notice) = if forget {
            ("reset", "reset")
        } else {
            ("evicted", "evicted")
        };
        self.drop_agent(by);
        let why = format!("the agent was {doing} by {}: {}", by.who, by.why);
        if let Some(running) = running {
            self.over_with(running.turn, TurnEnd::Interrupted(why.clone()));
        }
        let waiting = std::mem::take(&mut self.waiting);
        if forget {
            self.cancel_queue();
            self.names_session(None);
        }
        let turn = None;
        let notice = json!({ "notice": notice, "by": by });
        let seq = self.push_json(EntryKind::Notice, turn, &notice);
        if forget {
            self.forgotten = seq;
            self.untold = false;
        }
        let (ending, id) = (self.ending.clone(), self.shared.id.clone());
        self.then(move || {
            tokio::spawn(async move {
                if let Some(mut ending) = ending {
                    let _ = ending.changed().await;
                }
                for waiter in waiting.into_values() {
                    let _ = waiter.send(Err(Error::Closed(id.clone())));
                }
                let _ = reply.send(Ok(()));
            });
        });
        self.start_next();
    }

    /// The session closes, for whatever reason: so does the conversation here.
    pub(crate) fn session_ends(&mut self) {
        self.over = true;
        let reason = self.shared.session.info().reason;
        let why = match reason {
            Some(reason) => format!("the session closed: {reason}"),
            None => "the session closed".to_owned(),
        };
        let by = By::new("host", why.clone());
        let running = self.running.take().map(|running| running.turn);
        for turn in running.into_iter().chain(std::mem::take(&mut self.queue)) {
            self.over_with(turn, TurnEnd::Interrupted(why.clone()));
        }
        if let Agent::Building(task) = std::mem::replace(&mut self.agent, Agent::Absent) {
            task.abort();
        }
        // Its process is the session's, which ends it.
        self.lose_link(&by);
        let notice = json!({ "notice": "closed", "why": why });
        self.push_json(EntryKind::Notice, None, &notice);
        self.update = Some(ConversationUpdate {
            state: Some("closed"),
            ..self.update.take().unwrap_or_default()
        });
    }

    /// Everything stays as it is, for the next host. An agent that is not up yet cannot be handed over.
    pub(crate) fn hand_over(&mut self) {
        self.over = true;
        self.dirty = true;
        if matches!(self.agent, Agent::Building(_)) {
            self.drop_agent(&By::new("host", "the host is taken over"));
        }
    }
}

/// What the ledger keeps of a conversation besides its columns.
pub(crate) fn ready_of(detail: &serde_json::Value) -> Option<Ready> {
    let part = |name: &str| -> Option<Arc<RawValue>> {
        let text = detail["ready"][name].as_str()?.to_owned();
        RawValue::from_string(text).ok().map(Into::into)
    };
    Some(Ready {
        initialize: part("initialize")?,
        session: part("session")?,
    })
}
