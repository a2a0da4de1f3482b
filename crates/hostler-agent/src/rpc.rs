//! JSON-RPC 2.0 as text: envelopes over borrowed raw values, and exact replacement of a session id.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// An error of JSON-RPC.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RpcError {
    /// Its number: <https://www.jsonrpc.org/specification#error_object>; ACP adds -32000 (authentication required) and -32002
    /// (resource not found).
    pub code: i64,
    /// What went wrong, in one line.
    pub message: String,
    /// More of it, as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

/// What was answered: the result, or an error.
pub type Answer = Result<Box<RawValue>, RpcError>;

impl RpcError {
    /// What was sent is not JSON.
    pub const PARSE: i64 = -32700;
    /// It is JSON, but not a message that can be acted on.
    pub const INVALID_REQUEST: i64 = -32600;
    /// There is no such method here.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The parameters make no sense.
    pub const INVALID_PARAMS: i64 = -32602;
    /// Something else went wrong.
    pub const INTERNAL: i64 = -32603;
    /// Authentication is required first (ACP).
    pub const AUTH_REQUIRED: i64 = -32000;
    /// What was asked for is not there (ACP).
    pub const NOT_FOUND: i64 = -32002;
    /// The request was cancelled (ACP, `$/cancel_request`).
    pub const CANCELLED: i64 = -32800;

    /// With a number and a line.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: None,
        }
    }

    /// There is no such method.
    pub fn method_not_found(method: &str) -> Self {
        Self::new(
            Self::METHOD_NOT_FOUND,
            format!("method not found: {method}"),
        )
    }

    /// The parameters make no sense.
    pub fn invalid_params(why: impl Into<String>) -> Self {
        Self::new(Self::INVALID_PARAMS, why)
    }

    /// Something went wrong here.
    pub fn internal(why: impl Into<String>) -> Self {
        Self::new(Self::INTERNAL, why)
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for RpcError {}
