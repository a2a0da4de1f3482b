//! The host's life, from the first request to the last.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hostler_agent::{Agents, AgentsOptions, Tools};
use hostler_gateway::{AcpOptions, Facts, Gateway, Server, ShutdownAsked};
use hostler_job::Jobs;
use hostler_process::contain;
use hostler_session::{By, HostOptions, Recovery, Sessions};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, WaitOptions, pidfd_open, waitpid};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::start::Parts;
use super::stop::{self, Stopping};
use super::takeover::{self, Asked, Outcome};
use super::{Refused, sockets};

/// A host that serves.
pub(super) struct Living {
    pub sessions: Sessions,
    pub agents: Agents,
    pub jobs: Jobs,
    pub gateway: Gateway,
    pub server: Server,
    pub sockets: Arc<sockets::Sockets>,
    pub shutdown_deadline: Duration,
}

/// Why it stops serving.
enum Told {
    Stop(ShutdownAsked),
    HandOver(Asked),
}

/// The signals that tell it to stop.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one's name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

/// Serves until told to stop.
pub(super) fn run(parts: Parts) -> Result<(), Refused> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("hostler")
        .build()
        .map_err(|error| Refused::failed(format!("cannot start: {error}")))?;
    // It was not waited for, so the pid is its own.
    let zygote = pidfd_open(parts.zygote.pid, PidfdFlags::empty());
    let private = parts.private.then(|| parts.state_dir.clone());
    let result = runtime.block_on(live(parts));
    // What still blocks is of no use to anybody.
    runtime.shutdown_timeout(Duration::from_millis(200));
    if let Some(state_dir) = private {
        let _ = std::fs::remove_dir_all(state_dir);
    }
    match result? {
        Outcome::Over => {
            if let Ok(zygote) = zygote {
                await_end(&zygote);
            }
            Ok(())
        }
        Outcome::Left => Ok(()),
        Outcome::GoOn(sockets) => Err(takeover::start_again(&sockets)),
    }
}

/// Waits until the zygote has gone, which it does when nobody has its connection and it has no keeper: who waits for this process
/// finds nothing of it then.
fn await_end(zygote: &OwnedFd) {
    let most = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    let _ = poll(&mut [PollFd::new(zygote, PollFlags::IN)], Some(&most));
}

