//! What came of a process, and which ports it listens on.

use std::net::IpAddr;

use hostler_process::{ProcessId, ProcessInfo, lineage, sockets};

use crate::error::{Error, Result};
use crate::process::ProcessHandle;

/// The variable that says which process of a session something came of. Also there for people; nobody is owned by it.
pub(crate) const MARK: &str = "HOSTLER_PROCESS";

/// A living process that came of one of a session's.
#[derive(Debug, Clone)]
pub struct Member {
    /// Which, as the kernel sees it.
    pub info: ProcessInfo,
    /// Where it listens for TCP connections.
    pub listens: Vec<Listening>,
}

/// A TCP socket that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listening {
    /// At which address; unspecified for all.
    pub ip: IpAddr,
    /// On which port.
    pub port: u16,
}

impl ProcessHandle {
    /// The living processes that came of it, itself with them; also those that it has orphaned, before and after its own end, as
    /// far as their process group, their session or their environment still tells.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// [`Error::Process`] for a lost tree.
    pub async fn members(&self) -> Result<Vec<Member>> {
        let status = self.status();
        let (Some(pid), Some(start_time)) = (status.pid, status.start_time) else {
            return Ok(Vec::new());
        };
        let origin = ProcessId { pid, start_time };
        let census = self.shared.tree.get()?.census().await?;
        let id = self.id().to_string();
        let look = move || {
            lineage::came_of(&census, origin, (MARK, &id))
                .into_iter()
                .map(|info| Member {
                    listens: listening(info.id.pid),
                    info,
                })
                .collect()
        };
        tokio::task::spawn_blocking(look)
            .await
            .map_err(|error| Error::Invalid(format!("looking at its processes failed: {error}")))
    }
}

/// Where a process listens; nothing where it may not be looked at.
fn listening(pid: u32) -> Vec<Listening> {
    let held = sockets::held(pid);
    if held.is_empty() {
        return Vec::new();
    }
    let mut found: Vec<Listening> = sockets::tcp(pid)
        .into_iter()
        .filter(|socket| socket.listens && held.contains(&socket.inode))
        .map(|socket| Listening {
            ip: socket.local.ip,
            port: socket.local.port,
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}
