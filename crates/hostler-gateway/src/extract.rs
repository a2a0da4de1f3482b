//! What handlers take out of a request, with failures as [`ApiError`].

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use hostler_session::By;
use serde::de::DeserializeOwned;

use crate::error::{ApiError, ErrorCode};
use crate::server::Peer;

/// A body of JSON. An empty body is `{}`.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = axum::body::Bytes::from_request(request, state)
            .await
            .map_err(|error| {
                let code = match error.status() {
                    axum::http::StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::TooLarge,
                    _ => ErrorCode::BadRequest,
                };
                ApiError::new(code, error.body_text())
            })?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        // A list would do for a struct otherwise.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(ApiError::bad("the body is to be a JSON object"));
        }
        // The type of the content is not asked for: a browser that was talked into posting a form is stopped by its Origin.
        let value = axum::Json::<T>::from_bytes(text).map_err(|error| json_error(&error))?;
        Ok(Self(value.0))
    }
}

fn json_error(error: &JsonRejection) -> ApiError {
    let text = error.body_text();
    let text = text
        .strip_prefix("Failed to deserialize the JSON body into the target type: ")
        .or_else(|| text.strip_prefix("Failed to parse the request body as JSON: "))
        .unwrap_or(&text);
    ApiError::bad(format!("the body is not what is expected: {text}"))
}

/// What stands behind the `?`.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = axum::extract::Query::from_request_parts(parts, state).await?;
        Ok(Self(query.0))
    }
}

/// What stands in the path.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = axum::extract::Path::from_request_parts(parts, state).await?;
        Ok(Self(path.0))
    }
}

impl From<QueryRejection> for ApiError {
    fn from(error: QueryRejection) -> Self {
        let text = error.body_text();
        let text = text
            .strip_prefix("Failed to deserialize query string: ")
            .unwrap_or(&text);
        Self::bad(format!("the query is not what is expected: {text}"))
    }
}

impl From<PathRejection> for ApiError {
    fn from(error: PathRejection) -> Self {
        Self::bad(error.body_text())
    }
}

/// Who asks, and why, for the ledger.
pub(crate) struct Asker(pub(crate) By);

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let peer = parts.extensions.get::<Peer>();
        let peer = peer.map_or_else(|| "?".to_owned(), ToString::to_string);
        let who = match header(&parts.headers, "hostler-client") {
            Some(name) => format!("{name} ({peer})"),
            None => peer,
        };
        let why = header(&parts.headers, "hostler-why")
            .unwrap_or_else(|| format!("{} {}", parts.method, parts.uri.path()));
        Ok(Self(By::new(who, why)))
    }
}

/// A header's value, as text for people, of a bounded length.
fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let text = headers.get(name)?.to_str().ok()?.trim();
    (!text.is_empty()).then(|| text.chars().take(200).collect())
}
