//! Sessions.

use std::collections::HashMap;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::{StreamExt, stream};
use hostler_ledger::{SessionFilter, SessionId, SessionRecord, Which};
use hostler_session::{CloseReason, Error as SessionError, Session as Living};
use serde::Deserialize;
use utoipa::IntoParams;

use super::blocking;
use crate::error::ApiError;
use crate::extract::{Asker, Json, Path, Query};
use crate::gateway::Gateway;
use crate::wire::{CensusEntry, CloseReport, NewSession, Session, SessionChange, duration};

/// How many sessions are counted at once.
const AT_ONCE: usize = 32;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listing {
    /// Those that have closed, too.
    all: bool,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Ending {
    /// Seconds between SIGTERM and SIGKILL. Without: the session's.
    grace: Option<f64>,
}

impl Ending {
    pub(super) fn grace(&self) -> Result<Option<std::time::Duration>, ApiError> {
        self.grace
            .map(|seconds| duration("grace", seconds))
            .transpose()
    }
}

/// All sessions, the oldest first.
#[utoipa::path(get, path = "/v1/sessions", tag = "sessions", params(Listing), responses((status = 200, body = [Session])))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Query(listing): Query<Listing>,
) -> Result<Answer<Vec<Session>>, ApiError> {
    let sessions = gateway.sessions().list();
    let mut list: Vec<Session> = sessions.iter().map(Session::open).collect();
    if listing.all {
        let ledger = gateway.sessions().ledger().clone();
        let filter = SessionFilter {
            which: Which::Closed,
            ..SessionFilter::default()
        };
        let closed = blocking(move || ledger.sessions(&filter)).await??;
        // One that closed between the two looks is in both.
        let open: Vec<String> = list.iter().map(|session| session.id.clone()).collect();
        let closed = closed.into_iter().map(Session::recorded);
        list.extend(closed.filter(|session| !open.contains(&session.id)));
        list.sort_by_key(|session| session.opened);
    }
    Ok(Answer(list))
}

/// Open a session.
#[utoipa::path(post, path = "/v1/sessions", tag = "sessions", request_body = NewSession, responses((status = 201, body = Session)))]
pub(crate) async fn open(
    State(gateway): State<Gateway>,
    Asker(by): Asker,
    Json(new): Json<NewSession>,
) -> Result<(StatusCode, Answer<Session>), ApiError> {
    let _starting = gateway.starting()?;
    let sessions = gateway.sessions();
    let options = new.options(sessions, gateway.defaults())?;
    let session = sessions.open(options, by).await?;
    Ok((StatusCode::CREATED, Answer(Session::open(&session))))
}

/// One session, by its id or its name; of those that have closed, the last one of the name.
#[utoipa::path(get, path = "/v1/sessions/{session}", tag = "sessions", params(("session" = String, Path, description = "Id or name")),
    responses((status = 200, body = Session)))]
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
) -> Result<Answer<Session>, ApiError> {
    match gateway.sessions().get(&name) {
        Ok(session) => Ok(Answer(Session::open(&session))),
        Err(error) => match closed(&gateway, &name).await? {
            Some(record) => Ok(Answer(Session::recorded(record))),
            None => Err(error.into()),
        },
    }
}

/// The closed session of this id, or the last one of this name.
pub(super) async fn closed(
    gateway: &Gateway,
    name: &str,
) -> Result<Option<SessionRecord>, ApiError> {
    let ledger = gateway.sessions().ledger().clone();
    let name = name.to_owned();
    let record = blocking(move || {
        if let Ok(id) = name.parse::<SessionId>()
            && let Some(record) = ledger.session(&id)?
        {
            return Ok(Some(record));
        }
        let filter = SessionFilter {
            which: Which::Closed,
            parent: None,
            name: Some(name),
        };
        ledger.sessions(&filter).map(|mut records| records.pop())
    });
    Ok(record.await??)
}

/// Change a session's policy.
#[utoipa::path(patch, path = "/v1/sessions/{session}", tag = "sessions", params(("session" = String, Path, description = "Id or name")),
    request_body = SessionChange, responses((status = 200, body = Session)))]
pub(crate) async fn change(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Asker(by): Asker,
    Json(change): Json<SessionChange>,
) -> Result<Answer<Session>, ApiError> {
    let session = gateway.sessions().get(&name)?;
    change.policy.for_open_session()?;
    let policy = change.policy.over(&session.info().policy)?;
    session.set_policy(policy, by).await?;
    Ok(Answer(Session::open(&session)))
}

/// Close a session and all that it owns. Waits for its end, and gives the report; the same one again once it has closed.
#[utoipa::path(delete, path = "/v1/sessions/{session}", tag = "sessions", params(("session" = String, Path, description = "Id or name"), Ending),
    responses((status = 200, body = CloseReport)))]
pub(crate) async fn close(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Query(ending): Query<Ending>,
    Asker(by): Asker,
) -> Result<Answer<CloseReport>, ApiError> {
    let grace = ending.grace()?;
    match gateway.sessions().get(&name) {
        Ok(session) => tokio::select! {
            report = session.close(CloseReason::Client, by, grace) => Ok(Answer(CloseReport::from(&*report?))),
            error = gateway.over() => Err(error),
        },
        Err(error @ SessionError::NoSession(_)) => {
            let record = closed(&gateway, &name).await?;
            let report = record.and_then(|record| record.closed);
            let report = report.and_then(|closed| crate::wire::recorded_report(&closed.report));
            report.map(Answer).ok_or_else(|| error.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// All living processes of a session, as the kernel sees them.
#[utoipa::path(get, path = "/v1/sessions/{session}/census", tag = "sessions",
    params(("session" = String, Path, description = "Id or name")), responses((status = 200, body = [CensusEntry])))]
pub(crate) async fn census(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
) -> Result<Answer<Vec<CensusEntry>>, ApiError> {
    let session = gateway.sessions().get(&name)?;
    Ok(Answer(count(&gateway, &session).await?))
}

/// Every living process of all sessions, from the kernel: those of one session one after the other.
#[utoipa::path(get, path = "/v1/census", tag = "sessions", responses((status = 200, body = [CensusEntry])))]
pub(crate) async fn census_of_all(State(gateway): State<Gateway>) -> Answer<Vec<CensusEntry>> {
    let sessions = gateway.sessions().list();
    let mut counts = stream::iter(sessions)
        .map(async |session| count(&gateway, &session).await)
        .buffered(AT_ONCE);
    let mut all = Vec::new();
    while let Some(counted) = counts.next().await {
        // One that closes meanwhile has none to show.
        all.extend(counted.into_iter().flatten());
    }
    Answer(all)
}

async fn count(gateway: &Gateway, session: &Living) -> Result<Vec<CensusEntry>, ApiError> {
    let known = super::processes::of(gateway, session).await?;
    let known: HashMap<(u32, u64), String> = known
        .iter()
        .filter_map(|process| {
            let status = process.status();
            Some(((status.pid?, status.start_time?), process.id().to_string()))
        })
        .collect();
    let census = session.census().await?.into_iter().map(|process| {
        let key = (process.id.pid, process.id.start_time);
        CensusEntry {
            session: session.id().to_string(),
            pid: key.0,
            start_time: key.1,
            parent: process.parent,
            command: process.command.to_string(),
            state: char::from(process.state).to_string(),
            rss: process.resident,
            cpu_ms: process.cpu.as_millis() as u64,
            process: known.get(&key).cloned(),
        }
    });
    Ok(census.collect())
}
