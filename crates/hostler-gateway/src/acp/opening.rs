//! How a client comes to a conversation: it begins one, comes back to one, or forks one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use hostler_agent::{
    Conversation, ConversationId, Error as AgentError, NewConversation, Ready, RpcError, Seq,
};
use hostler_session::{CloseReason, SessionOptions};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::connection::Connection;
use super::feed::{self, Feed, Start};
use super::message::Members;
use super::methods::{failure, parse};

#[derive(Deserialize)]
struct New<'a> {
    cwd: PathBuf,
    #[serde(borrow, rename = "mcpServers", default)]
    mcp_servers: Vec<&'a RawValue>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

/// What a client that counts says when it comes back.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Back {
    /// The last entry that it has.
    after: Option<u64>,
    /// Its turns that have not ended, with the ids of their requests.
    turns: HashMap<u64, Box<RawValue>>,
    /// It takes this for a new conversation: the answer comes first, as that to `session/new`, and the history after it.
    join: bool,
}

impl Back {
    fn of(params: &RawValue) -> Self {
        let meta = Members::of(params).get("_meta");
        let hostler = meta.and_then(|meta| Members::of(meta).get("hostler"));
        let back = hostler.and_then(|hostler| serde_json::from_str(hostler.get()).ok());
        back.unwrap_or_default()
    }
}

/// Closes a conversation that nobody has come to yet, unless it is said that somebody has.
struct Unclaimed {
    conversation: Option<Conversation>,
    by: hostler_session::By,
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(conversation) = self.conversation.take() {
            let by = self.by.clone();
            tokio::spawn(async move {
                if let Err(error) = conversation.close(CloseReason::Client, by).await {
                    tracing::debug!(%error, "a conversation that nobody came to");
                }
            });
        }
    }
}

impl Connection {
    /// `session/new`.
    pub(super) async fn begin(
        self: &Arc<Self>,
        id: &str,
        params: Option<Box<RawValue>>,
    ) -> Result<(), RpcError> {
        let new: New<'_> = parse(params.as_deref())?;
        if !new.cwd.is_absolute() {
            let why = format!("`cwd`: {} is not an absolute path", new.cwd.display());
            return Err(RpcError::invalid_params(why));
        }
        let _starting = self
            .gateway
            .starting()
            .map_err(|error| RpcError::internal(error.message))?;
        let more = params.as_deref().map(Members::of);
        let more = more.map(|mut members| {
            let ours = ["cwd", "mcpServers", "_meta"];
            members.0.retain(|(key, _)| !ours.contains(&key.as_ref()));
            members.without("")
        });
        let by = self.by("session/new");
        let options = NewConversation {
            agent: self.client.agent.clone(),
            session: SessionOptions {
                cwd: Some(new.cwd.clone()),
                policy: self.gateway.defaults().clone(),
                ..SessionOptions::default()
            },
            mcp_servers: new.mcp_servers.into_iter().map(ToOwned::to_owned).collect(),
            meta: new.meta.map(ToOwned::to_owned),
            more: more.filter(|more| more.get() != "{}"),
            elicitation: self.elicitation(),
            cwd: new.cwd,
            permission: None,
        };
        let agents = self.gateway.agents();
        let opened = agents.open_ready(options, by.clone()).await;
        let (conversation, ready) = opened.map_err(failure)?;
        self.enter(id, conversation, &ready, by).await
    }

    /// Attaches to a conversation that was made for this client, and answers the request that wanted it.
    async fn enter(
        self: &Arc<Self>,
        id: &str,
        conversation: Conversation,
        ready: &Ready,
        by: hostler_session::By,
    ) -> Result<(), RpcError> {
        let mut unclaimed = Unclaimed {
            conversation: Some(conversation.clone()),
            by,
        };
        self.learn(ready);
        let guard = conversation
            .attach(&self.client.who, self.capabilities())
            .await
            .map_err(failure)?;
        // What the agent said since it came up is the client's, too.
        let start = Start {
            after: Seq::START,
            history: Seq::START,
            until: Seq::START,
            opening: Some((id.to_owned(), Ok((*ready.session).to_owned()))),
            waiting: Vec::new(),
            turns: HashMap::new(),
        };
        let feed = Feed::new(self, &conversation, start);
        // Its client will open a stream for it.
        self.outbox.open(conversation.id().as_str());
        self.attach(guard, feed);
        unclaimed.conversation = None;
        Ok(())
    }

    /// `session/load` and `session/resume`.
    pub(super) async fn come_back(
        self: &Arc<Self>,
        id: &str,
        session: &str,
        params: &RawValue,
        history: bool,
    ) -> Result<(), RpcError> {
        let missing = || failure(AgentError::NotFound(session.to_owned()));
        let conversation: ConversationId = session.parse().map_err(|_| missing())?;
        let why = if history {
            "session/load"
        } else {
            "session/resume"
        };
        let by = self.by(why);
        let agents = self.gateway.agents();
        let conversation = agents.load(&conversation, by.clone()).await;
        let conversation = conversation.map_err(failure)?;
        // Before anything is done with it, so that it does not end under the client's hands.
        let guard = conversation
            .attach(&self.client.who, self.capabilities())
            .await
            .map_err(failure)?;
        let ready = conversation.ready(by).await.map_err(failure)?;
        self.learn(&ready);
        let back = Back::of(params);
        let last = conversation.last();
        let after = match (history, back.after) {
            (_, Some(after)) => Seq(after.min(last.0)),
            (true, None) => Seq::START,
            (false, None) => last,
        };
        let waiting = match after {
            Seq::START => Vec::new(),
            _ => feed::waiting(self, &conversation).await,
        };
        let answer = match back.join {
            true => (*ready.session).to_owned(),
            false => Members::of(&ready.session).without("sessionId"),
        };
        for (turn, id) in &back.turns {
            self.still_flies(id.get(), &conversation, *turn);
        }
        let turns = back.turns.into_iter();
        let start = Start {
            after,
            history: if history { last } else { Seq::START },
            until: if back.join { Seq::START } else { last },
            opening: Some((id.to_owned(), Ok(answer))),
            waiting: waiting
                .into_iter()
                .filter(|entry| entry.seq <= after)
                .collect(),
            turns: turns
                .map(|(turn, id)| (turn, id.get().to_owned()))
                .collect(),
        };
        let feed = Feed::new(self, &conversation, start);
        self.attach(guard, feed);
        Ok(())
    }

    pub(super) async fn fork(
        self: &Arc<Self>,
        id: &str,
        of: &Conversation,
    ) -> Result<(), RpcError> {
        let by = self.by("session/fork");
        let forked = of.fork(by.clone()).await.map_err(failure)?;
        let mut unclaimed = Unclaimed {
            conversation: Some(forked.clone()),
            by: by.clone(),
        };
        let ready = forked.ready(by.clone()).await.map_err(failure)?;
        unclaimed.conversation = None;
        self.enter(id, forked, &ready, by).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acp::message;

    #[test]
    fn what_a_client_says_that_comes_back_is_read() {
        let params = message::raw(
            r#"{"sessionId":"s","_meta":{"hostler":{"after":7,"turns":{"3":"a"}}}}"#.into(),
        );
        let back = Back::of(&params);
        assert_eq!(back.after, Some(7));
        assert_eq!(back.turns[&3].get(), "\"a\"");
        assert!(Back::of(&message::raw("{}".into())).after.is_none());
    }
}
