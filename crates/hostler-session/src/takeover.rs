//! Handing all sessions to the next host, without ending anything. What is being started is waited for: whoever asked for it is
//! told of it, by this host, and finds it with the next one.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hostler_ledger::{By, SessionId};
use hostler_process::Tree;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::actor::{Actor, Kept};
use crate::error::{Error, Result};
use crate::event::SessionState;
use crate::mailbox::Message;
use crate::policy::OnHostExit;
use crate::process::Shared;
use crate::report::CloseReason;
use crate::session::Session;
use crate::sessions::Sessions;

/// How long what is under way may take before it is let go of.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long what is being started may take.
const STARTING: Duration = Duration::from_secs(10);

pub(crate) async fn hand_over(sessions: &Sessions, wait: Duration) -> Vec<(SessionId, Error)> {
    sessions.host.stopping.store(true, Ordering::SeqCst);
    // Those that share another one's tree let go before that one does.
    let (lent, others): (Vec<Session>, Vec<Session>) = sessions
        .list()
        .into_iter()
        .partition(|session| session.fixed.status.borrow().lent);
    let (mut failed, mut held) = (Vec::new(), Vec::new());
    for some in [lent, others] {
        failed.extend(hand_over_some(some, wait, &mut held).await);
    }
    failed
}

/// What must be held until all trees are handed over: a process of a session that has let go of a lent tree would end with the last
/// handle on it.
type Held = Vec<Vec<Arc<Shared>>>;

async fn hand_over_some(
    sessions: Vec<Session>,
    wait: Duration,
    held: &mut Held,
) -> Vec<(SessionId, Error)> {
    let mut handed = JoinSet::new();
    for session in sessions {
        handed.spawn(async move {
            let answer = session
                .ask(|reply| Message::HandOver { wait, reply })
                .await
                .and_then(|answer| answer);
            (session, answer)
        });
    }
    let mut failed = Vec::new();
    for (session, answer) in handed.join_all().await {
        match answer {
            Ok(processes) => held.push(processes),
            // One that had closed meanwhile needs no next host, and one that had left has it.
            Err(Error::Closed(_) | Error::Stopping) => {}
            Err(error) => {
                let by = By::new("host", format!("it could not be handed over: {error}"));
                let _ = session.close(CloseReason::Shutdown, by, None).await;
                failed.push((session.id().clone(), error));
            }
        }
    }
    failed
}

impl Actor {
    /// Gives back what has to be held until the tree is handed over, where that is another session's.
    pub(crate) async fn hand_over(&mut self, wait: Duration) -> Result<Vec<Arc<Shared>>> {
        self.must_be_open()?;
        self.finish_starting().await;
        self.await_tree(wait).await;
        self.must_be_open()?;
        if self.in_ledger {
            // The next host has to know that it was meant.
            let change = self.detail_change(true);
            self.host.ledger.write(vec![change]).await?;
            fail::fail_point!("hand_over.recorded");
        }
        self.freeze().await;
        // What has ended meanwhile has ended here.
        while let Ok(message) = self.inbox.try_recv() {
            self.handle_boxed(*message).await;
        }
        self.must_be_open()?;
        let lent = matches!(self.kept, Kept::From(_));
        let tree = match &self.tree {
            // The session whose tree it is hands it over.
            Some(_) if lent => None,
            Some(tree) => tree.take(),
            None => None,
        };
        if let Some(tree) = tree {
            let policy = self.status.borrow().policy.clone();
            // One that would wait for the next host anyway waits at least as long as ever.
            let wait = match policy.on_host_exit {
                OnHostExit::Keep => wait.max(policy.keep_for),
                OnHostExit::Kill => wait,
            };
            quiet(&tree).await;
            tree.hand_over(wait).await?;
            fail::fail_point!("hand_over.done");
        }
        self.leave();
        Ok(if lent { self.processes() } else { Vec::new() })
    }

    /// Goes on until all that is being started is there, and all that was asked before is answered. Nothing new begins.
    async fn finish_starting(&mut self) {
        self.leaving = true;
        let until = Instant::now() + STARTING;
        loop {
            let starting = self.entries.values().any(|entry| entry.starter.is_some());
            let message = match starting {
                true => timeout_at(until, self.inbox.recv()).await.ok().flatten(),
                false => self.inbox.try_recv().ok(),
            };
            let Some(message) = message else { return };
            self.handle_boxed(*message).await;
        }
    }

    /// Where the session that lent the tree closes, that comes to its end first, for it asks this one what is to be spared.
    async fn await_tree(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        let closes =
            |lender: Session| matches!(lender.state(), SessionState::Closing | SessionState::Stuck);
        while self.lender().is_some_and(closes) {
            match timeout_at(until, self.inbox.recv()).await {
                Ok(Some(message)) => self.handle_boxed(*message).await,
                _ => return,
            }
        }
    }

    /// Handling a message may be handing over, which handles messages.
    fn handle_boxed(&mut self, message: Message) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.handle(message))
    }

    /// Stops moving output. What is in the pipes stays there, and what was read is in the spools.
    async fn freeze(&mut self) {
        let mut tasks = Vec::new();
        for entry in self.entries.values_mut() {
            if let Some(shared) = &entry.process {
                shared.freeze.notify_one();
            }
            tasks.extend(entry.task.take());
        }
        let _ = timeout(PATIENCE, async {
            for task in tasks {
                let _ = task.await;
            }
        })
        .await;
    }
}

/// Waits, but not for ever, until nobody else uses the tree. Whoever still does then is told that it is gone; that is no reason
/// to keep the session from the next host.
async fn quiet(tree: &Arc<Tree>) {
    let until = Instant::now() + PATIENCE;
    while Arc::strong_count(tree) > 1 && Instant::now() < until {
        sleep(Duration::from_millis(1)).await;
    }
}
