//! Keeping on purpose: a process that is to outlive its session is handed to a named session of its own.
//!
//! A process cannot change its keeper. So both sessions share one until the first closes; that close ends everything in it but
//! what is kept, and leaves the keeper, with the directories, to the other session.

use std::path::PathBuf;
use std::sync::Arc;

use hostler_ledger::{By, Change, ResourceId, SessionId};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::actor::{Actor, Kept};
use crate::error::{Error, Result};
use crate::event::SessionState;
use crate::mailbox::Message;
use crate::options::SessionOptions;
use crate::policy::Policy;
use crate::process::{Shared, lock};
use crate::report::CloseReason;
use crate::resource::ResourceState;
use crate::session::Session;
use crate::sessions::Host;
use crate::tree::SharedTree;

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
        Some(session) => (session, false),
        None => {
            let options = SessionOptions {
                name: Some(name.to_owned()),
                policy,
                cwd: from.fixed.options.cwd.clone(),
                env: from.fixed.options.env.clone(),
                ..SessionOptions::default()
            };
            (make(host, from, tree, options, &by).await?, true)
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
        if new {
            let _ = to.close(CloseReason::SpawnCancelled, by, None).await;
        }
        return Err(error);
    }
    Ok(to)
}

/// A named session without a tree of its own.
async fn make(
    host: &Arc<Host>,
    from: &Session,
    tree: SharedTree,
    options: SessionOptions,
    by: &By,
) -> Result<Session> {
    crate::open::check_name(options.name.as_deref().unwrap_or_default())?;
    let mut actor = crate::open::register_new(host, options)?;
    let session = actor.session.clone();
    let (reply, made) = oneshot::channel();
    let (from, by) = (from.id().clone(), by.clone());
    tokio::spawn(async move {
        actor.is_lent_by(from.clone());
        actor.has_tree(tree);
        let change = Change::SessionOpened {
            session: actor.row(Some(from)),
            by: by.clone(),
        };
        let made = match actor.host.ledger.write(vec![change]).await {
            Ok(_) => {
                actor.in_ledger = true;
                crate::dirs::make(&actor.dir)
            }
            Err(error) => Err(error.into()),
        };
        match made {
            Ok(()) => {
                actor.set_state(SessionState::Active, None);
                actor.record_state(SessionState::Active, by);
                if reply.send(Ok(())).is_err() {
                    let by = By::new("host", "whoever wanted it is gone");
                    actor.close(CloseReason::SpawnCancelled, by, None);
                }
            }
            Err(error) => {
                let by = By::new("host", error.to_string());
                actor.close(CloseReason::SpawnCancelled, by, None);
                let _ = reply.send(Err(error));
            }
        }
        actor.run().await;
    });
    made.await.unwrap_or(Err(Error::Stopping))?;
    Ok(session)
}

impl Actor {
    /// Its tree is that session's.
    pub(crate) fn is_lent_by(&mut self, from: SessionId) {
        self.kept = Kept::From(from);
        self.status.send_modify(|status| status.lent = true);
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
        match &self.kept {
            Kept::To(other, _) if other.id() != to.id() && other.state().is_open() => {
                return Err(Error::Invalid(format!(
                    "processes of this session are kept by {} already",
                    other.id()
                )));
            }
            Kept::From(_) => {
                return Err(Error::Invalid("it is kept already".into()));
            }
            _ => {}
        }
        let entry = self
            .entries
            .get_mut(id)
            .ok_or_else(|| Error::NoResource(id.to_string()))?;
        let shared = match &entry.process {
            Some(shared) if shared.state() == ResourceState::Running => shared.clone(),
            _ => return Err(Error::Ended(id.clone())),
        };
        // Recorded first: were this host to die now, both sessions still lead to the one keeper.
        let change = Change::ResourceMoved {
            id: id.clone(),
            to: to.id().clone(),
            by,
        };
        self.host.ledger.write(vec![change]).await?;
        let task = entry.task.take().unwrap_or_else(|| tokio::spawn(async {}));
        shared.give_to(to.fixed.mailbox.clone());
        let process = shared.clone();
        let taken = to
            .ask(|reply| Message::Receive {
                process,
                task,
                reply,
            })
            .await
            .and_then(|answer| answer);
        self.entries.remove(id);
        self.kept_ids.push(id.clone());
        match &mut self.kept {
            Kept::To(other, spared) if other.id() == to.id() => spared.push(shared),
            kept => *kept = Kept::To(to.clone(), vec![shared]),
        }
        self.touch_status();
        taken
    }

    /// Takes what is kept.
    pub(crate) fn receive(
        &mut self,
        shared: Arc<Shared>,
        task: JoinHandle<()>,
        reply: oneshot::Sender<Result<()>>,
    ) {
        let answer = self.must_be_open();
        let mut entry = self.entry(&shared);
        entry.task = Some(task);
        self.entries.insert(shared.id.clone(), entry);
        // It may have ended on the way here.
        if shared.state() == ResourceState::Ended {
            self.exited(&shared.id);
        }
        self.touch_status();
        let _ = reply.send(answer);
    }

    /// The tree is this session's alone from now on.
    pub(crate) fn take_tree(&mut self, dirs: Vec<PathBuf>, done: oneshot::Sender<()>) {
        if !self.state().is_open() {
            // Dropping the answer's channel says so.
            return;
        }
        self.kept = Kept::No;
        self.status.send_modify(|status| status.lent = false);
        self.more_dirs.extend(dirs);
        self.record_detail(false);
        if let Some(tree) = self.tree.as_ref().and_then(|tree| tree.get().ok()) {
            let policy = self.status.borrow().policy.clone();
            let on_host_exit = crate::open::on_host_exit(&policy);
            tokio::spawn(async move { drop(tree.set_on_host_exit(on_host_exit).await) });
        }
        let _ = done.send(());
    }
}
