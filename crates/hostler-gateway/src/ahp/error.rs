//! What a client's request can fail with: the codes of JSON-RPC and those of the protocol (`ahp_types::errors`).

use ahp_types::errors::{
    UnsupportedProtocolVersionErrorData, ahp_error_codes as ahp, json_rpc_error_codes as rpc,
};
use ahp_types::version::SUPPORTED_PROTOCOL_VERSIONS;
use hostler_agent::Error as AgentError;
use hostler_session::Error as SessionError;
use serde::Serialize;
use serde_json::Value;

use crate::error::{ApiError, ErrorCode};

/// Why a request failed, as the protocol tells it.
#[derive(Debug, Clone, PartialEq, Serialize, thiserror::Error)]
#[error("{message} ({code})")]
pub(crate) struct AhpError {
    /// The number of the kind of failure.
    pub(crate) code: i32,
    /// One clear line.
    pub(crate) message: String,
    /// More of it, by kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<Value>,
}

impl AhpError {
    /// With a number and a line.
    pub(crate) fn new(code: i32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: None,
        }
    }

    /// It is no request that can be acted on now.
    pub(crate) fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(rpc::INVALID_REQUEST, message)
    }

    /// There is no such method here.
    pub(crate) fn no_method(method: &str) -> Self {
        let method: String = method.chars().take(100).collect();
        Self::new(
            rpc::METHOD_NOT_FOUND,
            format!("method not found: `{method}`"),
        )
    }

    /// The parameters make no sense.
    pub(crate) fn params(message: impl Into<String>) -> Self {
        Self::new(rpc::INVALID_PARAMS, message)
    }

    /// Something else went wrong.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(rpc::INTERNAL_ERROR, message)
    }

    /// What is named is not there.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ahp::NOT_FOUND, message)
    }

    /// There is no session of this URI.
    pub(crate) fn no_session(uri: &str) -> Self {
        Self::new(
            ahp::SESSION_NOT_FOUND,
            format!("there is no session `{uri}`"),
        )
    }

    /// There is no such agent.
    pub(crate) fn no_provider(name: &str) -> Self {
        let why =
            format!("there is no agent `{name}` in the configuration or the built-in catalogue");
        Self::new(ahp::PROVIDER_NOT_FOUND, why)
    }

    /// The URI is taken by a session.
    pub(crate) fn session_exists(uri: &str) -> Self {
        let why = format!("there is a session `{uri}` already");
        Self::new(ahp::SESSION_ALREADY_EXISTS, why)
    }

    /// It is there already, and may not be overwritten.
    pub(crate) fn exists(message: impl Into<String>) -> Self {
        Self::new(ahp::ALREADY_EXISTS, message)
    }

    /// None of the versions that the client offers is spoken here.
    pub(crate) fn unsupported_version() -> Self {
        let versions: Vec<String> = SUPPORTED_PROTOCOL_VERSIONS
            .iter()
            .map(|version| format!("^{version}"))
            .collect();
        let message = format!("this host speaks {}", versions.join(" and "));
        let data = UnsupportedProtocolVersionErrorData {
            supported_versions: versions,
        };
        Self {
            data: serde_json::to_value(data).ok(),
            ..Self::new(ahp::UNSUPPORTED_PROTOCOL_VERSION, message)
        }
    }
}

impl From<AgentError> for AhpError {
    fn from(error: AgentError) -> Self {
        let line = error.to_string();
        match error {
            AgentError::NotFound(_) => Self::not_found(line),
            AgentError::NoAgent(_) => Self::new(ahp::PROVIDER_NOT_FOUND, line),
            AgentError::Invalid(_) => Self::params(line),
            AgentError::Session(error) => error.into(),
            _ => Self::internal(line),
        }
    }
}

impl From<SessionError> for AhpError {
    fn from(error: SessionError) -> Self {
        let line = error.to_string();
        match error {
            SessionError::NoSession(_) | SessionError::Closed(_) => {
                Self::new(ahp::SESSION_NOT_FOUND, line)
            }
            SessionError::NoResource(_) => Self::not_found(line),
            SessionError::Invalid(_) => Self::params(line),
            SessionError::NameTaken { .. } => Self::exists(line),
            _ => Self::internal(line),
        }
    }
}

impl From<ApiError> for AhpError {
    fn from(error: ApiError) -> Self {
        match error.code {
            ErrorCode::NotFound => Self::not_found(error.message),
            ErrorCode::BadRequest => Self::params(error.message),
            _ => Self::internal(error.message),
        }
    }
}

/// Why an action that a client dispatched is not done: its `rejectionReason`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Rejection(pub(crate) String);

impl Rejection {
    /// For this reason.
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl From<AhpError> for Rejection {
    fn from(error: AhpError) -> Self {
        Self(error.message)
    }
}

impl From<AgentError> for Rejection {
    fn from(error: AgentError) -> Self {
        Self(error.to_string())
    }
}

impl From<SessionError> for Rejection {
    fn from(error: SessionError) -> Self {
        Self(error.to_string())
    }
}
