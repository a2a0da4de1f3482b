//! `hostler logs` of a process or terminal at a host elsewhere: what its channel has, and what comes.

use std::collections::VecDeque;

use ahp_types::actions::StateAction;
use ahp_types::state::{SnapshotState, TerminalLifecycleState, TerminalState};

use super::TERMINAL;
use super::address::Address;
use super::find;
use super::link::{Event, Link};
use super::output::{Piece, Taken};
use crate::client::error::{Failure, Result};
use crate::client::logs::{Logs, first_lines, nth_line_back};
use crate::client::streams::{Output, Stream};

/// Prints it.
pub(crate) async fn run(address: Address, logs: &Logs) -> Result<u8> {
    let mut link = Link::open(address, false).await?;
    let channel = match logs.process.starts_with(TERMINAL) {
        true => logs.process.clone(),
        false => find::process(&find::sessions(&mut link, true).await?, &logs.process)?.uri,
    };
    let SnapshotState::Terminal(state) = link.follow(&channel).await? else {
        return Err(Failure::Nonsense("a terminal that is none".into()));
    };
    let mut taken = match logs.since {
        Some(offset) => Taken::since(offset),
        None => Taken::default(),
    };
    let mut pieces: VecDeque<Piece> = chosen(logs, taken.state(&state)).into();
    let mut ended = !logs.follow || has_ended(&state);
    let output = Output::new()?;
    loop {
        if ended && pieces.is_empty() {
            break;
        }
        let event = tokio::select! {
            failure = output.failure() => return Err(failure),
            room = output.room(), if !pieces.is_empty() => {
                if let Some((stream, bytes)) = pieces.pop_front() {
                    room.fill(stream, bytes);
                }
                continue;
            }
            event = link.next(), if pieces.is_empty() => event?,
        };
        match event {
            Event::Action(envelope) if envelope.channel == channel => {
                pieces.extend(taken.action(&envelope.action));
                ended = matches!(envelope.action, StateAction::TerminalExited(_));
            }
            Event::Snapshot(snapshot) if snapshot.resource == channel => {
                if let SnapshotState::Terminal(state) = &snapshot.state {
                    pieces.extend(taken.state(state));
                    ended = has_ended(state);
                }
            }
            Event::Gone(gone) if gone == channel => {
                output.flush().await?;
                let why = format!(
                    "`{}` is no longer there: its session has closed",
                    logs.process
                );
                return Err(Failure::Unclear(why));
            }
            _ => {}
        }
    }
    output.flush().await?;
    link.leave().await;
    Ok(0)
}

pub(super) fn has_ended(state: &TerminalState) -> bool {
    matches!(state.lifecycle, TerminalLifecycleState::Exited(_))
}

/// Those that are wanted of what there is.
fn chosen(logs: &Logs, mut pieces: Vec<Piece>) -> Vec<Piece> {
    if let Some(wanted) = logs.stream.map(Stream::from) {
        pieces.retain(|(stream, _)| *stream == wanted);
    }
    if let Some(lines) = logs.tail {
        let whole: Vec<u8> = pieces
            .iter()
            .flat_map(|(_, bytes)| bytes.iter().copied())
            .collect();
        let mut cut = nth_line_back(&whole, lines).unwrap_or(0);
        for (_, bytes) in &mut pieces {
            let here = cut.min(bytes.len());
            *bytes = bytes.slice(here..);
            cut -= here;
        }
    }
    if let Some(mut left) = logs.head {
        for (_, bytes) in &mut pieces {
            let end = first_lines(bytes, &mut left);
            bytes.truncate(end);
        }
    }
    pieces.retain(|(_, bytes)| !bytes.is_empty());
    pieces
}
