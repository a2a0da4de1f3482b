//! WebSockets: processes with their streams, frame by frame.
//!
//! Binary frames carry data, the first byte says of which stream; text frames carry JSON. See [`relay`] for how they flow.

pub(crate) mod attach;
pub(crate) mod exec;
mod frame;
mod input;
pub(crate) mod pump;
mod relay;
pub(crate) mod tap;

use axum::extract::ws::WebSocketUpgrade;
use axum::http::HeaderMap;

/// The subprotocol.
const PROTOCOL: &str = "hostler.v1";
/// The largest frame that a client may send.
const FRAME: usize = 1 << 20;

/// The upgrade, with what all of these have in common.
fn prepared(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade
        .protocols([PROTOCOL])
        .max_frame_size(FRAME)
        .max_message_size(FRAME)
        // Each frame goes out by itself, and none waits in memory behind another.
        .write_buffer_size(0)
        .max_write_buffer_size(FRAME)
}

/// What a client calls itself, for `attach`.
fn client(headers: &HeaderMap, by: &hostler_session::By) -> String {
    match headers.get("hostler-client").map(|name| name.to_str()) {
        Some(Ok(name)) => name.chars().take(200).collect(),
        _ => by.who.clone(),
    }
}
