//! Going on with the conversations of an earlier host.

use hostler_ledger::{
    Change, ConversationRow, ConversationUpdate, ConversationsFilter, EntryRows, EntrySeq as Seq,
    LinkRow,
};
use hostler_session::{By, ResourceState, Session};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::agents::{Agents, Resumed, new_of};
use crate::conversation::{Actor, At, Pending, now};
use crate::error::Result;
use crate::link::Link;
use crate::transcript::EntryKind;

/// What a turn that was cut off ends with.
pub(crate) const CUT_OFF: &str = "the host died in the middle of it";

pub(crate) async fn recover(agents: &Agents) -> Result<Vec<Resumed>> {
    let live = ConversationsFilter {
        live: true,
        ..ConversationsFilter::default()
    };
    let mut resumed = Vec::new();
    for row in agents.ledger().conversations(&live)? {
        let session = agents.sessions().get(row.session.as_str()).ok();
        resumed.push(match session.filter(|session| session.state().is_open()) {
            Some(session) => adopt(agents, row, session)?,
            None => close(agents, row).await?,
        });
    }
    Ok(resumed)
}

/// Its session is gone: its turns were cut off, and it can be taken up again.
async fn close(agents: &Agents, row: ConversationRow) -> Result<Resumed> {
    let pending = agents.pending(&row.id)?;
    let mut last = agents.ledger().transcript_end(&row.id)?;
    let mut entries = Vec::new();
    for turn in &pending.turns {
        last = Seq(last.0 + 1);
        entries.push(EntryRows {
            seq: last,
            n: 1,
            at: now(),
            turn: Some(turn.turn),
            kind: EntryKind::TurnEnded.as_str().into(),
            data: json!({ "turn": turn.turn, "interrupted": CUT_OFF }).to_string(),
        });
    }
    let interrupted = pending.turns.iter().map(|turn| turn.turn).collect();
    let kept = Pending {
        next_turn: pending.next_turn,
        forgotten: pending.forgotten,
        ..Pending::default()
    };
    let link = LinkRow {
        process: None,
        offset: 0,
        pending: serde_json::to_string(&kept).unwrap_or_default().into(),
    };
    let update = ConversationUpdate {
        state: Some("closed"),
        ..ConversationUpdate::default()
    };
    let changes = vec![
        Change::TranscriptAppended {
            id: row.id.clone(),
            entries,
            link: Some(link),
        },
        Change::ConversationChanged {
            id: row.id.clone(),
            update: Box::new(update),
        },
    ];
    agents.ledger().write_unsynced(changes).await?;
    Ok(Resumed {
        id: row.id,
        conversation: None,
        interrupted,
    })
}

/// Its session goes on, and with it what is under way.
fn adopt(agents: &Agents, row: ConversationRow, session: Session) -> Result<Resumed> {
    let ledger = agents.ledger().clone();
    let pending = agents.pending(&row.id)?;
    let link = ledger.agent_link(&row.id)?.unwrap_or_default();
    let last = ledger.transcript_end(&row.id)?;
    let new = new_of(&row)?;
    let id = row.id.clone();
    let (earlier, agent, detail) = (
        row.agent_session.clone(),
        row.agent.clone(),
        row.detail.clone(),
    );
    let (shared, inbox) = agents.shared(row, new, session, last)?;
    let mut actor = Actor::new(shared.clone(), inbox, earlier, &pending);
    let process = link
        .process
        .as_ref()
        .and_then(|process| agents.sessions().process(process.as_str()).ok())
        .filter(|process| process.status().state != ResourceState::Ended);
    let ready = crate::conversation::ready_of(&detail);
    // Half a line may be in the pipe of one that a long line was written to: what it would make of the next is not known.
    let whole = pending.up && !pending.writing;
    let mut up = false;
    match (process, ready) {
        (Some(process), Some(ready)) if whole => {
            let limits = (shared.options.max_message, shared.options.max_unread);
            actor.goes_on_with(Link::new(&agent, process, link.offset, limits), ready);
            up = true;
        }
        (Some(process), _) => {
            let by = By::new("host", "its host died before it was up");
            tokio::spawn(async move {
                let _ = crate::link::end(&process, None, by).await;
            });
        }
        (None, _) => {}
    }
    let mut interrupted = Vec::new();
    for turn in &pending.turns {
        let said = prompt_at(&ledger, &id, turn.seq)?;
        let Some((params, by)) = said else { continue };
        let queued = actor.queued(turn.turn, turn.seq, params, by);
        match turn.at {
            At::Queued => actor.queue.push_back(queued),
            At::Sent if up => actor.goes_on(queued),
            At::Sent | At::Sending => {
                interrupted.push(turn.turn);
                actor.cut_off(queued);
            }
        }
    }
    if up {
        actor.still_asked(&pending);
    }
    actor.dirty = true;
    let conversation = agents.run(shared, actor);
    Ok(Resumed {
        id,
        conversation: Some(conversation),
        interrupted,
    })
}

/// The parameters of a prompt in the transcript, and who asked.
fn prompt_at(
    ledger: &hostler_ledger::Ledger,
    id: &hostler_ledger::ConversationId,
    seq: Seq,
) -> Result<Option<(Box<RawValue>, By)>> {
    #[derive(Deserialize)]
    struct Said {
        by: By,
        params: Box<RawValue>,
    }
    let rows = ledger.transcript(id, Seq(seq.0.saturating_sub(1)), 1)?;
    let entry = rows
        .iter()
        .flat_map(crate::follow::unpack)
        .find(|entry| entry.seq == seq);
    let said = entry.and_then(|entry| serde_json::from_str::<Said>(entry.data.get()).ok());
    Ok(said.map(|said| (said.params, said.by)))
}
