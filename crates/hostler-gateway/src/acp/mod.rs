//! ACP for clients: editors and remote ones, over WebSocket and HTTP, at `/acp`.
//!
//! # Theory of operation
//!
//! A [`connection`] is one client, whatever carries it. What it sends is parsed just enough to know what it is; parameters and
//! results are passed on as they are. Messages for one conversation are taken one after the other, so that a cancel does not
//! overtake the prompt that it is for; everything that takes long goes on by itself.
//!
//! What a client gets of a conversation is its transcript, from the client's own place on ([`feed`]): updates, questions, and
//! the answers to its prompts, which stand in the transcript as the ends of turns. So an answer never overtakes an update, and
//! a client that comes back can go on from where it was. What a client has not taken waits in the transcript, not here
//! ([`outbox`]).
//!
//! The transports: [`ws`], and [`http`] with a [`lease`], for nothing tells when an HTTP client is gone. A client that is gone is
//! detached from its conversations; what becomes of a session that nobody is attached to is its own policy.
//!
//! A client that counts (`?seq=true`) finds the number of the transcript's entry as `seq` in each message's envelope, is told the
//! turns that its prompts became (`_hostler/turn`), and says both when it resumes a session (`_meta.hostler`), to go on exactly
//! there: that is how `hostler acp` outlives a host.

pub(crate) mod connection;
mod feed;
pub(crate) mod http;
mod introduction;
pub(crate) mod lease;
pub(crate) mod message;
pub(crate) mod methods;
mod opening;
mod outbox;
mod ws;

use std::time::Duration;

use axum::http::HeaderMap;
use hostler_session::By;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::error::ApiError;
use crate::gateway::Gateway;

/// The largest message of a client, in bytes.
pub(crate) const MESSAGE: usize = 16 << 20;
/// The header that names a connection.
const CONNECTION: &str = "acp-connection-id";
/// The header that names a conversation.
const SESSION: &str = "acp-session-id";

/// How clients that speak ACP are served.
#[derive(Debug, Clone)]
pub struct AcpOptions {
    /// The agent of clients that name none.
    pub agent: String,
    /// How often a client on a WebSocket is asked whether it lives, and how long it then has for any sign of life.
    pub ping: Duration,
    /// How long an HTTP client may have no stream open and no request under way.
    pub lease: Duration,
}

impl Default for AcpOptions {
    fn default() -> Self {
        Self {
            agent: "shell".into(),
            ping: Duration::from_secs(20),
            lease: Duration::from_secs(60),
        }
    }
}

/// Who a client is, and what it wants.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// For the ledger.
    who: String,
    /// The agent that it talks to.
    agent: String,
    /// Whether it counts entries.
    counts: bool,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// The agent, by its name in the catalogue. Without: that of the header `hostler-agent`, else the configuration's
    /// `default_agent`.
    agent: Option<String>,
    /// Number messages by the transcript, and tell turns: for a client that resumes where it was.
    seq: bool,
}

impl Client {
    fn new(
        gateway: &Gateway,
        wanted: Wanted,
        headers: &HeaderMap,
        by: By,
    ) -> Result<Self, ApiError> {
        let header = headers
            .get("hostler-agent")
            .and_then(|name| name.to_str().ok());
        let agent = wanted
            .agent
            .or_else(|| header.map(str::to_owned))
            .unwrap_or_else(|| gateway.acp().agent.clone());
        if gateway.agents().catalogue().get(&agent).is_none() {
            let agent: String = agent.chars().take(100).collect();
            let why = format!(
                "there is no agent `{agent}` in the configuration or the built-in catalogue"
            );
            return Err(ApiError::missing(why));
        }
        if wanted.seq && !headers.contains_key("hostler-client") {
            let why = "a client that counts has to say which one it is: `hostler-client`";
            return Err(ApiError::bad(why));
        }
        Ok(Self {
            who: by.who,
            agent,
            counts: wanted.seq,
        })
    }
}
