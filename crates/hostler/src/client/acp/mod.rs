//! `hostler acp`: an agent on standard input and output, as editors start them, that is a host's in truth.

mod bridge;
mod pipes;
mod private;
mod sessions;

use clap::Args;

use super::Place;
use super::error::{Failure, Result};
use super::host::{Host, part};
use crate::run::say;

/// How to be an agent.
#[derive(Debug, Args)]
pub(crate) struct Acp {
    #[command(flatten)]
    place: Place,
    /// The agent (without: the host's default)
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Join this session's conversation when the editor opens its first
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
}

/// Is an agent until standard input ends.
pub(crate) async fn run(acp: &Acp) -> Result<u8> {
    let mut host = acp.place.host()?;
    let private = match host.get("/v1/host").await {
        Ok(_) => None,
        Err(Failure::NoHost(_)) if acp.session.is_none() => {
            let private = private::Private::start().await?;
            say(&format!(
                "no host is running: this is a private one (pid {}, {}), which ends with this",
                private.pid(),
                private.state_dir().display()
            ));
            host = Host::find(Some(private.state_dir()))?;
            Some(private)
        }
        Err(failure) => return Err(failure),
    };
    let join = match &acp.session {
        Some(session) => Some(conversation(&mut host, session).await?),
        None => None,
    };
    let done = bridge::run(&host, acp.agent.as_deref(), join, private.is_some()).await;
    if let Some(private) = private {
        private.end().await;
    }
    done.map(|()| 0)
}

/// The id of the conversation that a session has.
pub(crate) async fn conversation(host: &mut Host, session: &str) -> Result<String> {
    let path = |name: &str| format!("/v1/conversations/{}", part(name));
    let found = match host.get(&path(session)).await {
        Err(refusal) if refusal.is_not_found() => {
            let missing = format!("session `{session}` has no conversation");
            match super::resolve::session(host, session, refusal).await {
                Ok(id) => match host.get(&path(&id)).await {
                    Err(refusal) if refusal.is_not_found() => {
                        return Err(Failure::Unclear(missing));
                    }
                    found => found?,
                },
                Err(failure) => return Err(failure),
            }
        }
        found => found?,
    };
    found
        .get("id")
        .and_then(|id| id.as_str())
        .map(str::to_owned)
        .ok_or_else(|| Failure::Nonsense("a conversation without an id".into()))
}
