//! What an agent asks the host for itself: `terminal/*` and `fs/*`.

use std::path::PathBuf;

use hostler_session::{By, Session};
use serde_json::value::RawValue;

use crate::rpc::RpcError;

/// Serves one session's agent.
#[derive(Debug)]
pub struct Served {
    _session: Session,
    _roots: Vec<PathBuf>,
}

impl Served {
    /// For the agent of `session`, whose files are below `roots`.
    pub fn new(session: Session, roots: Vec<PathBuf>) -> Self {
        Self {
            _session: session,
            _roots: roots,
        }
    }

    /// Answers a request of the agent; `None` when it is not one of these methods.
    pub async fn serve(
        &self,
        _method: &str,
        _params: &RawValue,
        _by: By,
    ) -> Option<Result<Box<RawValue>, RpcError>> {
        None
    }
}
