//! Being found by the next host: who knocks, who is let in, and what becomes of the one who was there before.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::Keeper;
use crate::config::OnHostExit;
use crate::connection::{Connection, ConnectionError, Packet};
use crate::message::{Event, Hello, Reply, Request, Started, Welcome};
use crate::rendezvous::Rendezvous;
use crate::wire::{LEVEL, OLDEST, VERSION};

/// How long one who knocks may take to say who it is.
const HELLO_TIME: Duration = Duration::from_secs(2);
/// How many may stand there without a word. One more, and the one who has stood there longest is sent away.
const KNOCKING_MAX: usize = 8;
/// How many are let in at a time, before other work is looked at.
const ACCEPTS_AT_ONCE: usize = 32;
/// How long nobody is let in after the kernel had no room for one.
const PAUSE: Duration = Duration::from_millis(100);
/// How many former hosts that do not read are kept for the sake of telling them.
const FORMER_MAX: usize = 8;

/// The keeper's side of the rendezvous.
#[derive(Debug)]
pub(super) struct Door {
    rendezvous: Rendezvous,
    /// Those who have not said anything yet, and until when they may.
    knocking: Vec<(Instant, Connection)>,
    /// Former hosts that could not be told yet.
    former: Vec<Connection>,
    /// Until when nobody is let in.
    closed: Option<Instant>,
}

impl Door {
    pub(super) fn new(rendezvous: Rendezvous) -> Self {
        Self {
            rendezvous,
            knocking: Vec::new(),
            former: Vec::new(),
            closed: None,
        }
    }

