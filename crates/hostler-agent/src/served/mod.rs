//! What an agent asks the host for: terminals, which are processes of its session, and files below its session's roots.
//!
//! Whoever reads an agent's requests gives each to [`Served::serve`] in a task of its own, so that one that waits
//! (`terminal/wait_for_exit`) holds no other up. What is asked for belongs to the session: it is gone with it, whatever becomes of
//! the agent, and dropping a request drops the waiting alone.
//!
//! One extension of ours: a terminal that says `"_meta": {"hostler": {"follow": true}}` when it is made can be asked for its output
//! *after* an offset (`"_meta": {"hostler": {"after": N}}` in `terminal/output`). That waits until there is more, or the exit, and
//! says where to go on (`next`) and how much in between was not kept (`skipped`).

mod fs;
mod replace;
mod resolve;
mod terminal;

/// Files below roots, for whoever else serves them: found, opened and replaced so that no link and no exchange leads elsewhere.
pub mod files {
    pub use super::fs::{is_kernels_own, reopen};
    pub use super::replace::{Fill, replace, replace_with};
    pub use super::resolve::{PathError, Place, Roots};
}

use std::path::PathBuf;
use std::sync::Arc;

use hostler_session::{By, Session, Sessions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};

use crate::rpc::RpcError;
use resolve::Roots;
use terminal::Terminals;

/// What one session's agent may ask for. Clones are the same.
#[derive(Debug, Clone)]
pub struct Served {
    terminals: Arc<Terminals>,
    roots: Arc<Roots>,
}

impl Served {
    /// For the agent of this session, with files below these directories: absolute paths, of which those that are not there
    /// (yet) are looked for again with each request. Commands run in the first one, where they are not told otherwise.
    pub fn new(sessions: &Sessions, session: Session, roots: Vec<PathBuf>) -> Self {
        Self {
            terminals: Arc::new(Terminals::new(
                sessions.clone(),
                session,
                roots.first().cloned(),
            )),
            roots: Arc::new(Roots::new(roots)),
        }
    }

    /// Whether this is a method that is served here.
    pub fn serves(method: &str) -> bool {
        matches!(
            method,
            "terminal/create"
                | "terminal/output"
                | "terminal/wait_for_exit"
                | "terminal/kill"
                | "terminal/release"
                | "fs/read_text_file"
                | "fs/write_text_file"
        )
    }

    /// Does what is asked. `None` where the method is none of these; then it is the clients'.
    ///
    /// Cancel safe: a terminal that was being made is ended at once, or belongs to the session; an end that was asked for goes
    /// on; a file that was being written is there as before, or whole.
    pub async fn serve(
        &self,
        method: &str,
        params: &RawValue,
        by: By,
    ) -> Option<Result<Box<RawValue>, RpcError>> {
        let terminals = &self.terminals;
        Some(match method {
            "terminal/create" => match read(params) {
                Ok(request) => write(terminals.create(request, by).await),
                Err(error) => Err(error),
            },
            "terminal/output" => match read(params) {
                Ok(request) => write(terminals.output(request).await),
                Err(error) => Err(error),
            },
            "terminal/wait_for_exit" => match read(params) {
                Ok(request) => write(terminals.wait_for_exit(request).await),
                Err(error) => Err(error),
            },
            "terminal/kill" => match read(params) {
                Ok(request) => write(terminals.kill(request, by).await),
                Err(error) => Err(error),
            },
            "terminal/release" => match read(params) {
                Ok(request) => write(terminals.release(request, by).await),
                Err(error) => Err(error),
            },
            "fs/read_text_file" => match read(params) {
                Ok(request) => self.file(move |roots| fs::read(roots, &request)).await,
                Err(error) => Err(error),
            },
            "fs/write_text_file" => match read(params) {
                Ok(request) => self.file(move |roots| fs::write(roots, &request)).await,
                Err(error) => Err(error),
            },
            _ => return None,
        })
    }

    /// Works on files where that may take its time.
    async fn file<T: Serialize + Send + 'static>(
        &self,
        work: impl FnOnce(&Roots) -> Result<T, RpcError> + Send + 'static,
    ) -> Result<Box<RawValue>, RpcError> {
        let roots = self.roots.clone();
        let done = tokio::task::spawn_blocking(move || work(&roots)).await;
        write(done.unwrap_or_else(|_| Err(RpcError::internal("it was not finished"))))
    }
}

fn read<T: DeserializeOwned>(params: &RawValue) -> Result<T, RpcError> {
    serde_json::from_str(params.get()).map_err(|error| RpcError::invalid_params(error.to_string()))
}

fn write<T: Serialize>(result: Result<T, RpcError>) -> Result<Box<RawValue>, RpcError> {
    to_raw_value(&result?).map_err(|error| RpcError::internal(error.to_string()))
}
