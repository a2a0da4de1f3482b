//! Two sessions over one keeper: whose it is, who is lent it, and what becomes of it when the host dies.

use std::path::PathBuf;
use std::sync::Arc;

use hostler_ledger::SessionId;
use hostler_process::OnHostExit;
use tokio::sync::oneshot;

use crate::actor::{Actor, Kept};
use crate::error::{Error, Result};
use crate::event::SessionState;
use crate::mailbox::Message;
use crate::open::on_host_exit;
use crate::policy::Policy;
use crate::process::{Shared, lock};
use crate::session::Session;

/// What a keeper does of which both want something: it waits for the next host as soon as one wants that, and as long as either.
pub(crate) fn stronger(one: OnHostExit, other: OnHostExit) -> OnHostExit {
    match (one, other) {
        (OnHostExit::Keep(one), OnHostExit::Keep(other)) => OnHostExit::Keep(one.max(other)),
        (OnHostExit::Kill, other) => other,
        (keep, OnHostExit::Kill) => keep,
    }
}

impl Actor {
    /// Its tree is that session's.
    pub(crate) fn is_lent_by(&mut self, from: SessionId) {
        self.kept = Kept::From(from);
        self.status.send_modify(|status| status.lent = true);
    }

    /// Lends the tree to one other session, until that has closed.
    pub(crate) fn lend(&mut self, to: Session) -> Result<()> {
        self.must_be_open()?;
        match &self.kept {
            Kept::To(other) if other.id() == to.id() => Ok(()),
            Kept::To(other) if other.state() != SessionState::Closed => {
                Err(Error::Invalid(format!(
                    "processes of this session are kept by {} already",
                    other.id()
                )))
            }
            Kept::From(_) => Err(Error::Invalid("it is kept already".into())),
            _ => {
                self.kept = Kept::To(to);
                self.tell_keeper();
                Ok(())
            }
        }
    }

    /// One that was lent the tree has closed.
    pub(crate) fn not_lent(&mut self, to: &SessionId) {
        if matches!(&self.kept, Kept::To(known) if known.id() == to) {
            self.kept = Kept::No;
            self.tell_keeper();
        }
    }

    /// Says so to the one that lent it.
    pub(crate) fn give_up_loan(&self) {
        if let Some(lender) = self.lender() {
            let to = self.id();
            lender.fixed.mailbox.send(Message::NotLent { to });
        }
    }

    /// The session that has lent it its tree, while that is there.
    pub(crate) fn lender(&self) -> Option<Session> {
        match &self.kept {
            Kept::From(from) => lock(&self.host.registry).sessions.get(from).cloned(),
            _ => None,
        }
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
        self.tell_keeper();
        let _ = done.send(());
    }

    /// What the keeper is to do when the host dies, with this policy of this session's.
    pub(crate) fn exit_rule(&self, policy: &Policy) -> OnHostExit {
        let other = match &self.kept {
            Kept::No => None,
            Kept::From(_) => self.lender(),
            Kept::To(to) => Some(to.clone()).filter(|to| to.state().is_to_stay()),
        };
        let own = on_host_exit(policy);
        match other {
            Some(other) => stronger(own, on_host_exit(&other.fixed.status.borrow().policy)),
            None => own,
        }
    }

    fn tell_keeper(&self) {
        if let Some(tree) = self.tree.as_ref().and_then(|tree| tree.get().ok()) {
            let rule = self.exit_rule(&self.status.borrow().policy);
            tokio::spawn(async move { drop(tree.set_on_host_exit(rule).await) });
        }
    }

    pub(crate) fn processes(&self) -> Vec<Arc<Shared>> {
        let entries = self.entries.values();
        entries.filter_map(|entry| entry.process.clone()).collect()
    }
}
