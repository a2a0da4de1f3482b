//! Conversations that there were: taken up again, forked.

use hostler_ledger::{
    Change, ConversationId, ConversationRow, ConversationUpdate, EntrySeq as Seq,
};
use hostler_session::{By, Session};

use super::new::{NewConversation, detail_of, new_of};
use super::{Agents, CloseUnless};
use crate::conversation::{Actor, Conversation, Fork, Pending, Shared, now};
use crate::error::{Error, Result};

impl Agents {
    /// A live one, or one from the ledger, taken up again in a new session.
    ///
    /// Cancel safe, as [`Agents::open`].
    ///
    /// # Errors
    /// [`Error::NotFound`], and as [`Agents::open`].
    pub async fn load(&self, id: &ConversationId, by: By) -> Result<Conversation> {
        let _alone = self.inner.loading.lock().await;
        if let Some(live) = self.registry().live.get(id)
            && live.shared.session.state().is_open()
        {
            return Ok(live.clone());
        }
        let _opening = self.opens();
        let row = self.row(id)?;
        let mut new = new_of(&row)?;
        if let Some(name) = &new.session.name
            && self.sessions().get(name).is_ok()
        {
            // Somebody else has it now.
            new.session.name = None;
        }
        if let Some(parent) = &new.session.parent
            && !self
                .sessions()
                .get(parent.as_str())
                .is_ok_and(|parent| parent.state().is_open())
        {
            // What it was a part of is over.
            new.session.parent = None;
        }
        let session = self.open_session(&new, &by).await?;
        let guard = CloseUnless(Some(session.clone()));
        let update = ConversationUpdate {
            session: Some(session.id().clone()),
            state: Some("live"),
            ..ConversationUpdate::default()
        };
        let change = Change::ConversationChanged {
            id: id.clone(),
            update: Box::new(update),
        };
        self.ledger().write_unsynced(vec![change]).await?;
        let row = self.row(id)?;
        let conversation = self.take_up(row, new, session)?;
        guard.keep();
        Ok(conversation)
    }

    fn take_up(
        &self,
        row: ConversationRow,
        new: NewConversation,
        session: Session,
    ) -> Result<Conversation> {
        let last = self.ledger().transcript_end(&row.id)?;
        let pending = self.pending(&row.id)?;
        let earlier = row.agent_session.clone();
        let (shared, inbox) = self.shared(row, new, session, last)?;
        let actor = Actor::new(shared.clone(), inbox, earlier, &pending);
        Ok(self.run(shared, actor))
    }

    pub(crate) fn pending(&self, id: &ConversationId) -> Result<Pending> {
        let link = self.ledger().agent_link(id)?;
        Ok(link
            .and_then(|link| serde_json::from_str(&link.pending).ok())
            .unwrap_or_default())
    }

    pub(super) fn row(&self, id: &ConversationId) -> Result<ConversationRow> {
        let row = self.ledger().conversation(id)?;
        row.ok_or_else(|| Error::NotFound(id.to_string()))
    }

    pub(crate) async fn fork(
        &self,
        from: &Shared,
        upto: Seq,
        fork: Fork,
        by: By,
    ) -> Result<Conversation> {
        let _opening = self.opens();
        let mut new = (*from.new).clone();
        new.session.name = None;
        new.session.parent = fork.parent;
        new.session.labels = fork.labels;
        let session = self.open_session(&new, &by).await?;
        let guard = CloseUnless(Some(session.clone()));
        let at = now();
        let row = ConversationRow {
            id: ConversationId::of(session.id()),
            session: session.id().clone(),
            agent_session: None,
            parent: Some(from.id.clone()),
            forked_at: Some(upto),
            state: "live".into(),
            detail: detail_of(&new, None),
            created: at,
            updated: at,
            ..from.row()
        };
        // What the parent has forgotten, and how its turns are numbered, holds for the fork too.
        let parent = self.pending(&from.id)?;
        let pending = Pending {
            next_turn: parent.next_turn,
            forgotten: parent.forgotten,
            ..Pending::default()
        };
        let changes = vec![
            Change::ConversationBegan {
                conversation: Box::new(row.clone()),
                by,
            },
            Change::TranscriptCopied {
                from: from.id.clone(),
                to: row.id.clone(),
                upto,
            },
        ];
        self.ledger().write_unsynced(changes).await?;
        let last = self.ledger().transcript_end(&row.id)?;
        let (shared, inbox) = self.shared(row, new, session, last)?;
        let mut actor = Actor::new(shared.clone(), inbox, None, &pending);
        actor.forked(&from.id, upto);
        guard.keep();
        Ok(self.run(shared, actor))
    }
}
