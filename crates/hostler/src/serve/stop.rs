//! The host's end, when it is told to stop.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hostler_gateway::{Phase, ShutdownAsked};
use hostler_job::Job;
use hostler_session::{By, CloseReason, OnHostExit, Session, SessionState};
use sd_notify::NotifyState;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::lifetime::{Living, Signals, notify};
use super::sockets;
use super::takeover::Outcome;

/// How long clients may take for the last that is said to them.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long it may take to let go of what is kept.
const HANDING_OVER: Duration = Duration::from_secs(10);

/// How it is to stop.
pub(super) struct Stopping {
    all: bool,
    deadline: Option<Duration>,
    by: By,
    state_dir: PathBuf,
}

impl Stopping {
    pub(super) fn new(asked: ShutdownAsked, state_dir: &Path) -> Self {
        Self {
            all: asked.all,
            deadline: asked.deadline,
            by: asked.by,
            state_dir: state_dir.to_owned(),
        }
    }
}

/// Stops accepting, closes the sessions all at once, leaves those that are to be kept to the next host, and flushes the ledger.
pub(super) async fn stop(
    living: &mut Living,
    stopping: Stopping,
    signals: &mut Signals,
) -> Outcome {
    let Stopping { all, by, .. } = &stopping;
    let deadline = stopping.deadline.unwrap_or(living.shutdown_deadline);
    tracing::info!(who = by.who, why = by.why, all, "stopping");
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("closing sessions"),
    ]);
    living.gateway.enter(Phase::Stopping);
    living.server.stop_accepting().await;
    let until = Instant::now() + deadline;

    living.agents.end_spares().await;
    let kept = |session: &Session| !all && session.info().policy.on_host_exit == OnHostExit::Keep;
    let sessions = living.sessions.clone();
    let kept_job = |job: &Job| {
        let session = job.status().session;
        let session = session.and_then(|id| sessions.get(id.as_str()).ok());
        session.is_some_and(|session| kept(&session))
    };
    living.jobs.stop(kept_job, by.clone()).await;
    let mut closes = JoinSet::new();
    for session in living.sessions.list() {
        if !kept(&session) {
            let by = by.clone();
            closes.spawn(async move { session.close(CloseReason::Shutdown, by, None).await });
        }
    }
    let mut hurried = false;
    let closed = timeout_at(until, async {
        loop {
            tokio::select! {
                biased;
                closed = closes.join_next() => match closed {
                    Some(Ok(Ok(report))) => tracing::info!(
                        session = %report.session,
                        name = report.name.as_deref().unwrap_or_default(),
                        remaining = report.remaining,
                        "closed"
                    ),
                    Some(Ok(Err(error))) => tracing::error!(%error, "a session did not close"),
                    Some(Err(error)) => tracing::error!(%error, "a session did not close"),
                    None => return,
                },
                name = signals.next(), if !hurried => {
                    hurried = true;
                    tracing::warn!("{name} again: no more grace");
                    for session in living.sessions.list() {
                        if !kept(&session) {
                            let by = By::new(name, "the host was told twice to stop");
                            tokio::spawn(async move {
                                let none = Some(Duration::ZERO);
                                session.close(CloseReason::Shutdown, by, none).await
                            });
                        }
                    }
                }
            }
        }
    });
    if closed.await.is_err() {
        tracing::error!(seconds = deadline.as_secs_f64(), "the deadline is over");
    }
    if timeout_at(until, living.jobs.stopped()).await.is_err() {
        tracing::error!("jobs take longer to end than the host has");
    }
    let left = leave(living, kept).await;

    living.gateway.enter(Phase::Stopped);
    living.server.finish();
    let _ = tokio::time::timeout(FAREWELL, living.gateway.disconnected()).await;
    let ledger = living.sessions.ledger().clone();
    let flushed = tokio::task::spawn_blocking(move || ledger.close()).await;
    if let Ok(Err(error)) = flushed {
        tracing::error!(%error, "the ledger was not closed");
    }
    for path in [
        sockets::control_path(&stopping.state_dir),
        sockets::takeover_path(&stopping.state_dir),
    ] {
        let _ = std::fs::remove_file(path);
    }
    tracing::info!("stopped");
    if left { Outcome::Left } else { Outcome::Over }
}

/// Leaves what is to be kept, and what is stuck, to the next host; whether there is anything.
async fn leave(living: &Living, kept: impl Fn(&Session) -> bool) -> bool {
    let (mut any, mut stuck) = (false, false);
    for session in living.sessions.list() {
        let info = session.info();
        if kept(&session) && info.state.is_open() {
            any = true;
            tracing::info!(session = %info.id, name = info.name.unwrap_or_default(), "left to the next host");
        } else if info.state == SessionState::Stuck {
            stuck = true;
            tracing::error!(session = %info.id, remaining = info.remaining, "stuck: left to the next host");
        }
    }
    if !any {
        return stuck;
    }
    living.agents.hand_over().await;
    // They wait as long as their policies say. One that cannot be handed over is closed, which must not take for ever.
    let handed = living.sessions.hand_over(Duration::ZERO);
    let handed = tokio::time::timeout(HANDING_OVER, handed).await;
    for (session, error) in handed.unwrap_or_default() {
        tracing::error!(%session, %error, "could not be left to the next host, and was closed");
    }
    true
}
