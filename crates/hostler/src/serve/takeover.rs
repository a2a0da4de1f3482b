//! One host takes over from another: the conversation between them.
//!
//! On a socket of its own (`takeover.sock`, `SOCK_SEQPACKET`), one JSON object a packet. The new host says `hello`; the old one answers
//! `ready`, with its listening sockets beside it. Up to here nothing has changed, and if the new host dies now, nothing will. With
//! `go` the old host stops accepting, freezes its sessions, closes the ledger and says `done`. The new host opens the ledger
//! and says `have`; then the old one tells its clients to come back, and exits. If the new host dies between `go` and `have`, the
//! old one starts itself again in its own place and adopts what it has just let go of.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hostler_gateway::Phase;
use hostler_ledger::{Change, EventRow};
use rustix::fs::{Mode, chmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::Refused;
use super::lifetime::{Living, Signals};
use super::sockets::{Sockets, takeover_path};

/// What this release speaks.
const VERSION: u32 = 1;
/// The most sockets that are handed over.
const SOCKETS: usize = 64;
/// The longest packet.
const PACKET: usize = 64 << 10;
/// How long the other may take for an answer that needs no work.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the old host may take to freeze its sessions.
const FREEZE: Duration = Duration::from_secs(60);
/// How long what is being started may take.
const STARTING: Duration = Duration::from_secs(10);
/// How long frozen sessions wait for the new host.
const WAIT: Duration = Duration::from_secs(120);
/// How long clients may take to read what this host has for them, and the last that is said to them. Nobody waits for that but they.
const FAREWELL: Duration = Duration::from_secs(600);
/// After so long it is said that some do.
const SLOW: Duration = Duration::from_secs(5);

/// What the two say to each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
enum Say {
    /// The new host: I would take over.
    Hello {
        version: u32,
        pid: u32,
        release: String,
    },
    /// The old one: here are my listening sockets; tell me when.
    Ready { pid: u32, release: String },
    /// The old one: no.
    Refused { why: String },
    /// The new one: now.
    Go,
    /// The old one: it is all yours, but for these sessions, which were closed.
    Done { closed: Vec<String> },
    /// The new one: I have the ledger.
    Have,
}

/// One end of the conversation.
#[derive(Debug)]
struct Talk {
    socket: OwnedFd,
}

impl Talk {
    fn patience(&self, time: Duration) -> io::Result<()> {
        use sockopt::{Timeout, set_socket_timeout};
        set_socket_timeout(&self.socket, Timeout::Recv, Some(time))?;
        Ok(set_socket_timeout(&self.socket, Timeout::Send, Some(time))?)
    }

    fn say(&self, say: &Say, fds: &[OwnedFd]) -> io::Result<()> {
        let text = serde_json::to_vec(say)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        if !fds.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("too many sockets"));
        }
        let text = [IoSlice::new(&text)];
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.socket, &text, &mut beside, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }

    fn hear(&self) -> io::Result<(Say, Vec<OwnedFd>)> {
        let mut bytes = vec![0; PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let count = loop {
            let into = &mut [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.socket, into, &mut beside, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received.bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(errno) => return Err(errno.into()),
            }
        };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let fds = beside.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
            _ => Vec::new(),
        });
        let fds = fds.collect();
        Ok((serde_json::from_slice(&bytes[..count])?, fds))
    }
}

