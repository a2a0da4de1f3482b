//! What is done before a conversation's session ends without being asked.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hostler_session::{By, CloseReason, ExecOptions, Farewell};
use serde_json::json;

use super::Conversation;
use crate::catalogue::BeforeClose;
use crate::rpc::raw;

impl Conversation {
    /// Lets the session know what is to be done before it ends, where its agent's entry says so.
    pub(crate) fn plan_its_end(&self) {
        let Some(last) = self.shared.spec.before_close.clone() else {
            return;
        };
        // The session does not keep the conversation.
        let shared = Arc::downgrade(&self.shared);
        self.shared.session.before_end(Farewell {
            limit: last.timeout,
            act: Box::new(move |reason| {
                Box::pin(async move {
                    if let Some(shared) = shared.upgrade() {
                        part(Conversation { shared }, last, reason).await;
                    }
                })
            }),
        });
    }
}

async fn part(conversation: Conversation, last: BeforeClose, reason: CloseReason) {
    if !conversation.shared.said.load(Ordering::Relaxed) {
        return;
    }
    let by = By::new("host", format!("before the session ends: {reason}"));
    if !last.command.is_empty() {
        let mut options = ExecOptions::new(last.command);
        options.cwd = Some(conversation.shared.new.cwd.clone());
        match conversation.session().exec(options, by.clone()).await {
            Ok(process) => drop(process.wait().await),
            Err(error) => tracing::warn!(%error, "the command before a session's end failed"),
        }
    }
    if let Some(prompt) = last.prompt {
        let params = raw(&json!({ "prompt": [{ "type": "text", "text": prompt }] }));
        match conversation.prompt(params, by).await {
            Ok(turn) => drop(turn.ended().await),
            Err(error) => tracing::warn!(%error, "the last turn before a session's end failed"),
        }
    }
}
