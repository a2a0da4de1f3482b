//! ACP over HTTP: a POST a message, and streams of server-sent events for what comes back: one for the connection, one for each
//! conversation.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::connection::Connection;
use super::lease::Use;
use super::message::{self, Incoming};
use super::outbox::{Outbox, Reader};
use super::{CONNECTION, Client, MESSAGE, SESSION, Wanted, ws};
use crate::error::{ApiError, ErrorCode};
use crate::extract::{Asker, Query};
use crate::gateway::Gateway;

/// How often a stream says that it is there.
const ALIVE: std::time::Duration = std::time::Duration::from_secs(15);
/// How many streams a client may have open for conversations that it has not opened yet, as it may before it loads one.
const EARLY: usize = 16;

/// Talk ACP (https://agentclientprotocol.com) to an agent. As a WebSocket, one JSON-RPC message a text frame. Else a stream of what comes back (server-sent
/// events): of the connection, or of one conversation (`acp-session-id`).
#[utoipa::path(get, path = "/acp", tag = "acp",
    params(Wanted, ("acp-connection-id" = Option<String>, Header), ("acp-session-id" = Option<String>, Header)),
    responses((status = 101, description = "A WebSocket."), (status = 200, content_type = "text/event-stream", body = String),
        (status = 404, description = "There is no such connection: it was left, or its lease ran out.")))]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    Query(wanted): Query<Wanted>,
    Asker(by): Asker,
    request: Request,
) -> Result<Response, ApiError> {
    let (mut parts, _) = request.into_parts();
    if parts.headers.contains_key(header::UPGRADE) {
        drop(gateway.starting()?);
        let client = Client::new(&gateway, wanted, &parts.headers, by)?;
        let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &gateway).await;
        let upgrade = upgrade.map_err(|error| ApiError::bad(error.body_text()))?;
        return Ok(ws::upgrade(&gateway, client, upgrade));
    }
    let headers = &parts.headers;
    let accepts = text(headers, header::ACCEPT.as_str());
    if !accepts.is_some_and(|accepts| accepts.contains("text/event-stream")) {
        let why = "a WebSocket, or `accept: text/event-stream`";
        return Ok((StatusCode::NOT_ACCEPTABLE, why).into_response());
    }
    let held = held(&gateway, headers)?;
    let connection = held.connection();
    let session = text(headers, SESSION);
    let line = match session {
        None => connection.outbox.connection().clone(),
        Some(session) => match connection.outbox.session(session) {
            Some(line) => line,
            None if connection.knows(session) => connection.outbox.open(session),
            None if connection
                .outbox
                .others(|session| connection.knows(session))
                < EARLY =>
            {
                connection.outbox.open(session)
            }
            None => {
                let why = format!("there is no session `{}` here", shown(session));
                return Err(ApiError::missing(why));
            }
        },
    };
    let Some(reader) = line.reader() else {
        let why = "this stream is being read already";
        return Err(ApiError::new(ErrorCode::Conflict, why));
    };
    let (id, early) = (connection.id.clone(), session.map(str::to_owned));
    let session = session.and_then(|session| HeaderValue::from_str(session).ok());
    let open = Open {
        held,
        reader,
        early,
    };
    let events = stream::unfold(open, async |open| {
        let message = open.reader.next().await?;
        Some((
            Ok::<_, Infallible>(sse::Event::default().data(message)),
            open,
        ))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE));
    let mut response = with_connection(events.into_response(), &id);
    if let Some(session) = session {
        response.headers_mut().insert(SESSION, session);
    }
    Ok(response)
}

/// A stream that is being read.
struct Open {
    held: Use,
    reader: Reader,
    early: Option<String>,
}

impl Drop for Open {
    fn drop(&mut self) {
        // One for a conversation that was never opened leaves nothing.
        let connection = self.held.connection();
        if let Some(session) = self
            .early
            .take()
            .filter(|session| !connection.knows(session))
        {
            connection.outbox.forget(&session);
        }
    }
}

/// Send an ACP message. `initialize` is answered at once and makes the connection, whose name is in `acp-connection-id`; everything else is
/// accepted, and answered on a stream.
#[utoipa::path(post, path = "/acp", tag = "acp", request_body(content = String, content_type = "application/json"),
    params(Wanted, ("acp-connection-id" = Option<String>, Header), ("acp-session-id" = Option<String>, Header)),
    responses((status = 200, description = "The answer to `initialize`."), (status = 202),
        (status = 400, description = "Not a JSON-RPC message: the error that JSON-RPC has for it.")))]
