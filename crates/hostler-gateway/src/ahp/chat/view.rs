//! How much of a chat's past a client is given at first, and further back in pages.

use ahp_types::commands::SubscribeView;
use ahp_types::state::ChatState;

/// The state with the last turns only, where a client wants that and there are more.
pub(in crate::ahp) fn windowed(
    state: &ChatState,
    view: Option<&SubscribeView>,
) -> Option<ChatState> {
    let wanted = usize::try_from(view?.turns?).unwrap_or(0);
    let hidden = state
        .turns
        .len()
        .checked_sub(wanted)
        .filter(|hidden| *hidden > 0)?;
    let first = state.turns.get(hidden);
    Some(ChatState {
        turns: state.turns[hidden..].to_vec(),
        turns_next_cursor: Some(cursor(first.map(|turn| &*turn.id))),
        ..without_turns(state)
    })
}

/// The place before a turn; without one, the end.
pub(in crate::ahp) fn cursor(before: Option<&str>) -> String {
    format!("before:{}", before.unwrap_or_default())
}

fn without_turns(state: &ChatState) -> ChatState {
    ChatState {
        resource: state.resource.clone(),
        title: state.title.clone(),
        status: state.status,
        activity: state.activity.clone(),
        modified_at: state.modified_at.clone(),
        changes: state.changes.clone(),
        origin: state.origin.clone(),
        movable: state.movable,
        interactivity: state.interactivity,
        working_directories: state.working_directories.clone(),
        changesets: state.changesets.clone(),
        background_work: state.background_work.clone(),
        canvases: state.canvases.clone(),
        turns: Vec::new(),
        turns_next_cursor: None,
        active_turn: state.active_turn.clone(),
        steering_message: state.steering_message.clone(),
        queued_messages: state.queued_messages.clone(),
        draft: state.draft.clone(),
        meta: state.meta.clone(),
    }
}

/// How many turns a page has.
const PAGE: usize = 50;

/// The turns before a cursor, and the cursor of those before them; `None` where there is no such cursor.
pub(in crate::ahp) fn before(
    state: &ChatState,
    at: &str,
) -> Option<(Vec<ahp_types::state::Turn>, Option<String>)> {
    let id = at.strip_prefix("before:")?;
    let end = match id {
        "" => state.turns.len(),
        id => state.turns.iter().position(|turn| turn.id == id)?,
    };
    let start = end.saturating_sub(PAGE);
    let more = (start > 0).then(|| cursor(state.turns.get(start).map(|turn| &*turn.id)));
    Some((state.turns[start..end].to_vec(), more))
}
