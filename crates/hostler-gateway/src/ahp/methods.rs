//! What clients ask for, by its method.

use std::sync::Arc;
use std::time::Duration;

use ahp_types::commands::{
    Implementation, InitializeParams, InitializeResult, ListSessionsParams, ReconnectParams,
    SubscribeParams, UnsubscribeParams,
};
use ahp_types::version::negotiate_protocol_version;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use super::automation::{self, Automations};
use super::connection::Connection;
use super::delivery::Slot;
use super::error::AhpError;
use super::hub::{Back, Held, Wanted, Who, missing};
use super::{create, list, meta, resource, terminal, uri};

/// The most that a subscription may be delayed for coalescing.
const LATENCY: Duration = Duration::from_secs(10);
/// How many channels a client may follow at once, in one request.
const CHANNELS: usize = 4096;

/// What is answered: the result as JSON.
pub(super) type Answer = Result<Box<RawValue>, AhpError>;

/// Reads parameters.
pub(super) fn read<T: DeserializeOwned>(params: &RawValue) -> Result<T, AhpError> {
    serde_json::from_str(params.get()).map_err(|error| AhpError::params(error.to_string()))
}

/// Writes a result.
pub(super) fn write(result: &impl Serialize) -> Answer {
    to_raw_value(result).map_err(|error| AhpError::internal(error.to_string()))
}

/// Whether what is asked of the root channel by this method is done in its order.
pub(super) fn in_order(method: &str) -> bool {
    matches!(method, "subscribe" | "unsubscribe" | "dispatchAction")
}

/// Carries a request out. An answer with snapshots has its place where they were taken.
pub(super) async fn call(
    connection: &Arc<Connection>,
    method: &str,
    params: &RawValue,
    place: &mut Option<Slot>,
) -> Answer {
    match method {
        "initialize" => return initialize(connection, params, place).await,
        "reconnect" => return reconnect(connection, params, place).await,
        "ping" => return write(&json!({})),
        _ => {}
    }
    let Some(who) = connection.who() else {
        return Err(AhpError::invalid_request(
            "`initialize` or `reconnect` comes first",
        ));
    };
    match method {
        "subscribe" => subscribe(connection, who, params, place).await,
        "listSessions" => list_sessions(connection, params).await,
        "createSession" => create::session(connection, who, params).await,
        "disposeSession" => create::dispose_session(connection, who, params).await,
        "createChat" => create::chat(connection, who, params).await,
        "disposeChat" => create::dispose_chat(connection, who, params).await,
        "fetchTurns" => create::fetch_turns(connection, who, params).await,
        "resolveSessionConfig" => create::resolve_config(connection, params),
        "createTerminal" | "disposeTerminal" => {
            terminal::methods::call(connection, who, method, params).await
        }
        _ if automation::methods::serves(method) => {
            automation::methods::call(connection, who, method, params).await
        }
        _ if resource::methods::serves(method) => {
            resource::methods::call(connection, method, params).await
        }
        _ => Err(AhpError::no_method(method)),
    }
}

async fn initialize(
    connection: &Arc<Connection>,
    params: &RawValue,
    place: &mut Option<Slot>,
) -> Answer {
    let params: InitializeParams = read(params)?;
    if connection.who().is_some() {
        let why = "this connection is initialized already";
        return Err(AhpError::invalid_request(why));
    }
    let version = negotiate_protocol_version(&params.protocol_versions)
        .map_err(AhpError::params)?
        .ok_or_else(AhpError::unsupported_version)?
        .to_owned();
    let who = connection
        .introduce(&params.client_id, params.meta.as_ref())
        .await?;
    let mut wanted = Vec::new();
    let channels = params.initial_subscriptions.unwrap_or_default();
    for channel in channels.into_iter().take(CHANNELS) {
        // One that is not there is left out: the others are followed all the same.
        match join(connection, who, &channel, None).await {
            Ok(held) => wanted.push(Wanted::new(channel, held)),
            Err(error) => tracing::debug!(channel, %error, "not followed"),
        }
    }
    let followed = connection.hub().follow(who, wanted).ok_or_else(gone)?;
    *place = Some(followed.place);
    let facts = connection.gateway.facts();
    let result = InitializeResult {
        protocol_version: version,
        server_seq: i64::try_from(followed.seq).unwrap_or(i64::MAX),
        server_info: Some(Implementation {
            name: "hostler".into(),
            version: Some(facts.version.clone()),
            title: Some("Hostler".into()),
        }),
        meta: None,
        snapshots: Vec::new(),
        default_directory: std::env::home_dir().map(|home| uri::of_path(&home)),
        completion_trigger_characters: None,
        terminal_command_prefix: None,
        telemetry: None,
        automations: Some(automation::methods::capabilities()),
    };
    with_raw(&result, "snapshots", &followed.snapshots)
}

/// The client went while it was answered.
fn gone() -> AhpError {
    AhpError::internal("the connection has ended")
}