async fn live(parts: Parts) -> Result<Outcome, Refused> {
    let failed =
        |what: &str, error: &dyn std::fmt::Display| Refused::failed(format!("{what}: {error}"));
    let mut signals = Signals::new().map_err(|error| failed("cannot handle signals", &error))?;
    reap().map_err(|error| failed("cannot handle signals", &error))?;
    let zygote = hostler_process::Zygote::new(parts.zygote)
        .map_err(|error| failed("cannot watch the zygote", &error))?;
    let options = HostOptions {
        env: parts.config.allowed_env(environment()),
        max_sessions: parts.config.max_sessions,
        min_available: parts.config.min_available,
        ..HostOptions::new(&parts.state_dir, parts.run.clone())
    };
    let sessions = Sessions::new(zygote.clone(), parts.ledger, options)
        .map_err(|error| failed("cannot start", &error))?;
    tokio::spawn(replace_zygote(zygote, sessions.clone()));
    let recovery = sessions
        .recover(&parts.earlier)
        .await
        .map_err(|error| failed("cannot take up what earlier hosts left", &error))?;
    tell(&recovery, parts.predecessor.is_some());
    let options = AgentsOptions {
        wrap: behind_run(),
        tools: Some(own_tools(&parts.state_dir)),
        agent_idle: parts.config.agent_idle,
        max_agents: parts.config.max_agents,
        delegation: parts.config.delegation,
        max_spares: parts.config.max_warm,
        spare_policy: parts.config.policy.clone(),
        ..AgentsOptions::default()
    };
    let agents = Agents::new(sessions.clone(), parts.config.agents, options);
    let resumed = agents
        .recover()
        .await
        .map_err(|error| failed("cannot take up the conversations of earlier hosts", &error))?;
    for one in &resumed {
        let goes_on = one.conversation.is_some();
        tracing::info!(conversation = %one.id, goes_on, interrupted = one.interrupted.len(), "taken up");
    }

    agents.keep_spares();
    let jobs = Jobs::new(agents.clone(), parts.config.jobs);
    let going = jobs
        .recover()
        .await
        .map_err(|error| failed("cannot take up the jobs of earlier hosts", &error))?;
    for job in &going {
        tracing::info!(job = %job.id(), flow = job.name(), "goes on");
    }
    jobs.schedules().begin();

    let addresses = parts.sockets.addresses();
    let contain = contain::auto();
    let facts = Facts {
        pid: parts.run.pid,
        version: parts.run.version.clone(),
        state_dir: parts.state_dir.clone(),
        started: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_millis() as u64),
        addresses: addresses.clone(),
        contain: contain.as_str().to_owned(),
        leaves_open: leaves_open(contain).to_owned(),
    };
    let token = parts.access.token.clone();
    let (ask, mut asked) = mpsc::channel(4);
    if parts.private {
        end_with_input(ask.clone());
    }
    let gateway = Gateway::new(
        jobs.clone(),
        agents.clone(),
        AcpOptions {
            agent: parts.config.default_agent,
            ..parts.config.acp
        },
        facts,
        parts.access,
        parts.config.policy,
        ask,
    );
    let sockets = Arc::new(parts.sockets);
    let (offer, mut offers) = mpsc::channel(1);
    takeover::listen(&parts.state_dir, &sockets, offer)?;
    let listening = sockets
        .listening()
        .map_err(|error| failed("cannot listen", &error))?;
    let server = Server::start(&gateway, listening);
    let address = addresses.first().map_or("", String::as_str);
    if let Err(error) = sessions.ledger().announce(address) {
        tracing::warn!(%error, "a second host will not know where this one listens");
    }
    if sockets.is_open_to_others() {
        tracing::warn!(
            "others than this machine can connect; the token goes over the net as it is"
        );
    }
    let shown = addresses
        .iter()
        .map(|address| match address.starts_with("http") {
            true => format!("{address}?token={}", token.reveal()),
            false => address.clone(),
        });
    hostler_run::say(&format!(
        "listening on {}",
        shown.collect::<Vec<_>>().join(" and ")
    ));
    notify(&[
        NotifyState::Ready,
        NotifyState::MainPid(std::process::id()),
        NotifyState::Status("serving"),
    ]);
    tokio::spawn(feed_watchdog(gateway.clone()));

    let mut living = Living {
        sessions,
        agents,
        jobs,
        gateway,
        server,
        sockets,
        shutdown_deadline: parts.config.shutdown_deadline,
    };
    loop {
        let told = tokio::select! {
            name = signals.next() => Told::Stop(ShutdownAsked {
                all: false,
                deadline: None,
                by: By::new(name, "the host was told to stop"),
            }),
            Some(asked) = asked.recv() => Told::Stop(asked),
            Some(offer) = offers.recv() => Told::HandOver(offer),
        };
        return match told {
            Told::Stop(asked) => {
                let stopping = Stopping::new(asked, &parts.state_dir);
                Ok(stop::stop(&mut living, stopping, &mut signals).await)
            }
            Told::HandOver(asked) => {
                match takeover::hand_over(&mut living, asked, &mut signals).await {
                    Some(outcome) => Ok(outcome),
                    None => continue,
                }
            }
        };
    }
}

/// The environment, as far as it is text.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn leaves_open(contain: contain::Contain) -> &'static str {
    match contain {
        contain::Contain::Tree => {
            "if host, zygote and keeper are all killed at once, processes that a session's processes have orphaned live on, and \
             only a marker in their environment tells whose they were"
        }
        contain::Contain::Cgroup => {
            "if host, zygote and keeper are all killed at once, processes live on in the session's cgroup until the next host \
             sweeps it"
        }
        contain::Contain::Pidns => "nothing",
    }
}

