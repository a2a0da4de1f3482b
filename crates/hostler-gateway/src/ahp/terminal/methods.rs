//! `createTerminal` and `disposeTerminal`.

use ahp_types::commands::{CreateTerminalParams, DisposeTerminalParams};
use serde_json::json;
use serde_json::value::RawValue;

use crate::ahp::connection::Connection;
use crate::ahp::error::AhpError;
use crate::ahp::hub::Who;
use crate::ahp::methods::{Answer, read, write};
use crate::ahp::session::uri_of;

/// Carries one out.
pub(in crate::ahp) async fn call(
    connection: &Connection,
    who: &Who,
    method: &str,
    params: &RawValue,
) -> Answer {
    let gateway = &connection.gateway;
    let terminals = gateway.ahp().terminals();
    let terminals = terminals.ok_or_else(|| AhpError::internal("the host is not ready"))?;
    // A host that is taken over waits for it.
    let _starting = gateway.starting()?;
    if method == "disposeTerminal" {
        let params: DisposeTerminalParams = read(params)?;
        terminals
            .dispose(&params.channel, who.by("disposeTerminal"))
            .await?;
        return write(&json!(null));
    }
    let params: CreateTerminalParams = read(params)?;
    let session_of = |uri: &str| {
        let sessions = gateway.sessions().list();
        sessions.into_iter().find(|session| uri_of(session) == uri)
    };
    terminals
        .create(who, params, gateway.defaults(), session_of)
        .await?;
    write(&json!(null))
}