/// The result with these values as they are in the place of a list.
fn with_raw(result: &impl Serialize, name: &str, list: &[Box<RawValue>]) -> Answer {
    let value =
        serde_json::to_value(result).map_err(|error| AhpError::internal(error.to_string()))?;
    let mut members = std::collections::BTreeMap::new();
    if let serde_json::Value::Object(object) = value {
        for (key, value) in object {
            members.insert(
                key,
                to_raw_value(&value).unwrap_or_else(|_| RawValue::NULL.to_owned()),
            );
        }
    }
    let list = to_raw_value(list).map_err(|error| AhpError::internal(error.to_string()))?;
    members.insert(name.to_owned(), list);
    write(&members)
}

/// Makes a channel ready for a client that wants to follow it.
async fn join(
    connection: &Connection,
    who: &Who,
    channel: &str,
    view: Option<&ahp_types::commands::SubscribeView>,
) -> Result<Option<Held>, AhpError> {
    let hub = connection.hub();
    if !hub.has(channel)
        && uri::terminal_part(channel).is_some()
        && let Some(terminals) = connection.gateway.ahp().terminals()
    {
        terminals.open(channel).await;
    }
    if Automations::is_one(channel) {
        let automations = connection.gateway.ahp().automations();
        automations.open(&connection.gateway, channel).await?;
    }
    let served = hub.channel(channel).ok_or_else(|| missing(channel))?;
    served.join_view(who, view).await
}

async fn subscribe(
    connection: &Arc<Connection>,
    who: &Who,
    params: &RawValue,
    place: &mut Option<Slot>,
) -> Answer {
    let params: SubscribeParams = read(params)?;
    let latency = params.delivery.and_then(|delivery| delivery.max_latency_ms);
    let latency = latency.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
    let latency = Duration::from_millis(latency).min(LATENCY);
    let held = join(connection, who, &params.channel, params.view.as_ref()).await?;
    let wanted = Wanted {
        latency,
        view: params.view,
        ..Wanted::new(params.channel, held)
    };
    let followed = connection.hub().follow(who, vec![wanted]);
    let followed = followed.ok_or_else(gone)?;
    *place = Some(followed.place);
    if let Some(channel) = followed.missing.first() {
        return Err(missing(channel));
    }
    match followed.snapshots.first() {
        Some(snapshot) => write(&json_of("snapshot", snapshot)),
        None => write(&json!({})),
    }
}

async fn list_sessions(connection: &Arc<Connection>, params: &RawValue) -> Answer {
    let params: ListSessionsParams = read(params)?;
    let overseer = connection.gateway.ahp();
    let mut page = list::page(overseer.summaries().await, &params)?;
    let wanted = meta::wants_resources(&params);
    // What changes often is in no summary, of which every change is told, but in what is asked for.
    for summary in &mut page.items {
        let Some(channel) = overseer.session(&summary.resource).await else {
            continue;
        };
        let mut all = vec![channel.session.clone()];
        for chat in summary.chats.iter().flatten().filter(|_| wanted) {
            let chat = overseer.chat(&chat.resource).await;
            let session = chat.map(|chat| chat.conversation.session().clone());
            all.extend(session.filter(|session| session.id() != channel.session.id()));
        }
        let sessions = wanted.then(|| connection.gateway.sessions());
        summary.meta = Some(meta::listed(&all, sessions).await);
    }
    write(&page)
}

fn json_of<'a>(
    name: &'a str,
    value: &'a RawValue,
) -> std::collections::BTreeMap<&'a str, &'a RawValue> {
    std::collections::BTreeMap::from([(name, value)])
}

/// The client no longer follows a channel.
pub(super) async fn unsubscribe(connection: &Connection, who: &Who, params: &RawValue) {
    let Ok(params) = read::<UnsubscribeParams>(params) else {
        return;
    };
    let hub = connection.hub();
    let channel = hub.channel(&params.channel);
    if hub.unfollow(who, &params.channel)
        && let Some(channel) = channel
    {
        channel.left(&who.client).await;
    }
}

async fn reconnect(
    connection: &Arc<Connection>,
    params: &RawValue,
    place: &mut Option<Slot>,
) -> Answer {
    let params: ReconnectParams = read(params)?;
    if params.subscriptions.len() > CHANNELS {
        let why = format!("at most {CHANNELS} subscriptions");
        return Err(AhpError::params(why));
    }
    let who = connection
        .introduce(&params.client_id, params.meta.as_ref())
        .await?;
    let hub = connection.hub();
    hub.supersede(who);
    let last = u64::try_from(params.last_seen_server_seq).unwrap_or(0);
    let mut channels = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for channel in params.subscriptions {
        if seen.insert(channel.clone()) {
            let held = join(connection, who, &channel, None).await.ok();
            channels.push((channel, held));
        }
    }
    let (back, kept) = hub.resume(who, last, channels);
    *place = kept;
    for channel in hub.given_up(&who.client) {
        channel.left(&who.client).await;
    }
    match back {
        Back::Replay(actions, missing) => {
            let result = json!({"type": "replay", "missing": missing});
            with_raw(&result, "actions", &actions)
        }
        Back::Snapshots(snapshots) => {
            with_raw(&json!({"type": "snapshot"}), "snapshots", &snapshots)
        }
    }
}
