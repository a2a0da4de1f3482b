//! The tree of a session, as those see it who share it.

use std::sync::{Arc, Mutex};

use hostler_process::Tree;

use crate::error::Result;
use crate::process::lock;

/// A tree that can be taken away: at a takeover the session's task needs it for itself alone.
#[derive(Debug, Clone)]
pub(crate) struct SharedTree {
    tree: Arc<Mutex<Option<Arc<Tree>>>>,
}

impl SharedTree {
    pub(crate) fn new(tree: Tree) -> Self {
        Self {
            tree: Arc::new(Mutex::new(Some(Arc::new(tree)))),
        }
    }

    /// The tree.
    ///
    /// # Errors
    /// Once it was taken away.
    pub(crate) fn get(&self) -> Result<Arc<Tree>> {
        Ok(lock(&self.tree)
            .clone()
            .ok_or(hostler_process::Error::HungUp)?)
    }

    /// Whether both are the same tree.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tree, &other.tree)
    }

    /// Takes it away from everybody.
    pub(crate) fn take(&self) -> Option<Arc<Tree>> {
        lock(&self.tree).take()
    }
}
