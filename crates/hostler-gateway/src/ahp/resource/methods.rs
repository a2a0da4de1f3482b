//! `resource*` and `createResourceWatch`.

use std::path::PathBuf;
use std::sync::Arc;

use ahp_types::commands::CreateResourceWatchResult;
use hostler_agent::served::files::Roots;
use serde_json::value::RawValue;

use crate::ahp::connection::Connection;
use crate::ahp::error::AhpError;
use crate::ahp::methods::{Answer, read, write};
use crate::ahp::terminal::LABEL;
use crate::gateway::Gateway;

/// Whether this is a method that is answered here.
pub(in crate::ahp) fn serves(method: &str) -> bool {
    method == "createResourceWatch" || method.starts_with("resource")
}

/// The working directories of the open sessions.
pub(in crate::ahp) fn roots(gateway: &Gateway) -> Roots {
    let sessions = gateway.sessions().list();
    let open = sessions.iter().filter(|session| session.state().is_open());
    let infos = open.map(|session| session.info());
    let mut dirs: Vec<PathBuf> = infos
        // That of a terminal is there for its shell, not for files.
        .filter(|info| info.labels.get(LABEL).is_none())
        .filter_map(|info| info.cwd)
        .collect();
    dirs.sort_unstable();
    dirs.dedup();
    Roots::new(dirs)
}

/// Carries one out.
pub(in crate::ahp) async fn call(
    connection: &Connection,
    method: &str,
    params: &RawValue,
) -> Answer {
    let gateway = &connection.gateway;
    let now = roots(gateway);
    match method {
        "resourceRead" => write(&super::read(&now, read(params)?).await?),
        "resourceWrite" => write(&super::write(&now, read(params)?).await?),
        "resourceList" => write(&super::list(&now, read(params)?).await?),
        "resourceCopy" => write(&super::copy(&now, read(params)?).await?),
        "resourceDelete" => write(&super::delete(&now, read(params)?).await?),
        "resourceMove" => write(&super::rename(&now, read(params)?).await?),
        "resourceResolve" => write(&super::resolve(&now, read(params)?).await?),
        "resourceMkdir" => write(&super::mkdir(&now, read(params)?).await?),
        "resourceRequest" => write(&super::request(&now, read(params)?).await?),
        "createResourceWatch" => {
            let watches = gateway.ahp().watches();
            let gateway = gateway.clone();
            let roots_now = Arc::new(move || roots(&gateway));
            let channel = watches.create(roots_now, read(params)?).await?;
            write(&CreateResourceWatchResult { channel })
        }
        _ => Err(AhpError::no_method(method)),
    }
}
