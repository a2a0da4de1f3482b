//! A fresh context with the agent that is up: another session of the same process. And waiting for nothing to be under way.

use std::borrow::Cow;

use hostler_session::By;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Conversation;
use super::actor::{Actor, Agent, Message};
use crate::error::{Error, Result, Step};
use crate::handshake::{closes_sessions, session_named, session_params};
use crate::link::Waiter;
use crate::rpc::{self, Answer, raw};
use crate::transcript::EntryKind;

/// Of how many forgotten contexts the agent's late words are told from those of the one that there is.
const FORMER: usize = 64;

/// A context that the agent is asked for.
pub(crate) struct Renewing {
    by: By,
    /// When the agent is ended instead.
    pub(crate) deadline: Instant,
    reply: oneshot::Sender<Result<()>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Of<'a> {
    #[serde(borrow)]
    session_id: Cow<'a, str>,
}

impl Conversation {
    /// Begins a fresh context. Where the agent is up, it is asked for another session (`session/new`) on the same process, and
    /// told by `session/close` that the earlier one is over, if it knows that; where it is not, it begins anew at its next
    /// use. What was said before is not told to it; the transcript stays, with a notice `renewed`.
    ///
    /// An agent that does not answer in its `handshake_timeout`, or with an error, is ended: its next use starts it.
    ///
    /// Cancel safe: dropped, it goes on.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a turn runs or waits, or the agent is being brought up; [`Error::Closed`].
    pub async fn renew(&self, by: By) -> Result<()> {
        self.shared.session.touch();
        self.ask(|reply| Message::Renew { by, reply }).await?
    }

    /// Waits until no turn runs or waits and no agent is being brought up; whether it is up. One that is not is gone by then.
    /// `None` where the conversation has ended here.
    ///
    /// Cancel safe.
    pub(crate) async fn quiet(&self) -> Option<bool> {
        self.ask(|reply| Message::Quiet { reply }).await.ok()
    }
}

impl Actor {
    pub(crate) fn renew(&mut self, by: By, reply: oneshot::Sender<Result<()>>) {
        if !self.shared.session.state().is_open() {
            let _ = reply.send(Err(Error::Closed(self.shared.id.clone())));
            return;
        }
        let busy = if self.running.is_some() || !self.queue.is_empty() {
            Some("a turn of it runs or waits")
        } else if matches!(self.agent, Agent::Building(_)) {
            Some("its agent is being brought up")
        } else if self.renewing.is_some() {
            Some("that is under way")
        } else {
            None
        };
        if let Some(why) = busy {
            let why = format!("conversation {} cannot begin afresh: {why}", self.shared.id);
            let _ = reply.send(Err(Error::Invalid(why)));
            return;
        }
        // Nobody waits for the answers.
        self.end_requests();
        let caller = match (&self.agent, &self.link) {
            (Agent::Up(_), Some(link)) => link.caller.clone(),
            _ => {
                self.names_session(None);
                self.begins_afresh(&by, None);
                self.then(move || drop(reply.send(Ok(()))));
                return;
            }
        };
        let params = session_params(&self.plan(by.clone()), None);
        let number = caller.writer.next_number();
        caller.calls.insert(number, Waiter::Renewal);
        self.renewing = Some(Renewing {
            by,
            deadline: Instant::now() + self.shared.spec.handshake_timeout,
            reply,
        });
        self.send(rpc::request(number, Step::NewSession.as_str(), &params));
    }

