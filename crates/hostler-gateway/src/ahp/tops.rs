//! Which sessions are shown as such, and which as chats of others.

use std::collections::HashMap;

use hostler_agent::Conversation;
use hostler_ledger::SessionId;
use hostler_session::{Session, SessionState as Stands};

/// The sessions that are shown as such, each with those that have its conversations: a conversation of a session that belongs to
/// another one is a chat of the topmost.
pub(super) fn tops(
    sessions: &HashMap<SessionId, Session>,
    conversations: &HashMap<SessionId, Conversation>,
    early: impl Fn(&SessionId) -> bool,
) -> HashMap<SessionId, Vec<SessionId>> {
    let mut tops: HashMap<SessionId, Vec<SessionId>> = HashMap::new();
    for (id, session) in sessions {
        let talks = conversations.contains_key(id);
        let info = session.info();
        if !talks && info.labels.get("spare_agent").is_some() {
            // An agent that is kept ready for whoever comes.
            continue;
        }
        if info.state == Stands::Starting || (!talks && early(id)) {
            continue;
        }
        if !talks {
            tops.entry(id.clone()).or_default();
            continue;
        }
        let mut top = id.clone();
        // A parent outlives its children; the bound is for what cannot be.
        for _ in 0..100 {
            let above = sessions.get(&top).and_then(|session| session.info().parent);
            match above.filter(|above| sessions.contains_key(above)) {
                Some(above) => top = above,
                None => break,
            }
        }
        tops.entry(top).or_default().push(id.clone());
    }
    tops
}
