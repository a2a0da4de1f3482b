//! What the agent asks: the host, or people.

use hostler_session::By;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::actor::{Actor, Agent, Message};
use super::pending::{PendingAnswer, PendingRequest, PendingServed};
use super::{Answered, ClientCapabilities};
use crate::error::Result;
use crate::link::Writer;
use crate::permission::{METHOD, PermissionPolicy, cancelled};
use crate::rpc::{self, Answer, RpcError, for_session};
use crate::served::Served;
use crate::transcript::{AnswerData, EntryKind, RequestData, RequestId};

/// A request of the agent that clients are to answer.
pub(crate) struct Asked {
    pub(crate) agent_id: Box<RawValue>,
    pub(crate) method: String,
    /// When it is answered for nobody.
    pub(crate) deadline: Option<Instant>,
    /// How many clients said that they do not know the method.
    pub(crate) unknown: usize,
}

/// What a client that is attached answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answers {
    /// Anything at all.
    pub(crate) any: bool,
    /// Questions with a form or an address, which only some clients can show.
    pub(crate) elicitations: bool,
    /// What else an agent may ask, by methods that are its own.
    pub(crate) others: bool,
}

impl Answers {
    pub(crate) fn of(capabilities: &ClientCapabilities) -> Self {
        Self {
            any: capabilities.answers,
            elicitations: capabilities.raw.is_none() || capabilities.can("elicitation"),
            others: true,
        }
    }

    fn knows(self, method: &str) -> bool {
        self.any
            && match method {
                METHOD => true,
                _ if method.starts_with("elicitation/") => self.elicitations,
                _ => self.others,
            }
    }
}

impl Asked {
    pub(crate) fn pending(&self, id: RequestId) -> PendingRequest {
        PendingRequest {
            id,
            agent_id: self.agent_id.clone(),
            method: self.method.clone(),
        }
    }
}

impl Actor {
    pub(crate) fn asked(&mut self, id: &RawValue, method: &str, params: &RawValue) {
        if self.is_former(params) {
            let error = RpcError::new(RpcError::CANCELLED, "that session is over");
            return self.send(rpc::response(id, &Err(error)));
        }
        if Served::serves(method) {
            self.serve(PendingServed {
                agent_id: id.to_owned(),
                method: method.to_owned(),
                params: params.to_owned(),
            });
            return;
        }
        let ours = self.respelled(params);
        let request = RequestId(self.last.0 + 1);
        let data = RequestData {
            id: request,
            method,
            params: &ours,
        };
        let turn = self.running.as_ref().map(|running| running.turn.id);
        self.push_json(EntryKind::Request, turn, &data);
        let asked = Asked {
            agent_id: id.to_owned(),
            method: method.to_owned(),
            deadline: None,
            unknown: 0,
        };
        self.requests.insert(request, asked);
        self.dirty = true;
        // An agent that was told to stop is not kept waiting for people.
        let stops = self
            .running
            .as_ref()
            .is_some_and(|running| running.cancel.is_some());
        if stops {
            let by = By::new("host", "the turn is cancelled");
            self.settle(request, cancelled(method), &by);
        } else if self.attending(method) == 0 {
            match self.shared.permission.answer(method, params) {
                Some(answer) => {
                    let why = format!(
                        "nobody is attached, and the policy is {:?}",
                        self.shared.permission
                    );
                    self.settle(request, answer, &By::new("policy", why.to_lowercase()));
                }
                None => self.attendance_changed(),
            }
        }
    }