    /// The agent has answered.
    pub(crate) fn renewed(&mut self, answer: Answer) {
        let Some(renewing) = self.renewing.take() else {
            return;
        };
        let named = answer
            .as_ref()
            .map(|session| session_named(session).map(|name| (name, session.clone())));
        let (name, session) = match named {
            Ok(Some(named)) => named,
            Ok(None) => return self.fails(renewing, "its answer has no `sessionId`"),
            Err(error) => return self.fails(renewing, &error.to_string()),
        };
        let Agent::Up(ready) = &self.agent else {
            return self.fails(renewing, "it is not up");
        };
        let initialize = ready.initialize.clone();
        let earlier = self.agent_session.take().filter(|earlier| *earlier != name);
        self.is_called(&name);
        self.stands_by(initialize.clone(), session.into());
        self.former.retain(|former| *former != name);
        if let Some(earlier) = earlier {
            if closes_sessions(&initialize) {
                self.ends_session(&earlier);
            }
            self.former.push_back(earlier);
            if self.former.len() > FORMER {
                self.former.pop_front();
            }
        }
        self.begins_afresh(&renewing.by, None);
        self.then(move || drop(renewing.reply.send(Ok(()))));
        self.start_next();
    }

    /// Tells the agent that a session is over. What it says to that does not matter.
    fn ends_session(&mut self, name: &str) {
        let Some(link) = &self.link else { return };
        let number = link.caller.writer.next_number();
        link.caller.calls.insert(number, Waiter::Nobody);
        let params = raw(&json!({ "sessionId": name }));
        self.send(rpc::request(number, "session/close", &params));
    }

    pub(crate) fn renewal_due(&mut self, now: Instant) {
        if let Some(renewing) = self.renewing.take_if(|renewing| renewing.deadline <= now) {
            let limit = self.shared.spec.handshake_timeout;
            self.fails(renewing, &format!("no answer within {limit:?}"));
        }
    }

    /// The agent is ended instead, and begins anew at its next use.
    fn fails(&mut self, renewing: Renewing, why: &str) {
        let why = format!("it gave no other session: {why}");
        self.drop_agent(&By::new("host", why.clone()));
        self.names_session(None);
        self.begins_afresh(&renewing.by, Some(&why));
        let ending = self.ending.clone();
        self.then(move || {
            tokio::spawn(async move {
                if let Some(mut ending) = ending {
                    let _ = ending.changed().await;
                }
                let _ = renewing.reply.send(Ok(()));
            });
        });
        self.start_next();
    }

    /// The agent is gone before it has answered: the next one begins anew.
    pub(crate) fn not_renewed(&mut self) {
        let Some(renewing) = self.renewing.take() else {
            return;
        };
        self.names_session(None);
        self.begins_afresh(&renewing.by, Some("the agent has ended"));
        self.then(move || drop(renewing.reply.send(Ok(()))));
    }

    /// What was said up to here is forgotten.
    fn begins_afresh(&mut self, by: &By, ended: Option<&str>) {
        let mut notice = json!({ "notice": "renewed", "by": by });
        if let Some(why) = ended {
            notice["agent_ended"] = json!(why);
        }
        self.forgotten = self.push_json(EntryKind::Notice, None, &notice);
        self.untold = false;
        self.dirty = true;
    }

    /// Whether this is said of a context that is forgotten.
    pub(crate) fn is_former(&self, params: &RawValue) -> bool {
        if self.former.is_empty() {
            return false;
        }
        let of: Of<'_> = serde_json::from_str(params.get()).unwrap_or_default();
        self.former.iter().any(|former| *former == of.session_id)
    }

    /// Tells whoever waits for it that nothing is under way.
    pub(crate) fn tell_quiet(&mut self) {
        let under_way = self.running.is_some()
            || !self.queue.is_empty()
            || !self.waiting.is_empty()
            || self.renewing.is_some()
            || matches!(self.agent, Agent::Building(_));
        if self.quiet.is_empty() || under_way || self.over {
            return;
        }
        let waiting = std::mem::take(&mut self.quiet);
        let up = matches!(self.agent, Agent::Up(_));
        let ending = self.ending.clone().filter(|_| !up);
        tokio::spawn(async move {
            if let Some(mut ending) = ending {
                let _ = ending.changed().await;
            }
            for reply in waiting {
                let _ = reply.send(up);
            }
        });
    }
}
