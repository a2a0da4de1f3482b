//! Keeping on purpose: a process that is to outlive its session is handed to a named session of its own.
//!
//! A process cannot change its keeper. So both sessions share one until the first closes; that close ends everything in it but
//! what is kept, and leaves the keeper, with the directories, to the other session.

use std::sync::Arc;

use hostler_ledger::{By, Change, ResourceId, WriteError};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::actor::Actor;
use crate::error::{Error, Result};
use crate::event::SessionState;
use crate::mailbox::Message;
use crate::open::{Unclaimed, close_if_quiet};
use crate::options::SessionOptions;
use crate::policy::Policy;
use crate::process::{Shared, lock};
use crate::report::CloseReason;
use crate::resource::ResourceState;
use crate::session::Session;
use crate::sessions::Host;
use crate::tree::SharedTree;

/// A process on its way from one session to another.
pub(crate) struct Moving {
    process: Arc<Shared>,
    task: Option<JoinHandle<()>>,
    /// Who asked for its end.
    ended_by: Option<By>,
}

/// Whether it was taken; where not, why, with what was to be.
pub(crate) type Received = std::result::Result<(), (Error, Option<Moving>)>;

pub(crate) async fn keep(
    host: &Arc<Host>,
    from: &Session,
    process: &ResourceId,
    (name, policy): (&str, Policy),
    by: By,
) -> Result<Session> {
    crate::open::check(&policy)?;
    let tree = from.fixed.status.borrow().tree.clone();
    let tree = tree.ok_or_else(|| Error::Closing(from.id().clone()))?;
    let known = {
        let registry = lock(&host.registry);
        let id = registry.names.get(name);
        id.and_then(|id| registry.sessions.get(id)).cloned()
    };
    let (to, new) = match known {
        // One of another tree could never own it: a process cannot change its keeper.
        Some(session) if !matches!(&session.fixed.status.borrow().tree, Some(its) if its.is(&tree)) =>
        {
            return Err(Error::NameTaken {
                name: name.to_owned(),
                holder: session.id().clone(),
            });
        }
        Some(session) => (session, None),
        None => {
            let options = SessionOptions {
                name: Some(name.to_owned()),
                policy,
                cwd: from.fixed.options.cwd.clone(),
                env: from.fixed.options.env.clone(),
                ..SessionOptions::default()
            };
            // Where whoever asks goes away before it has anything to keep, it closes.
            let new = make(host, from, tree, options, &by).await?;
            (new.session().clone(), Some(new))
        }
    };
    let (process, to_send, by_send) = (process.clone(), to.clone(), by.clone());
    let handed = from
        .ask(|reply| Message::Keep {
            process,
            to: to_send,
            by: by_send,
            reply,
        })
        .await
        .and_then(|answer| answer);
    if let Err(error) = handed {
        if new.is_some() {
            // Somebody else may keep something in it by now.
            close_if_quiet(&to, CloseReason::SpawnCancelled, by).await;
        }
        return Err(error);
    }
    Ok(new.map_or(to, Unclaimed::claim))
}

/// A named session without a tree of its own.
async fn make(
    host: &Arc<Host>,
    from: &Session,
    tree: SharedTree,
    options: SessionOptions,
    by: &By,
) -> Result<Unclaimed> {
    crate::open::check_name(options.name.as_deref().unwrap_or_default())?;
    let mut actor = crate::open::register_new(host, options)?;
    let (reply, made) = oneshot::channel();
    let (from, by) = (from.clone(), by.clone());
    tokio::spawn(async move {
        match actor.make_lent(&from, tree, by.clone()).await {
            Ok(()) => {
                actor.set_state(SessionState::Active, None);
                actor.record_state(SessionState::Active, by);
                let unclaimed = Unclaimed::unless_used(actor.session.clone());
                let _ = reply.send(Ok(unclaimed));
            }
            Err(error) => {
                let by = By::new("host", error.to_string());
                actor.close(CloseReason::SpawnCancelled, by, None);
                let _ = reply.send(Err(error));
            }
        }
        actor.run().await;
    });
    made.await.unwrap_or(Err(Error::Stopping))
}