/// Says what became of what earlier hosts left.
fn tell(recovery: &Recovery, taken_over: bool) {
    for id in &recovery.adopted {
        tracing::info!(session = %id, taken_over, "adopted");
    }
    for report in &recovery.swept {
        tracing::info!(
            session = %report.session,
            name = report.name.as_deref().unwrap_or_default(),
            reason = %report.reason,
            ended = report.processes.len(),
            remaining = report.remaining,
            "swept"
        );
    }
    for (id, why) in &recovery.unreached {
        tracing::warn!(session = %id, why, "its keeper cannot be reached");
    }
    for what in &recovery.removed {
        tracing::info!(what, "removed");
    }
    for what in &recovery.untouched {
        tracing::warn!(what, "not touched: it cannot be proven to be ours");
    }
}

/// Has the host stop, with all of its sessions, when nobody holds the other end of its standard input any more.
fn end_with_input(ask: mpsc::Sender<ShutdownAsked>) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let asked = ShutdownAsked {
            all: true,
            deadline: None,
            by: By::new("the program whose host this is", "it has ended"),
        };
        let _ = ask.blocking_send(asked);
    });
}

/// What an agent's command is put behind, so that what the agent orphans ends with it: `hostler run`, by the small program
/// beside this one where it is there.
fn behind_run() -> Vec<String> {
    let program = small_program();
    [&program.to_string_lossy(), "run", "--"]
        .map(str::to_owned)
        .to_vec()
}

/// The small program where it stands beside this one: it starts faster.
fn small_program() -> PathBuf {
    let own = super::config::this_program();
    let small = own.with_file_name("hostler");
    if small.is_file() { small } else { own }
}

/// `hostler mcp` of this host.
fn own_tools(state_dir: &Path) -> Tools {
    let state_dir = state_dir.to_string_lossy().into_owned();
    Tools {
        command: small_program(),
        args: vec!["mcp".to_owned()],
        env: vec![("HOSTLER_STATE_DIR".to_owned(), state_dir)],
    }
}

/// Takes leave of children that come to this process as a subreaper.
fn reap() -> std::io::Result<()> {
    let mut child = signal(SignalKind::child())?;
    tokio::spawn(async move {
        while child.recv().await.is_some() {
            // The zygote is watched through a pidfd, which tells of its end after this too.
            while let Ok(Some(_)) = waitpid(None, WaitOptions::NOHANG) {}
        }
    });
    Ok(())
}

/// Starts another zygote where one is gone: sessions that exist have keepers of their own, but new ones need it.
async fn replace_zygote(mut zygote: hostler_process::Zygote, sessions: Sessions) {
    loop {
        zygote.gone().await;
        tracing::error!("the zygote is gone; another one is started");
        // By this name it is found also when the program was replaced meanwhile.
        let program = std::path::Path::new("/proc/self/exe");
        let made = hostler_keeper::zygote::Zygote::exec(program, &["__zygote"])
            .map_err(|error| error.to_string())
            .and_then(|made| hostler_process::Zygote::new(made).map_err(|error| error.to_string()));
        match made {
            Ok(made) => {
                sessions.set_zygote(made.clone());
                zygote = made;
            }
            Err(error) => tracing::error!(error, "no zygote: no session can be opened"),
        }
        // One that cannot live is not started in a loop without end.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Tells systemd, where it is there, what goes on.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "nobody was told of the host's state");
    }
}

/// Tells systemd that the host lives, for as long as the runtime and the ledger do.
async fn feed_watchdog(gateway: Gateway) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut turn = tokio::time::interval((limit / 3).max(Duration::from_millis(10)));
    loop {
        turn.tick().await;
        let ledger = gateway.sessions().ledger().clone();
        if tokio::task::spawn_blocking(move || ledger.last_seq())
            .await
            .is_ok()
        {
            notify(&[NotifyState::Watchdog]);
        }
    }
}
