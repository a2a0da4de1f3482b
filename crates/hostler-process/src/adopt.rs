//! Taking over a tree that another host has made.

use std::ffi::CStr;
use std::path::Path;
use std::time::Duration;

use hostler_keeper::connection::Connection;
use hostler_keeper::identity::Key;
use hostler_keeper::message::{Hello, Reply, Request, Started, Welcome};
use hostler_keeper::outcome::{EndReason, EndReport};
use hostler_keeper::rendezvous::{self, Peer};
use hostler_keeper::wire::{OLDEST, VERSION, WireError};
use hostler_keeper::witness::Witness;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::time::{sleep, timeout};

use crate::actor::{self, Keeper};
use crate::aftermath::Mourner;
use crate::error::{Doing, Error, Result};
use crate::link::{Link, register};
use crate::process::Process;
use crate::tree::{Tree, path_text};

/// How long a keeper may take to answer. It has one thread, and does nothing that takes long.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// A tree that was taken over, with all that its keeper knows.
#[derive(Debug)]
#[must_use = "dropping it releases what was adopted"]
pub struct Adopted {
    /// The tree. Its stored descriptors are there ([`Tree::names`], [`Tree::fetch`]).
    pub tree: Tree,
    /// Every process that was started in it and whose guard lived, with its exit where it has ended. Its pipes are had from
    /// the tree's store, if they were [stored](crate::Command::stored). Dropping a guard releases the process, with the grace
    /// of the tree.
    pub processes: Vec<(Process, Started)>,
    /// The process that the tree is for.
    pub main: Option<Key>,
    /// Why the tree is being ended, where it is: by one of its own rules, or on a word of its former host. The report comes
    /// by [`Tree::ended`].
    pub ending: Option<EndReason>,
    /// The report, where the tree ended by its own rules and no host has read it. What it stored can be fetched until
    /// [`Tree::end`], or the drop of the tree, lets the keeper go.
    pub ended: Option<EndReport>,
}

impl Tree {
    /// Takes over the tree whose keeper listens there ([`TreeOptions::rendezvous`](crate::TreeOptions::rendezvous)), and goes
    /// on as its owner. A host that has it still loses it ([`Error::Superseded`]); nothing is ended by that. Must be called
    /// in a runtime.
    ///
    /// Should the keeper be killed later, its zygote ends what it leaves and writes that down where this host reads it. With
    /// the zygote dead too, a cgroup is ended from here; without one the tree's end is [`Error::Unproven`], as for any tree.
    ///
    /// Cancel safe: dropped, either nothing was changed, or it is as though this host had adopted the tree and died.
    ///
    /// # Errors
    /// [`Error::NoKeeper`], [`Error::Foreign`], [`Error::Silent`], [`Error::Incompatible`]; [`Error::KeeperGone`] when it goes
    /// before it answers; [`Error::Io`].
    pub async fn adopt(path: &Path) -> Result<Adopted> {
        let path = path_text(path)?;
        timeout(ANSWER_TIME, adopt(&path))
            .await
            .unwrap_or(Err(Error::Silent))
    }
}

async fn adopt(path: &CStr) -> Result<Adopted> {
    let (connection, peer) = connect(path).await?;
    if !peer.is_ours() {
        return Err(Error::Foreign { uid: peer.uid });
    }
    // One outside of this pid namespace has none here.
    let pid = Pid::from_raw(peer.pid)
        .ok_or(Errno::SRCH)
        .doing("see the keeper's pid from here")?;
    // What this takes is taken before anything is said: a host that has no room for it leaves all as it is. The keeper that
    // answers was alive from before that, so the handle is its own.
    let handle = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Err(Errno::SRCH) => return Err(Error::KeeperGone),
        other => register(other.doing("open the keeper's pidfd")?).doing("watch the keeper")?,
    };
    let mut link = Link::new(connection).doing("reach the keeper")?;
    let hello = Hello {
        oldest: OLDEST,
        newest: VERSION,
        name: concat!("hostler ", env!("CARGO_PKG_VERSION")).as_bytes(),
    };
    link.post(1, &Request::Hello(hello), Vec::new())?;
    let (welcome, witness) = answer(&mut link).await?;
    if welcome.keeper.pid != pid.as_raw_nonzero().get().cast_unsigned() {
        return Err(odd("keeper"));
    }
    let keeper = Keeper {
        link,
        id: welcome.keeper,
        handle,
        mourner: Mourner::Witness {
            file: witness,
            keeper: welcome.keeper,
            zygote: welcome.zygote,
        },
        config: welcome.config,
        level: welcome.level,
    };
    let (tree, processes) = actor::go_on(keeper, welcome.next_key, &welcome.processes);
    Ok(Adopted {
        tree,
        processes: processes.into_iter().zip(welcome.processes).collect(),
        main: welcome.main,
        ending: welcome.ending,
        ended: welcome.ended,
    })
}

async fn connect(path: &CStr) -> Result<(Connection, Peer)> {
    loop {
        match rendezvous::connect(path) {
            // Too many are waiting before this one.
            Err(Errno::AGAIN) => sleep(Duration::from_millis(5)).await,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::CONNREFUSED) => {
                return Err(Error::NoKeeper(path.to_string_lossy().into_owned().into()));
            }
            other => return other.doing("reach the keeper"),
        }
    }
}

async fn answer(link: &mut Link) -> Result<(Welcome, Option<Witness>)> {
    let Some(mut received) = link.receive().await? else {
        return Err(Error::KeeperGone);
    };
    let witness = received.fds.pop().map(Witness::from);
    match received.message::<Reply>() {
        Ok(Reply::Welcome(welcome)) => match welcome.version {
            OLDEST..=VERSION => Ok((*welcome, witness)),
            _ => Err(odd("version")),
        },
        Ok(Reply::Incompatible { oldest, newest }) => Err(Error::Incompatible { oldest, newest }),
        Ok(_) => Err(odd("answer to a greeting")),
        Err(error) => Err(hostler_keeper::connection::ConnectionError::from(error).into()),
    }
}

fn odd(what: &'static str) -> Error {
    hostler_keeper::connection::ConnectionError::from(WireError::Value(what)).into()
}