fn socket() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socket_with(
        family,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

// The new host's side.

fn did_not(error: io::Error) -> Refused {
    Refused::failed(format!("the host that runs did not hand over: {error}"))
}

/// The host that runs, as the one sees it that takes over.
#[derive(Debug)]
pub(super) struct Predecessor {
    talk: Talk,
}

impl Predecessor {
    /// The host that runs there, if one does.
    pub(super) fn find(state_dir: &Path) -> Result<Option<Self>, Refused> {
        let path = takeover_path(state_dir);
        let failed =
            |error: io::Error| Refused::failed(format!("cannot reach the host that runs: {error}"));
        let socket = socket().map_err(failed)?;
        let address = SocketAddrUnix::new(&path).map_err(|error| failed(error.into()))?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        }
        Ok(Some(Self {
            talk: Talk { socket },
        }))
    }

    /// The old host's listening sockets. Up to here it serves as ever.
    pub(super) fn sockets(&mut self) -> Result<Vec<OwnedFd>, Refused> {
        let failed = did_not;
        self.talk.patience(ANSWER).map_err(failed)?;
        let hello = Say::Hello {
            version: VERSION,
            pid: std::process::id(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.talk.say(&hello, &[]).map_err(failed)?;
        match self.talk.hear().map_err(failed)? {
            (Say::Ready { pid, release }, sockets) => {
                tracing::info!(pid, release, sockets = sockets.len(), "taking over");
                Ok(sockets)
            }
            (Say::Refused { why }, _) => Err(Refused::failed(format!(
                "the host that runs refuses: {why}"
            ))),
            (other, _) => Err(failed(io::Error::other(format!("it says {other:?}")))),
        }
    }

    /// Has the old host let go of everything.
    pub(super) fn let_go(&mut self) -> Result<(), Refused> {
        let failed = did_not;
        self.talk.patience(FREEZE).map_err(failed)?;
        self.talk.say(&Say::Go, &[]).map_err(failed)?;
        match self.talk.hear().map_err(failed)? {
            (Say::Done { closed }, _) => {
                for session in closed {
                    tracing::warn!(session, "could not be handed over, and was closed");
                }
                Ok(())
            }
            (Say::Refused { why }, _) => Err(Refused::failed(format!(
                "the host that runs refuses: {why}"
            ))),
            (other, _) => Err(failed(io::Error::other(format!("it says {other:?}")))),
        }
    }

    /// Tells the old host that it is not needed any more.
    pub(super) fn taken(&mut self) -> Result<(), Refused> {
        let told = self.talk.say(&Say::Have, &[]);
        told.map_err(|error| Refused::failed(format!("the host before is gone too early: {error}")))
    }
}

// The old host's side.

/// A host wants to take over, and everything that can be made sure of before is.
#[derive(Debug)]
pub(super) struct Asked {
    pid: u32,
    release: String,
    /// Takes the sessions that had to be closed, or why it is refused.
    done: oneshot::Sender<Result<Vec<String>, String>>,
    /// Tells whether the new host has it all.
    have: oneshot::Receiver<()>,
}

/// How the host ends.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is over, with all that it had.
    Over,
    /// It is over, and the next host has, or will have, what it left.
    Left,
    /// The host that was to take over is gone: this one starts again, with its sockets.
    GoOn(Vec<OwnedFd>),
}

/// Waits, on a thread of its own, for a host that wants to take over.
pub(super) fn listen(
    state_dir: &Path,
    sockets: &Arc<Sockets>,
    offers: mpsc::Sender<Asked>,
) -> Result<(), Refused> {
    let path = takeover_path(state_dir);
    let failed =
        |error: io::Error| Refused::failed(format!("cannot listen on {}: {error}", path.display()));
    let listener = socket().map_err(failed)?;
    let bound = || {
        match rustix::fs::unlink(&path) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path)?)?;
        chmod(&path, Mode::RUSR | Mode::WUSR)?;
        rustix::net::listen(&listener, 4)
    };
    bound().map_err(|error| failed(error.into()))?;
    // They are closed when this host does not listen any more.
    let sockets = Arc::downgrade(sockets);
    let thread = std::thread::Builder::new().name("takeover".into());
    let thread = thread.spawn(move || {
        loop {
            match rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    let Some(sockets) = sockets.upgrade() else {
                        return;
                    };
                    if let Err(error) = answer(&Talk { socket }, &sockets, &offers) {
                        tracing::warn!(%error, "a takeover did not come about");
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a host that would take over");
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    });
    thread.map(drop).map_err(failed)
}

fn answer(talk: &Talk, sockets: &Sockets, offers: &mpsc::Sender<Asked>) -> io::Result<()> {
    talk.patience(ANSWER)?;
    let peer = sockopt::socket_peercred(&talk.socket)?;
    let own = rustix::process::geteuid();
    if peer.uid != own && !peer.uid.is_root() {
        tracing::warn!(
            uid = peer.uid.as_raw(),
            pid = peer.pid.as_raw_nonzero().get(),
            "refused to hand over"
        );
        let why = "this host is another user's".to_owned();
        return talk.say(&Say::Refused { why }, &[]);
    }
    let (pid, release) = match talk.hear()?.0 {
        Say::Hello {
            version: VERSION,
            pid,
            release,
        } => (pid, release),
        Say::Hello { version, .. } => {
            let why =
                format!("it speaks version {VERSION} of the takeover protocol, not {version}");
            return talk.say(&Say::Refused { why }, &[]);
        }
        other => return Err(io::Error::other(format!("it says {other:?}"))),
    };
    let ready = Say::Ready {
        pid: std::process::id(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
    };
    talk.say(&ready, &sockets.duplicates()?)?;
    let Say::Go = talk.hear()?.0 else {
        return Err(io::Error::other("it does not say when"));
    };
    // From here on it is the runtime's.
    let (done, let_go) = oneshot::channel();
    let (tell, have) = oneshot::channel();
    let asked = Asked {
        pid,
        release,
        done,
        have,
    };
    let stopping = || io::Error::other("the host is stopping");
    offers.blocking_send(asked).map_err(|_| stopping())?;
    match let_go.blocking_recv().map_err(|_| stopping())? {
        Ok(closed) => talk.say(&Say::Done { closed }, &[])?,
        Err(why) => return talk.say(&Say::Refused { why }, &[]),
    }
    // Dropped unsaid, `tell` says that the new host is gone.
    if let (Say::Have, _) = talk.hear()? {
        let _ = tell.send(());
    }
    Ok(())
}

/// Hands everything over. `None`: it was refused, and all is as it was.
pub(super) async fn hand_over(
    living: &mut Living,
    asked: Asked,
    signals: &mut Signals,
) -> Option<Outcome> {
    tracing::info!(
        pid = asked.pid,
        release = asked.release,
        "another host takes over"
    );
    let sockets = match living.sockets.duplicates() {
        Ok(sockets) => sockets,
        Err(error) => {
            let _ = asked.done.send(Err(error.to_string()));
            return None;
        }
    };
    let event = Change::Event(EventRow {
        session: None,
        resource: None,
        kind: "host.handed_over".into(),
        who: format!("host {}", asked.pid),
        why: format!("serve --takeover of release {}", asked.release),
        detail: serde_json::Value::Null,
    });
    // A ledger that cannot be written cannot be handed over either.
    if let Err(error) = living.sessions.ledger().write(vec![event]).await {
        let _ = asked.done.send(Err(error.to_string()));
        return None;
    }
    living.server.stop_accepting().await;
    living.gateway.enter(Phase::HandingOver);
    // Whoever asked for something that is being started is told of it by this host.
    if tokio::time::timeout(STARTING, living.gateway.none_starting())
        .await
        .is_err()
    {
        tracing::warn!("what is being started takes too long to wait for");
    }
    living.jobs.hand_over().await;
    // What was read of agents is written before their sessions freeze; the next host reads on from there.
    living.agents.hand_over().await;
    let failed = living.sessions.hand_over(WAIT).await;
    for (session, error) in &failed {
        tracing::error!(%session, %error, "could not be handed over, and was closed");
    }
    let ledger = living.sessions.ledger().clone();
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || ledger.close()).await {
        tracing::error!(%error, "the ledger was not closed as it should be");
    }
    let closed = failed.iter().map(|(session, _)| session.to_string());
    let told = asked.done.send(Ok(closed.collect()));
    if told.is_err() || asked.have.await.is_err() {
        tracing::error!("the host that was to take over is gone: this one starts again");
        return Some(Outcome::GoOn(sockets));
    }
    living.gateway.enter(Phase::HandedOver);
    living.server.finish();
    tracing::info!(pid = asked.pid, "handed over");
    // Whoever listens on them next may do so alone.
    drop(sockets);
    living.sockets = Arc::default();
    linger(living, signals).await;
    Some(Outcome::Left)
}

/// Stays for clients that have not read all yet.
async fn linger(living: &Living, signals: &mut Signals) {
    let gone = living.gateway.disconnected();
    tokio::pin!(gone);
    if tokio::time::timeout(SLOW, &mut gone).await.is_ok() {
        return;
    }
    let connections = living.gateway.connections();
    tracing::info!(connections, "staying for clients that have not read all");
    tokio::select! {
        () = gone => {}
        () = tokio::time::sleep(FAREWELL) => tracing::warn!("some have not read all; they are left to the next host"),
        name = signals.next() => tracing::warn!("{name}: those that have not read all are left to the next host"),
    }
}

/// Starts this host again in the place of this process, with the sockets that it listened on. Returns only when that fails.
pub(super) fn start_again(sockets: &[OwnedFd]) -> Refused {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args(
        std::env::args_os()
            .skip(1)
            .filter(|word| word != "--takeover"),
    );
    let mut given = Vec::new();
    for socket in sockets {
        if rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()).is_ok() {
            given.push(socket.as_raw_fd().to_string());
        }
    }
    command.env("HOSTLER_SOCKETS", given.join(","));
    command.env_remove("LISTEN_PID");
    Refused::failed(format!("cannot start again: {}", command.exec()))
}
