//! Whether kernel, ledger and host say the same.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hostler_ledger::{ResourceFilter, SessionFilter, SessionRecord};
use hostler_session::{ResourceState, Session};

use super::support::*;

fn living_of_mark(stage: &Stage) -> BTreeSet<u32> {
    stage
        .living()
        .iter()
        .map(|found| found.pid.cast_unsigned())
        .collect()
}

/// Every process that carries the mark is one that a session owns, and the other way round.
pub(crate) async fn agree(stage: &Stage, what: &str) {
    let start = Instant::now();
    loop {
        let why = disagreement(stage).await;
        let Some(why) = why else { return };
        assert!(
            start.elapsed() < Duration::from_secs(4) * slack(),
            "{what}: {why}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn disagreement(stage: &Stage) -> Option<String> {
    let ledger = stage.sessions.ledger();
    let rows = ledger.sessions(&SessionFilter::default()).unwrap();
    let open: BTreeSet<String> = rows.iter().map(|row| row.id.to_string()).collect();
    let list: Vec<Session> = stage.sessions.list();
    let known: BTreeSet<String> = list
        .iter()
        .map(|session| session.id().to_string())
        .collect();
    if open != known {
        return Some(format!("sessions: ledger {open:?}, host {known:?}"));
    }
    let mut running = BTreeSet::new();
    let mut census = BTreeSet::new();
    for session in &list {
        let (Ok(resources), Ok(processes)) = (session.resources().await, session.census().await)
        else {
            return Some(format!("session {} is on its way out", session.id()));
        };
        for resource in resources {
            if resource.state == ResourceState::Running {
                running.insert(resource.id.to_string());
            }
        }
        for info in processes {
            if !matches!(info.state, b'Z' | b'X') {
                census.insert(info.id.pid);
            }
        }
    }
    let recorded: BTreeSet<String> = ledger
        .resources(&ResourceFilter::default())
        .unwrap()
        .into_iter()
        .map(|row| row.id.to_string())
        .collect();
    if recorded != running {
        return Some(format!("resources: ledger {recorded:?}, host {running:?}"));
    }
    let living = living_of_mark(stage);
    // A shell that loops has a `sleep` that comes and goes.
    if living != census {
        return Some(format!(
            "processes: kernel {:?}, keepers {census:?}",
            stage.living()
        ));
    }
    let dirs: BTreeSet<PathBuf> = std::fs::read_dir(stage.dir.join("sessions"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let owned: BTreeSet<PathBuf> = rows.iter().flat_map(directories).collect();
    if dirs != owned {
        return Some(format!("directories: there are {dirs:?}, owned {owned:?}"));
    }
    None
}

/// The directories of a session, by the ledger: its own, and those that came with what it keeps.
fn directories(row: &SessionRecord) -> Vec<PathBuf> {
    let more = row.detail["more_dirs"].as_array().into_iter().flatten();
    more.chain([&row.detail["dir"]])
        .filter_map(|dir| dir.as_str().map(PathBuf::from))
        .collect()
}
