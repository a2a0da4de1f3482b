//! The event log, read and followed.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use hostler_ledger::{EventFilter, JobId, Ledger, Seq, SessionId};
use serde::Deserialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use utoipa::IntoParams;

use super::blocking;
use crate::error::ApiError;
use crate::extract::Query;
use crate::gateway::Gateway;
use crate::wire::Event;

/// How many events are given where nothing is said, and at the most.
const LIMIT: usize = 1000;
const MOST: usize = 10_000;
/// How many a follower is given at a time.
const BATCH: usize = 256;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Asked {
    /// Those behind this number.
    after: u64,
    /// How many at the most.
    limit: Option<usize>,
    /// Those of this session (id or name) only.
    session: Option<String>,
    /// Those of this job only.
    #[param(value_type = Option<String>)]
    job: Option<JobId>,
}

/// The log from a number on. With `Accept: text/event-stream` from there on and live, each event once and in order.
#[utoipa::path(get, path = "/v1/events", tag = "events", params(Asked),
    responses((status = 200, content((Vec<Event> = "application/json"), (String = "text/event-stream")))))]
pub(crate) async fn events(
    State(gateway): State<Gateway>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let session = match &asked.session {
        Some(name) => Some(session_id(&gateway, name).await?),
        None => None,
    };
    let filter = EventFilter {
        session,
        job: asked.job,
        ..EventFilter::default()
    };
    let ledger = gateway.sessions().ledger().clone();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let live = text(header::ACCEPT).is_some_and(|accept| accept.contains("text/event-stream"));
    if !live {
        let limit = asked.limit.unwrap_or(LIMIT).min(MOST);
        let events = blocking(move || ledger.events(Seq(asked.after), limit, &filter)).await??;
        let events: Vec<Event> = events.into_iter().map(Event::from).collect();
        return Ok(axum::Json(events).into_response());
    }
    // A browser that comes again says how far it came.
    let last = text(header::HeaderName::from_static("last-event-id"))
        .and_then(|id| id.parse().ok())
        .unwrap_or(0);
    let follower = Follower {
        // Before the first look, so that nothing falls between.
        news: ledger.subscribe(),
        ledger,
        filter,
        after: Seq(asked.after.max(last)),
        waiting: VecDeque::new(),
        gateway,
    };
    let stream = stream::unfold(follower, async |mut follower| {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    Ok(Sse::new(stream)
        .keep_alive(KeepAlive::default())
        .into_response())
}

async fn session_id(gateway: &Gateway, name: &str) -> Result<SessionId, ApiError> {
    match gateway.sessions().get(name) {
        Ok(session) => Ok(session.id().clone()),
        Err(error) => match super::sessions::closed(gateway, name).await? {
            Some(record) => Ok(record.id),
            None => Err(error.into()),
        },
    }
}

/// Reads the log from the ledger. What is told live only says that there is more to read: so each event comes once and in order,
/// however far this falls behind.
struct Follower {
    gateway: Gateway,
    ledger: Ledger,
    filter: EventFilter,
    after: Seq,
    news: broadcast::Receiver<hostler_ledger::Event>,
    waiting: VecDeque<hostler_ledger::Event>,
}

impl Follower {
    async fn next(&mut self) -> Option<sse::Event> {
        let mut phases = self.gateway.phases();
        loop {
            if let Some(event) = self.waiting.pop_front() {
                self.after = event.seq;
                let told = sse::Event::default().id(event.seq.to_string());
                return told.json_data(Event::from(event)).ok();
            }
            let (ledger, filter, after) = (self.ledger.clone(), self.filter.clone(), self.after);
            let events = blocking(move || ledger.events(after, BATCH, &filter)).await;
            self.waiting = events.ok()?.ok()?.into();
            if !self.waiting.is_empty() {
                continue;
            }
            let over = phases.wait_for(|phase| phase.is_over());
            tokio::select! {
                _ = over => return None,
                news = self.news.recv() => match news {
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                },
            }
            // The rest of what was told is read with it.
            while !matches!(
                self.news.try_recv(),
                Err(TryRecvError::Empty | TryRecvError::Closed)
            ) {}
        }
    }
}