pub(crate) async fn post(
    State(gateway): State<Gateway>,
    Query(wanted): Query<Wanted>,
    Asker(by): Asker,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let kind = text(headers, header::CONTENT_TYPE.as_str());
    if !kind.is_some_and(|kind| kind.starts_with("application/json")) {
        let why = "`content-type: application/json` is wanted";
        return Ok((StatusCode::UNSUPPORTED_MEDIA_TYPE, why).into_response());
    }
    // While its body comes in, too.
    let held = match headers.contains_key(CONNECTION) {
        true => Some(held(&gateway, headers)?),
        false => None,
    };
    let Some(body) = read(headers, body).await? else {
        let why = format!("a message may have {MESSAGE} bytes");
        return Ok((StatusCode::PAYLOAD_TOO_LARGE, why).into_response());
    };
    let incoming = match message::parse(&body) {
        Ok(incoming) => incoming,
        Err(malformed) => return Ok(json(StatusCode::BAD_REQUEST, malformed.answer())),
    };
    let Some(held) = held else {
        return match incoming {
            Incoming::Request { method, .. } if method == "initialize" => {
                drop(gateway.starting()?);
                let client = Client::new(&gateway, wanted, headers, by)?;
                initialize(&gateway, client, &body).await
            }
            _ => Err(ApiError::bad("the header acp-connection-id is missing")),
        };
    };
    let scope = text(headers, SESSION);
    if let Incoming::Request { method, params, .. } | Incoming::Notification { method, params } =
        &incoming
    {
        let named = message::session_of(*params);
        match (scope, &named) {
            _ if method.starts_with("$/") => {}
            (Some(scope), Some(named)) if scope != named => {
                return Err(ApiError::bad(
                    "acp-session-id and the message's sessionId are not the same",
                ));
            }
            (None, None) if of_a_session(method) => {
                return Err(ApiError::bad("the header acp-session-id is missing"));
            }
            _ => {}
        }
    }
    held.connection().receive(&body, scope).await;
    Ok(StatusCode::ACCEPTED.into_response())
}

async fn initialize(gateway: &Gateway, client: Client, body: &str) -> Result<Response, ApiError> {
    let connection = Connection::new(gateway.clone(), client, Outbox::apart());
    connection.receive(body, None).await;
    let Some(answer) = connection.outbox.connection().take() else {
        return Err(ApiError::internal("`initialize` has no answer"));
    };
    let answered = connection.is_initialized();
    let id = connection.id.clone();
    let response = json(StatusCode::OK, answer);
    if !answered {
        return Ok(response);
    }
    drop(gateway.leases().admit(connection));
    Ok(with_connection(response, &id))
}

/// Leave: the connection is over, and what only it held is closed or detached.
#[utoipa::path(delete, path = "/acp", tag = "acp", params(("acp-connection-id" = String, Header)),
    responses((status = 202), (status = 404)))]
pub(crate) async fn delete(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let id = text(&headers, CONNECTION);
    let id = id.ok_or_else(|| ApiError::bad("the header acp-connection-id is missing"))?;
    match gateway.leases().leave(id) {
        true => Ok(StatusCode::ACCEPTED),
        false => Err(gone(id)),
    }
}

fn held(gateway: &Gateway, headers: &HeaderMap) -> Result<Use, ApiError> {
    let id = text(headers, CONNECTION);
    let id = id.ok_or_else(|| ApiError::bad("the header acp-connection-id is missing"))?;
    gateway.leases().hold(id).ok_or_else(|| gone(id))
}

fn gone(id: &str) -> ApiError {
    ApiError::missing(format!("there is no connection `{}`", shown(id)))
}

fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

/// The body, if it is no larger than may be.
async fn read(headers: &HeaderMap, body: Body) -> Result<Option<String>, ApiError> {
    let said = text(headers, header::CONTENT_LENGTH.as_str());
    let said = said.and_then(|length| length.parse::<usize>().ok());
    if said.is_some_and(|length| length > MESSAGE) {
        return Ok(None);
    }
    let body = match axum::body::to_bytes(body, MESSAGE).await {
        Ok(body) => body,
        Err(error) => {
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = cause {
                if error.to_string().contains("length limit") {
                    return Ok(None);
                }
                cause = error.source();
            }
            return Err(ApiError::bad(format!("the body did not come: {error}")));
        }
    };
    match String::from_utf8(body.into()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(ApiError::bad("the body is not UTF-8")),
    }
}

fn of_a_session(method: &str) -> bool {
    matches!(
        method,
        "session/prompt"
            | "session/cancel"
            | "session/close"
            | "session/delete"
            | "session/fork"
            | "session/load"
            | "session/resume"
            | "session/set_config_option"
            | "session/set_mode"
            | "session/set_model"
    )
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn with_connection(mut response: Response, id: &str) -> Response {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(CONNECTION, id);
    }
    response
}