impl Actor {
    async fn make_lent(&mut self, from: &Session, tree: SharedTree, by: By) -> Result<()> {
        self.is_lent_by(from.id().clone());
        let to = self.session.clone();
        from.ask(|reply| Message::Lend { to, reply }).await??;
        // After that: who finds it with that tree may ask the lender to hand it something, and be asked nothing meanwhile.
        self.has_tree(tree);
        let change = Change::SessionOpened {
            session: self.row(Some(from.id().clone())),
            by,
        };
        self.host.ledger.write(vec![change]).await?;
        self.in_ledger = true;
        crate::dirs::make(&self.dir)
    }

    /// Hands one to another session.
    pub(crate) async fn keep(
        &mut self,
        id: ResourceId,
        to: Session,
        by: By,
        reply: oneshot::Sender<Result<()>>,
    ) {
        let answer = self.try_keep(&id, &to, by).await;
        let _ = reply.send(answer);
    }

    async fn try_keep(&mut self, id: &ResourceId, to: &Session, by: By) -> Result<()> {
        self.must_be_open()?;
        if to.id() == self.session.id() {
            return Ok(());
        }
        self.lend(to.clone())?;
        let entry = self
            .entries
            .get_mut(id)
            .ok_or_else(|| Error::NoResource(id.to_string()))?;
        let process = match &entry.process {
            Some(_) if entry.starter.is_some() => {
                return Err(Error::Invalid(format!("{id} is just being started")));
            }
            Some(shared) if shared.state() == ResourceState::Running => shared.clone(),
            _ => return Err(Error::Ended(id.clone())),
        };
        // The other session has it before that is recorded, so that neither can close without it. Were this host to die meanwhile,
        // both lead to the one keeper.
        let moving = Moving {
            task: entry.task.take(),
            ended_by: entry.ended_by.clone(),
            process,
        };
        let taken = to.ask(|reply| Message::Receive { moving, reply }).await;
        match taken.map_err(|error| (error, None)) {
            Ok(Ok(())) => {}
            Ok(Err((error, moving))) | Err((error, moving)) => {
                self.take_back(id, moving.and_then(|moving| moving.task));
                return Err(error);
            }
        }
        let change = Change::ResourceMoved {
            id: id.clone(),
            to: to.id().clone(),
            by,
        };
        match self.host.ledger.write(vec![change]).await {
            Ok(_) => {
                self.entries.remove(id);
                self.kept_ids.push(id.clone());
                self.touch_status();
                Ok(())
            }
            Err(WriteError::Refused(_)) => {
                // It has ended over there, with that session or before it.
                self.entries.remove(id);
                self.touch_status();
                Err(Error::Ended(id.clone()))
            }
            Err(error) => {
                let id = id.clone();
                let its = id.clone();
                let back = to.ask(|reply| Message::GiveBack { id: its, reply }).await;
                match back {
                    Ok(Some(moving)) => self.take_back(&moving.process.id.clone(), moving.task),
                    // It has ended over there.
                    _ => drop(self.entries.remove(&id)),
                }
                Err(error.into())
            }
        }
    }

    /// Has it again, as though it had never left.
    fn take_back(&mut self, id: &ResourceId, task: Option<JoinHandle<()>>) {
        let mailbox = self.session.fixed.mailbox.clone();
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        entry.task = task;
        if let Some(shared) = entry.process.clone() {
            shared.give_to(mailbox);
            // The other session may have been told of its end.
            if shared.state() == ResourceState::Ended {
                self.exited(id);
            }
        }
    }

    /// Takes what is kept.
    pub(crate) fn receive(&mut self, moving: Moving, reply: oneshot::Sender<Received>) {
        if let Err(error) = self.must_be_open() {
            let _ = reply.send(Err((error, Some(moving))));
            return;
        }
        let Moving {
            process,
            task,
            ended_by,
        } = moving;
        let mut entry = self.entry(&process);
        entry.task = task;
        entry.ended_by = ended_by;
        self.entries.insert(process.id.clone(), entry);
        // From here on it is told here what comes of it. What was told the other session meanwhile is passed on by that.
        process.give_to(self.session.fixed.mailbox.clone());
        // It may have ended on the way here.
        if process.state() == ResourceState::Ended {
            self.exited(&process.id);
        }
        self.touch_status();
        let _ = reply.send(Ok(()));
    }

    /// Gives that up again.
    pub(crate) fn give_back(&mut self, id: &ResourceId) -> Option<Moving> {
        if !self.state().is_open() {
            return None;
        }
        let mut entry = self.entries.remove(id)?;
        self.touch_status();
        Some(Moving {
            task: entry.task.take(),
            ended_by: entry.ended_by.take(),
            process: entry.process?,
        })
    }
}
