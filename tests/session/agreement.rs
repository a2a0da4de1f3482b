//! Whether kernel, ledger and host say the same.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hostler_ledger::{EventFilter, ResourceFilter, Seq, SessionFilter, SessionRecord};
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
            "{what}: {why}\n{}",
            history(stage)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All that the ledger has, for who looks for what went wrong.
fn history(stage: &Stage) -> String {
    let ledger = stage.sessions.ledger();
    let all = ledger.events(Seq::default(), 10_000, &EventFilter::default());
    let lines = all.unwrap().into_iter().map(|event| {
        let ids = [
            event.session.map(String::from),
            event.resource.map(String::from),
        ];
        let ids = ids.into_iter().flatten().collect::<Vec<_>>().join(" ");
        format!(
            "{} {} {ids} {}: {}\n",
            event.at, event.kind, event.who, event.why
        )
    });
    lines.collect()
}

/// Every living process, by the keepers' word.
async fn counted(sessions: &[Session]) -> hostler_session::Result<BTreeSet<u32>> {
    let mut pids = BTreeSet::new();
    for session in sessions {
        let census = session.census().await?;
        let living = census
            .iter()
            .filter(|info| !matches!(info.state, b'Z' | b'X'));
        pids.extend(living.map(|info| info.id.pid));
    }
    Ok(pids)
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
    let before = living_of_mark(stage);
    let mut running = BTreeSet::new();
    for session in &list {
        let Ok(resources) = session.resources().await else {
            return Some(format!("session {} is on its way out", session.id()));
        };
        for resource in resources {
            if resource.state == ResourceState::Running {
                running.insert(resource.id.to_string());
            }
        }
    }
    let Ok(census) = counted(&list).await else {
        return Some("a session is on its way out".to_owned());
    };
    let recorded: BTreeSet<String> = ledger
        .resources(&ResourceFilter::default())
        .unwrap()
        .into_iter()
        .map(|row| row.id.to_string())
        .collect();
    if recorded != running {
        return Some(format!("resources: ledger {recorded:?}, host {running:?}"));
    }
    let after = living_of_mark(stage);
    let Ok(later) = counted(&list).await else {
        return Some("a session is on its way out".to_owned());
    };
    // A shell that loops has a `sleep` that comes and goes, so only those count which are there at both looks.
    let unknown: Vec<_> = before.intersection(&after).collect();
    let unknown: Vec<_> = unknown.iter().filter(|pid| !census.contains(pid)).collect();
    let strange: Vec<_> = census.intersection(&later).collect();
    let strange: Vec<_> = strange
        .iter()
        .filter(|pid| !before.contains(pid) && !after.contains(pid))
        .collect();
    if !unknown.is_empty() || !strange.is_empty() {
        return Some(format!(
            "processes: {unknown:?} unknown to keepers, {strange:?} to the kernel: {:?}",
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
