//! What a session's task does about what it owns: starting, hearing of ends, releasing, listing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hostler_ledger::{By, Change, ResourceId, ResourceRow};
use tokio::sync::oneshot;

use crate::actor::{Actor, Entry, Starter};
use crate::closing::release_one;
use crate::error::{Doing, Error, Result};
use crate::event::{ExitInfo, SessionEvent};
use crate::holdings::{ProcessResource, end};
use crate::life::Life;
use crate::mailbox::{Message, Paced};
use crate::options::{ExecOptions, Restart};
use crate::output::Spool;
use crate::patterns::Patterns;
use crate::policy::Policy;
use crate::process::{ProcessHandle, Shared, lock};
use crate::report::Outcome;
use crate::resource::{Resource, ResourceState};

impl Actor {
    pub(crate) fn exec(&mut self, options: ExecOptions, by: By, paced: bool, reply: Starter) {
        if reply.is_closed() {
            return;
        }
        self.touch();
        match self.prepare_exec(options, by, paced) {
            Ok((id, mut entry, followers, life, patterns)) => {
                let shared = entry.process.clone();
                entry.starter = Some((reply, followers));
                entry.task = Some(tokio::spawn(life.begin()));
                if let (Some(patterns), Some(shared)) = (patterns, shared) {
                    let output = shared.stdout.follow(0);
                    tokio::spawn(patterns.watch(self.host.clone(), shared, output));
                }
                self.entries.insert(id, entry);
                self.touch_status();
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    #[expect(clippy::type_complexity, reason = "used once, right above")]
    fn prepare_exec(
        &mut self,
        options: ExecOptions,
        by: By,
        paced: bool,
    ) -> Result<(ResourceId, Entry, Option<Paced>, Life, Option<Patterns>)> {
        self.must_be_open()?;
        if self.leaving {
            return Err(Error::Stopping);
        }
        let invalid = |what: &str| Err(Error::Invalid(what.to_owned()));
        if options.argv.first().is_none_or(String::is_empty) {
            return invalid("there is no command to run");
        }
        if options.is_foreground() && options.restart != Restart::Never {
            return invalid("a foreground process is not started again");
        }
        if options.is_service() && options.restart != Restart::Never {
            return invalid("a service is not started again by itself");
        }
        let policy = self.status.borrow().policy.clone();
        let limit = policy.limits.background;
        let counts = !options.is_foreground() && !options.is_service();
        if counts && limit > 0 && self.running().1 >= limit {
            return Err(Error::Limit {
                what: "background processes and terminals in this session".into(),
                limit: limit.into(),
            });
        }
        let patterns = match options.patterns.as_slice() {
            [] => None,
            patterns => Some(Patterns::new(patterns)?),
        };
        let tree = self.tree.clone().ok_or(Error::Closing(self.id()))?;
        let id = ResourceId::new(options.kind());
        let doing = "make the file for its output";
        let keep = options.output;
        let spool = |stream| Spool::create(&crate::dirs::spool(&self.dir, &id, stream), keep);
        let out = spool("out").doing(doing)?;
        let err = options
            .is_apart()
            .then(|| spool("err").doing(doing))
            .transpose()?;
        if options.is_service() {
            out.hold();
        }
        let followers = paced.then(|| (out.paced(), err.as_ref().map(Spool::paced)));
        let outputs = (out.output(), err.as_ref().map(Spool::output));
        let mailbox = self.session.fixed.mailbox.clone();
        let shared = Arc::new(Shared::new(
            (id.clone(), options, by),
            tree,
            outputs,
            mailbox,
        ));
        let life = self.life(&shared, (out, err), 0, policy.grace);
        Ok((id, self.entry(&shared), followers, life, patterns))
    }

    pub(crate) fn life(
        &self,
        shared: &Arc<Shared>,
        (out, err): (Spool, Option<Spool>),
        starts: u32,
        grace: Duration,
    ) -> Life {
        let options = &self.session.fixed.options;
        let mut env: BTreeMap<String, String> = self.host.options.env.clone();
        let tmp = crate::dirs::tmp(&self.dir);
        env.insert("TMPDIR".into(), tmp.to_string_lossy().into_owned());
        env.insert("HOSTLER_SESSION".into(), self.id().to_string());
        // So that hostler's commands find this host from within.
        let state_dir = self.host.options.state_dir.to_string_lossy();
        env.insert("HOSTLER_STATE_DIR".into(), state_dir.into_owned());
        env.extend(options.env.clone());
        Life {
            host: self.host.clone(),
            shared: shared.clone(),
            dir: self.dir.clone(),
            env,
            cwd: options.cwd.clone(),
            grace,
            out,
            err,
            starts,
            began: None,
            paused: None,
        }
    }

    /// An entry for a process, which can be found from here on.
    pub(crate) fn entry(&mut self, shared: &Arc<Shared>) -> Entry {
        lock(&self.host.registry)
            .processes
            .insert(shared.id.clone(), Arc::downgrade(shared));
        self.next_order += 1;
        Entry {
            order: self.next_order,
            kind: shared.kind().into(),
            name: shared.options.name.clone(),
            process: Some(shared.clone()),
            task: None,
            starter: None,
            resource: None,
            shown: shared.shown(),
            recorded: false,
            ended_by: None,
        }
    }

    pub(crate) fn started(&mut self, id: &ResourceId, result: Result<()>) {
        let open = self.must_be_open();
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let Some(shared) = entry.process.clone() else {
            return;
        };
        let starter = entry.starter.take();
        let answer = match result {
            Ok(()) => match open {
                Ok(()) => Ok(()),
                Err(error) => Err(error),
            },
            Err(error) => {
                self.never_started(id, &shared, &error);
                Err(error)
            }
        };
        let Some((reply, followers)) = starter else {
            return;
        };
        // Under a guard until it is heard, for whoever asked may go also when the answer is on its way already.
        let handle = ProcessHandle { shared };
        let by = By::new("host", "whoever started it is gone");
        let unclaimed = || handle.end_on_drop(by).within(Duration::ZERO);
        let _ = reply.send(answer.map(|()| (unclaimed(), followers)));
        self.touch_status();
    }

    fn never_started(&mut self, id: &ResourceId, shared: &Shared, error: &Error) {
        let closing = !self.state().is_open();
        let intended = lock(&shared.running).intended;
        if closing && intended {
            // The close records it.
            return;
        }
        self.entries.remove(id);
        lock(&self.host.registry).processes.remove(id);
        for stream in ["out", "err"] {
            let _ = std::fs::remove_file(crate::dirs::spool(&self.dir, id, stream));
        }
        if intended {
            let outcome = Outcome::NeverStarted {
                why: error.to_string(),
            };
            self.record_release(id, &outcome, By::new("host", "it could not be started"));
        }
    }

    pub(crate) fn record_release(&self, id: &ResourceId, outcome: &Outcome, by: By) {
        self.host.ledger.write_later(vec![Change::ResourceReleased {
            id: id.clone(),
            outcome: serde_json::to_value(outcome).unwrap_or_default(),
            by,
        }]);
    }

    /// The same for a process, with all that is known of its end.
    fn record_end(&self, id: &ResourceId, outcome: &Outcome, exit: Option<ExitInfo>, by: By) {
        let mut outcome = serde_json::to_value(outcome).unwrap_or_default();
        if let (Some(exit), Some(fields)) = (exit, outcome.as_object_mut()) {
            let exit = serde_json::to_value(exit).unwrap_or_default();
            fields.insert("exit".into(), exit);
        }
        // The keeper knows it too, until it is told that this is written ([`hostler_process::Tree`]).
        self.host.ledger.write_soon(vec![Change::ResourceReleased {
            id: id.clone(),
            outcome,
            by,
        }]);
    }

    /// The notice that a process has ended: once for each.
    pub(crate) fn exited(&mut self, id: &ResourceId) {
        let open = self.state().is_open();
        // One that has changed its session on the way may be told of twice.
        let entry = self.entries.get_mut(id);
        let Some(entry) = entry.filter(|entry| !entry.recorded) else {
            return;
        };
        let Some(shared) = entry.process.clone() else {
            return;
        };
        let exit = shared.status.borrow().exit;
        let asked = entry.ended_by.clone();
        if open {
            entry.recorded = true;
            let outcome = Self::outcome(&shared, asked.is_some());
            let by = asked.unwrap_or_else(|| By::new("process", "it ended by itself"));
            self.record_end(id, &outcome, exit, by);
        }
        self.host.tell(SessionEvent::Exited {
            session: self.id(),
            resource: id.clone(),
            exit,
        });
        if shared.options.is_foreground() {
            self.touch();
        }
        self.ended.push_back(id.clone());
        self.forget_oldest();
        self.touch_status();
    }

    /// Of those that have ended, only so many are kept for looking at.
    pub(crate) fn forget_oldest(&mut self) {
        let most = self.status.borrow().policy.limits.ended as usize;
        if !self.state().is_open() {
            return;
        }
        while self.ended.len() > most {
            let Some(id) = self.ended.pop_front() else {
                return;
            };
            if let Some(entry) = self.entries.remove(&id)
                && let Some(task) = entry.task
            {
                // It may still read a pipe that others hold.
                task.abort();
            }
            lock(&self.host.registry).processes.remove(&id);
            for stream in ["out", "err"] {
                let _ = std::fs::remove_file(crate::dirs::spool(&self.dir, &id, stream));
            }
        }
    }

    pub(crate) fn end_process(&mut self, id: &ResourceId, grace: Option<Duration>, by: By) {
        let policy_grace = self.status.borrow().policy.grace;
        let Some(entry) = self.entries.get_mut(id) else {
            // Another session may keep it by now.
            let known = lock(&self.host.registry).processes.get(id).cloned();
            let owner = known.and_then(|known| Some(known.upgrade()?.owner()));
            if let Some(owner) = owner.filter(|owner| owner.id != self.id()) {
                let id = id.clone();
                owner.send(Message::EndProcess { id, grace, by });
            }
            return;
        };
        let Some(shared) = entry.process.clone() else {
            return;
        };
        if shared.state() == ResourceState::Ended {
            return;
        }
        entry.ended_by.get_or_insert(by);
        let grace = grace.unwrap_or(policy_grace);
        tokio::spawn(async move { end(&shared, grace).await });
    }

    pub(crate) async fn own(
        &mut self,
        mut resource: Box<dyn Resource>,
        name: Option<String>,
        by: By,
        reply: oneshot::Sender<Result<ResourceId>>,
    ) {
        let id = ResourceId::new(resource.kind());
        let row = ResourceRow {
            id: id.clone(),
            session: self.id(),
            kind: resource.kind().into(),
            name: name.clone(),
            detail: resource.describe(),
        };
        let recorded = match self.must_be_open() {
            Ok(()) => {
                let change = Change::ResourceIntended { resource: row, by };
                let written = self.host.ledger.write(vec![change]).await;
                written.map_err(Error::from).map(drop)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = recorded {
            let grace = self.status.borrow().policy.grace;
            tokio::spawn(async move {
                let _ = tokio::time::timeout(grace * 2, resource.release(grace)).await;
            });
            let _ = reply.send(Err(error));
            return;
        }
        self.next_order += 1;
        self.entries.insert(
            id.clone(),
            Entry {
                order: self.next_order,
                kind: resource.kind().into(),
                name,
                process: None,
                task: None,
                starter: None,
                shown: resource.shown(),
                resource: Some(resource),
                recorded: false,
                ended_by: None,
            },
        );
        if reply.send(Ok(id.clone())).is_err() {
            let (reply, _) = oneshot::channel();
            self.release(id, By::new("host", "whoever gave it is gone"), reply);
        }
    }

    pub(crate) fn release(
        &mut self,
        id: ResourceId,
        by: By,
        reply: oneshot::Sender<Result<Outcome>>,
    ) {
        if let Err(error) = self.must_be_open() {
            let _ = reply.send(Err(error));
            return;
        }
        let resource: Option<Box<dyn Resource>> = match self.entries.get_mut(&id) {
            Some(Entry {
                process: Some(shared),
                ended_by,
                ..
            }) => {
                ended_by.get_or_insert(by.clone());
                Some(Box::new(ProcessResource {
                    shared: shared.clone(),
                }))
            }
            Some(entry) => entry.resource.take(),
            None => None,
        };
        let Some(resource) = resource else {
            let _ = reply.send(Err(Error::NoResource(id.to_string())));
            return;
        };
        let grace = self.status.borrow().policy.grace;
        let mailbox = self.session.fixed.mailbox.clone();
        tokio::spawn(async move {
            let (id, outcome) = release_one(id, resource, grace).await;
            mailbox.send(Message::Released {
                id,
                by,
                outcome,
                reply,
            });
        });
    }

    pub(crate) fn released(
        &mut self,
        id: ResourceId,
        by: By,
        outcome: Outcome,
        reply: oneshot::Sender<Result<Outcome>>,
    ) {
        // Of a process, its own task tells.
        let plugged = self
            .entries
            .get(&id)
            .is_some_and(|entry| entry.process.is_none());
        if plugged && self.state().is_open() {
            self.entries.remove(&id);
            self.record_release(&id, &outcome, by);
        }
        let _ = reply.send(Ok(outcome));
    }

    /// Counts what runs, for listings and for judging.
    pub(crate) fn touch_status(&self) {
        let (mut foreground, mut background) = (0, 0);
        for shared in self
            .entries
            .values()
            .filter_map(|entry| entry.process.as_ref())
        {
            if shared.state() == ResourceState::Ended {
                continue;
            }
            if shared.options.is_foreground() {
                foreground += 1;
            } else if !shared.options.is_service() {
                background += 1;
            }
        }
        self.status.send_if_modified(|status| {
            let changed = (status.foreground, status.background) != (foreground, background);
            (status.foreground, status.background) = (foreground, background);
            changed
        });
    }

    pub(crate) async fn set_policy(&mut self, policy: Policy, by: By) -> Result<()> {
        self.must_be_open()?;
        crate::open::check(&policy)?;
        self.reset_at = policy.daily_reset.and_then(crate::judge::next_hour);
        if let Some(tree) = self.tree.as_ref().and_then(|tree| tree.get().ok()) {
            tree.set_on_host_exit(self.exit_rule(&policy)).await?;
        }
        self.status
            .send_modify(|status| status.policy = Arc::new(policy));
        self.record_detail(false);
        self.host
            .ledger
            .write_later(vec![Change::Event(hostler_ledger::EventRow {
                session: Some(self.id()),
                resource: None,
                kind: "session.policy".into(),
                who: by.who,
                why: by.why,
                detail: serde_json::Value::Null,
            })]);
        Ok(())
    }
}