    /// Answers a request of the host's own in a task: others go on meanwhile.
    pub(crate) fn serve(&mut self, request: PendingServed) {
        let Some(link) = &self.link else { return };
        self.next_key += 1;
        let (key, generation) = (self.next_key, self.generation);
        let (served, writer) = (self.shared.served.clone(), link.caller.writer.clone());
        let mailbox = self.shared.mailbox.clone();
        let by = By::new(format!("agent {}", link.agent), request.method.clone());
        let asked = request.clone();
        let task = tokio::spawn(async move {
            let answer = served.serve(&asked.method, &asked.params, by).await;
            let answer = answer.unwrap_or_else(|| Err(RpcError::method_not_found(&asked.method)));
            let line = rpc::response(&asked.agent_id, &answer);
            let done = move || drop(mailbox.send(Message::Served { generation, key }));
            if let Err(error) = writer.send_then(line, done) {
                let refused = Err(RpcError::internal(error.to_string()));
                let _ = writer.send(rpc::response(&asked.agent_id, &refused));
            }
        });
        self.served.insert(key, (request, task.abort_handle()));
        self.dirty = true;
    }

    /// How many are there who can be asked this.
    fn attending(&self, method: &str) -> usize {
        let clients = self.clients.values();
        clients.filter(|answers| answers.knows(method)).count()
    }

    /// Somebody came or left: each request waits for ever, or up to a deadline, or is the policy's.
    pub(crate) fn attendance_changed(&mut self) {
        let policy = self.shared.permission;
        let deadline = Instant::now() + self.shared.spec.permission_timeout;
        for (request, method) in self.open_requests() {
            let attended = self.attending(&method) > 0;
            if !attended && policy != PermissionPolicy::Ask {
                let by = By::new("policy", "nobody is attached any more");
                self.settle(request, cancelled(&method), &by);
            } else if let Some(asked) = self.requests.get_mut(&request) {
                match attended {
                    true => asked.deadline = None,
                    false => _ = asked.deadline.get_or_insert(deadline),
                }
            }
        }
    }

    fn open_requests(&self) -> Vec<(RequestId, String)> {
        self.requests
            .iter()
            .map(|(id, asked)| (*id, asked.method.clone()))
            .collect()
    }

    pub(crate) fn requests_due(&mut self, now: Instant) {
        let by = By::new("host", "nobody came to answer");
        for (request, method) in self.open_requests() {
            let due = self.requests.get(&request).and_then(|asked| asked.deadline);
            if due.is_some_and(|deadline| deadline <= now) {
                self.settle(request, cancelled(&method), &by);
            }
        }
    }

    /// All requests are answered as cancelled: their turn is.
    pub(crate) fn cancel_requests(&mut self) {
        let by = By::new("host", "the turn is cancelled");
        for (request, method) in self.open_requests() {
            self.settle(request, cancelled(&method), &by);
        }
    }

    pub(crate) fn answer(
        &mut self,
        request: RequestId,
        answer: Answer,
        by: &By,
        reply: oneshot::Sender<Result<Answered>>,
    ) {
        let method = self
            .requests
            .get(&request)
            .map(|asked| asked.method.clone());
        let there = method.map_or(0, |method| self.attending(&method));
        let Some(asked) = self.requests.get_mut(&request) else {
            let _ = reply.send(Ok(Answered::Late));
            return;
        };
        // One client that does not know a method does not speak for those that do.
        let unknown = matches!(&answer, Err(error) if error.code == RpcError::METHOD_NOT_FOUND);
        asked.unknown += usize::from(unknown);
        if unknown && asked.unknown < there {
            let _ = reply.send(Ok(Answered::Late));
            return;
        }
        self.settle(request, answer, by);
        self.then(move || drop(reply.send(Ok(Answered::First))));
    }

    /// Writes the answer to a request down, and gives it to the agent.
    pub(crate) fn settle(&mut self, request: RequestId, answer: Answer, by: &By) {
        let Some(asked) = self.requests.remove(&request) else {
            return;
        };
        let data = AnswerData {
            id: request,
            by,
            result: answer.as_deref().ok(),
            error: answer.as_ref().err(),
        };
        let turn = self.running.as_ref().map(|running| running.turn.id);
        self.push_json(EntryKind::Answer, turn, &data);
        self.dirty = true;
        if let Some(running) = &mut self.running {
            running.heard = Instant::now();
        }
        self.send_answer(rpc::response(&asked.agent_id, &answer));
    }