    /// What there is to wait for.
    pub(super) fn poll<'a>(&'a self, poll: &mut Vec<PollFd<'a>>) {
        if self.closed.is_none() {
            poll.push(PollFd::new(&self.rendezvous, PollFlags::IN));
        }
        for (_, connection) in &self.knocking {
            poll.push(PollFd::new(connection, PollFlags::IN));
        }
        for connection in &self.former {
            poll.push(PollFd::new(connection, PollFlags::OUT));
        }
    }

    /// Sends away who was silent for too long, and says when to look again.
    pub(super) fn round(&mut self, now: Instant) -> Option<Instant> {
        self.knocking.retain(|(until, _)| now < *until);
        self.closed = self.closed.filter(|until| now < *until);
        let silent = self.knocking.iter().map(|(until, _)| *until);
        silent.chain(self.closed).min()
    }

    /// Tells a former host that it is one; says whether that is done with.
    fn tell_former(host: &Connection) -> bool {
        let Ok(packet) = Packet::new(0, &Event::Superseded) else {
            return false;
        };
        // One that is gone needs no telling.
        !matches!(host.try_send(&packet, &[]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Takes leave of a host that another one has taken the place of. It learns that before its connection ends, however
    /// late it reads: an end without a word would look like the keeper's death.
    fn retire(&mut self, host: Connection) {
        if Self::tell_former(&host) {
            return;
        }
        if self.former.len() == FORMER_MAX {
            self.former.remove(0);
        }
        self.former.push(host);
    }

    /// Lets in who is there, and gives back those who have said that they are the next host, the first first.
    fn hosts(&mut self) -> Vec<Guest> {
        self.former.retain(|host| !Self::tell_former(host));
        let mut hosts = self.hear();
        for _ in 0..ACCEPTS_AT_ONCE {
            if self.closed.is_some() {
                break;
            }
            match self.rendezvous.accept() {
                Ok(Some(connection)) => {
                    let until = Instant::now() + HELLO_TIME;
                    self.knocking.push((until, connection));
                    // Who means it has said so before it was let in.
                    hosts.append(&mut self.hear());
                    if self.knocking.len() > KNOCKING_MAX {
                        self.knocking.remove(0);
                    }
                }
                Ok(None) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.closed = Some(Instant::now() + PAUSE),
            }
        }
        hosts
    }

    /// Hears those who have knocked.
    fn hear(&mut self) -> Vec<Guest> {
        let mut hosts = Vec::new();
        let mut index = 0;
        while index < self.knocking.len() {
            match listen_to(&self.knocking[index].1) {
                Said::Nothing => index += 1,
                Said::Nonsense => drop(self.knocking.remove(index)),
                Said::Hello { id, oldest, newest } => hosts.push(Guest {
                    connection: self.knocking.remove(index).1,
                    id,
                    oldest,
                    newest,
                }),
            }
        }
        hosts
    }

    /// Removes the socket's file.
    pub(super) fn remove(&self) {
        self.rendezvous.remove();
    }
}

/// One who has said that it is the next host.
struct Guest {
    connection: Connection,
    id: u32,
    oldest: u8,
    newest: u8,
}

/// What one who knocks has said.
enum Said {
    Nothing,
    /// Something that makes no sense here, or it has left.
    Nonsense,
    Hello {
        id: u32,
        oldest: u8,
        newest: u8,
    },
}

fn listen_to(connection: &Connection) -> Said {
    match connection.try_receive() {
        Ok(Some(received)) => match received.message::<Request<'_>>() {
            Ok(Request::Hello(Hello { oldest, newest, .. })) => Said::Hello {
                id: received.header.id,
                oldest,
                newest,
            },
            _ => Said::Nonsense,
        },
        Err(ConnectionError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
            Said::Nothing
        }
        _ => Said::Nonsense,
    }
}

impl Keeper {
    /// Sees who has knocked. Waits for nobody.
    pub(super) fn answer_door(&mut self) {
        let Some(door) = &mut self.door else { return };
        for guest in door.hosts() {
            crate::hook!("keeper.hello");
            if guest.oldest > VERSION || guest.newest < OLDEST {
                let (oldest, newest) = (OLDEST, VERSION);
                // A fresh connection takes one message.
                if let Ok(packet) = Packet::new(guest.id, &Reply::Incompatible { oldest, newest }) {
                    let _ = guest.connection.try_send(&packet, &[]);
                }
            } else {
                self.welcome(guest.connection, guest.id, guest.newest.min(VERSION));
            }
        }
    }

    /// Makes this one the host, if it is still there.
    fn welcome(&mut self, connection: Connection, id: u32, version: u8) {
        self.reap();
        let welcome = Reply::Welcome(Box::new(self.state(version)));
        let Ok(packet) = Packet::new(id, &welcome) else {
            return;
        };
        let beside: Vec<BorrowedFd<'_>> = self.witness.iter().map(AsFd::as_fd).collect();
        if connection.try_send(&packet, &beside).is_err() {
            // It has not waited for this: nothing has changed.
            return;
        }
        crate::hook!("keeper.welcomed");
        self.forget_host();
        let former = self.host.replace(connection);
        if let (Some(door), Some(former)) = (&mut self.door, former) {
            door.retire(former);
        }
        self.host_gone = None;
        self.handed_over = None;
        if let Some(ending) = &mut self.ending {
            // What is stuck is news to it.
            ending.reported = false;
        }
    }

    fn state(&self, version: u8) -> Welcome {
        let processes: Vec<Started> = self
            .children
            .iter()
            .filter(|child| !child.forget)
            .map(|child| child.started)
            .collect();
        Welcome {
            version,
            keeper: self.known.keeper,
            zygote: self.known.zygote,
            config: self.config.clone(),
            enforced: self.enforced,
            main: self.main,
            next_key: self.next_key,
            processes,
            ending: self.ending.as_ref().map(|ending| ending.reason),
            ended: self.unread.clone(),
            level: LEVEL,
        }
    }

    /// Nobody waits any more for what the host had asked.
    pub(super) fn forget_host(&mut self) {
        self.outbox.clear();
        self.staged.clear();
        if let Some(ending) = &mut self.ending {
            ending.waiting.clear();
        }
        for releasing in &mut self.releasing {
            releasing.waiting.clear();
        }
    }

    /// Until when the next host may come; `None` while there is no waiting for one.
    pub(super) fn host_due(&self) -> Option<Instant> {
        let waiting = self.ending.is_none() && (!self.ended || self.unread.is_some());
        let gone = self.host_gone.filter(|_| waiting)?;
        Some(gone + self.waits()?)
    }

    /// How long the tree waits for its next host; `None` when it does not.
    pub(super) fn waits(&self) -> Option<Duration> {
        self.handed_over.or(match self.config.on_host_exit {
            OnHostExit::Kill => None,
            OnHostExit::Keep(wait) => Some(wait),
        })
    }
}
