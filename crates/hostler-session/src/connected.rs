//! Who else is connected to what a closing session ends: a daemon that listens may serve other sessions too.
//!
//! By the kernel's tables: both ends of a connection are found by their inodes. Of what listens on a Unix socket only accepted
//! connections count. It is a remark in the report and holds nothing up: what is not found in [`WITHIN`] is left out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hostler_ledger::SessionId;
use hostler_process::sockets::{self, Tcp, Unix};
use tokio::time::{Instant, timeout};

use crate::closing::{Ownership, Plan};
use crate::process::lock;
use crate::report::{Connected, Listener};
use crate::sessions::Host;

/// How long it may take.
const WITHIN: Duration = Duration::from_millis(100);
/// How many are reported.
const MOST: usize = 64;

/// Looks, when there is another session that could be told.
pub(crate) async fn connected(plan: &Plan) -> Vec<Connected> {
    let Some(tree) = &plan.tree else {
        return Vec::new();
    };
    let keepers = other_keepers(&plan.host, &plan.id);
    // What is kept goes on: nobody is cut off from it.
    if keepers.is_empty() || !matches!(plan.ownership, Ownership::Whole) {
        return Vec::new();
    }
    let deadline = Instant::now() + WITHIN;
    let look = async {
        let census = tree.census().await.ok()?;
        let own: HashMap<u32, String> = census
            .iter()
            .map(|info| (info.id.pid, info.command.to_string()))
            .collect();
        let task = tokio::task::spawn_blocking(move || look(&own, &keepers, deadline));
        task.await.ok()
    };
    // The blocking part keeps the deadline itself, and gives what it has found by then.
    let found = timeout(WITHIN + WITHIN / 2, look).await;
    found.ok().flatten().unwrap_or_default()
}

/// The keepers of the other sessions. None while the host stops, when everything ends.
fn other_keepers(host: &Arc<Host>, id: &SessionId) -> HashMap<u32, SessionId> {
    if host.stopping.load(std::sync::atomic::Ordering::SeqCst) {
        return HashMap::new();
    }
    let registry = lock(&host.registry);
    let others = registry
        .sessions
        .values()
        .filter(|session| session.id() != id);
    others
        .filter_map(|session| {
            let tree = session.fixed.status.borrow().tree.clone()?.get().ok()?;
            Some((tree.keeper().pid, session.id().clone()))
        })
        .collect()
}

fn look(
    own: &HashMap<u32, String>,
    keepers: &HashMap<u32, SessionId>,
    deadline: Instant,
) -> Vec<Connected> {
    let mut holders: HashMap<u64, u32> = HashMap::new();
    for &pid in own.keys() {
        holders.extend(sockets::held(pid).into_iter().map(|inode| (inode, pid)));
    }
    let Some(&first) = holders.values().next() else {
        return Vec::new();
    };
    let mut far = unix_peers(&holders, &sockets::unix().unwrap_or_default());
    far.extend(tcp_peers(&holders, &sockets::tcp(first)));
    far.retain(|inode, _| !holders.contains_key(inode));
    if far.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let host = std::process::id();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| *pid != host && !own.contains_key(pid)) {
        if found.len() >= MOST || Instant::now() >= deadline {
            break;
        }
        let listeners: HashSet<u32> = sockets::held(pid)
            .iter()
            .filter_map(|inode| far.get(inode).copied())
            .collect();
        for listener in listeners {
            found.push(Connected {
                pid,
                command: crate::identity::command(pid).unwrap_or_default(),
                session: session_of(pid, keepers),
                to: Listener {
                    pid: listener,
                    command: own.get(&listener).cloned().unwrap_or_default(),
                },
            });
        }
    }
    found
}

/// The far ends of accepted connections, with who holds this one, where anything of the session listens.
fn unix_peers(holders: &HashMap<u64, u32>, all: &HashMap<u64, Unix>) -> HashMap<u64, u32> {
    let held = || {
        holders
            .iter()
            .filter_map(|(inode, pid)| Some((all.get(inode)?, *pid)))
    };
    if !held().any(|(socket, _)| socket.listens) {
        return HashMap::new();
    }
    held()
        .filter(|(socket, _)| socket.named && !socket.listens)
        .filter_map(|(socket, pid)| Some((socket.peer.filter(|peer| *peer != 0)?, pid)))
        .collect()
}

/// The same for TCP within this machine; those that wait to be accepted count too.
fn tcp_peers(holders: &HashMap<u64, u32>, all: &[Tcp]) -> HashMap<u64, u32> {
    let listening: HashMap<u16, u32> = all
        .iter()
        .filter(|socket| socket.listens)
        .filter_map(|socket| Some((socket.local.port, *holders.get(&socket.inode)?)))
        .collect();
    if listening.is_empty() {
        return HashMap::new();
    }
    let ends: HashMap<_, _> = all
        .iter()
        .filter(|socket| socket.established && listening.contains_key(&socket.local.port))
        .map(|socket| ((socket.local, socket.remote), socket))
        .collect();
    all.iter()
        .filter(|socket| socket.established)
        .filter_map(|client| {
            let server = ends.get(&(client.remote, client.local))?;
            let listener = listening.get(&server.local.port)?;
            let pid = holders.get(&server.inode).unwrap_or(listener);
            Some((client.inode, *pid))
        })
        .collect()
}

/// The session whose keeper is above the process.
fn session_of(pid: u32, keepers: &HashMap<u32, SessionId>) -> Option<SessionId> {
    let mut at = pid;
    // Bounded: pids may be reused meanwhile.
    for _ in 0..64 {
        at = crate::identity::parent(at).filter(|parent| *parent > 1)?;
        if let Some(session) = keepers.get(&at) {
            return Some(session.clone());
        }
    }
    None
}