    /// Gives an answer to the agent. Until the kernel has it, it is kept with what is under way: the transcript says that it
    /// was given, and an agent that waits for it would wait for ever.
    pub(crate) fn send_answer(&mut self, line: Vec<u8>) {
        let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        let Ok(kept) = RawValue::from_string(text) else {
            return self.send(line);
        };
        self.next_key += 1;
        let (key, generation) = (self.next_key, self.generation);
        self.unsent.insert(key, PendingAnswer { line: kept });
        self.dirty = true;
        let mailbox = self.shared.mailbox.clone();
        self.send_with(line, move || {
            let _ = mailbox.send(Message::Answered { generation, key });
        });
    }

    /// Gives a line to the agent, once what was added so far is in the ledger.
    pub(crate) fn send(&mut self, line: Vec<u8>) {
        self.send_with(line, || ());
    }

    /// The same; `written` is called once the kernel has it.
    fn send_with(&mut self, line: Vec<u8>, written: impl FnOnce() + Send + 'static) {
        let Some(link) = &self.link else { return };
        let (writer, generation) = (link.caller.writer.clone(), self.generation);
        let mailbox = self.shared.mailbox.clone();
        let long = Writer::may_be_cut(&line);
        if long {
            self.long += 1;
            self.dirty = true;
        }
        self.then(move || {
            let done = move || {
                written();
                if long {
                    let _ = mailbox.send(Message::Written { generation });
                }
            };
            if let Err(error) = writer.send_then(line, done) {
                tracing::warn!(%error, "an agent does not read");
            }
        });
    }

    /// The agent needs no answer any more.
    pub(crate) fn taken_back(&mut self, params: &RawValue) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Which<'a> {
            #[serde(borrow)]
            request_id: &'a RawValue,
        }
        let Ok(which) = serde_json::from_str::<Which<'_>>(params.get()) else {
            return;
        };
        let found = self
            .requests
            .iter()
            .find(|(_, asked)| asked.agent_id.get() == which.request_id.get())
            .map(|(request, _)| *request);
        if let Some(request) = found {
            let error = RpcError::new(RpcError::CANCELLED, "the agent took its request back");
            self.settle(
                request,
                Err(error),
                &By::new("agent", "it took its request back"),
            );
        }
        let key = self
            .served
            .iter()
            .find(|(_, (served, _))| served.agent_id.get() == which.request_id.get())
            .map(|(key, _)| *key);
        if let Some((served, task)) = key.and_then(|key| self.served.remove(&key)) {
            task.abort();
            let error = RpcError::new(RpcError::CANCELLED, "cancelled");
            self.send(rpc::response(&served.agent_id, &Err(error)));
            self.dirty = true;
        }
    }

    pub(crate) fn notify(&mut self, method: &str, params: &RawValue) -> Result<()> {
        let (Agent::Up(_), Some(link)) = (&self.agent, &self.link) else {
            return Ok(());
        };
        let name = self.agent_session.as_deref().unwrap_or_default();
        let params = for_session(method, params.to_owned(), name)?;
        let line = rpc::notification(method, &params);
        if !Writer::may_be_cut(&line) {
            return link.caller.writer.send(line);
        }
        self.send(line);
        Ok(())
    }

    /// Whatever the agent asked for is not wanted any more: it is told so.
    pub(crate) fn end_requests(&mut self) {
        self.cancel_requests();
        for (_, (served, task)) in std::mem::take(&mut self.served) {
            task.abort();
            let error = RpcError::new(RpcError::CANCELLED, "cancelled");
            self.send(rpc::response(&served.agent_id, &Err(error)));
            self.dirty = true;
        }
    }

    /// What was asked of nobody who is there any more.
    pub(crate) fn forget_requests(&mut self, by: &By) {
        for (request, _) in self.open_requests() {
            self.requests.remove(&request);
            let error = RpcError::new(RpcError::CANCELLED, "the agent has ended");
            let data = AnswerData {
                id: request,
                by,
                result: None,
                error: Some(&error),
            };
            self.push_json(EntryKind::Answer, None, &data);
        }
        self.unsent.clear();
        for (_, (_, task)) in self.served.drain() {
            task.abort();
        }
    }
}
