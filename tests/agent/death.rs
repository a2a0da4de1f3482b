//! Hosts that are killed with SIGKILL in the middle of a turn, and the next one.
//!
//! The host that dies is this program again, told by its environment to run [`the_host_that_dies`].

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hostler_agent::{EntryKind, Seq, TurnEnd};
use hostler_session::{CloseReason, OnHostExit};

use super::support::*;

/// Streams for ever, and tells each number that a follower has seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the other tests"]
async fn the_host_that_dies() {
    let Ok(dir) = std::env::var("HOSTLER_TEST_HOST") else {
        return;
    };
    let mark = std::env::var("HOSTLER_TEST_MARK").expect("a mark");
    let keep = std::env::var("HOSTLER_TEST_ON_EXIT").is_ok_and(|exit| exit == "keep");
    let what = std::env::var("HOSTLER_TEST_PROMPT").expect("a prompt");
    let host = Host::on(
        Stage::at(Path::new(&dir), &mark, |_| {}),
        spec(&[]),
        options(),
    );
    host.stage.sessions.recover(&[]).await.expect("recovered");
    let mut new = host.conversation();
    // So long it is there at the most, where the test is broken off.
    new.session.policy.keep_for = Duration::from_secs(300);
    new.session.policy.on_host_exit = if keep {
        OnHostExit::Keep
    } else {
        OnHostExit::Kill
    };
    let conversation = host.agents.open(new, by()).await.expect("a conversation");
    let _turn = prompt(&conversation, &what).await;
    let _queued = prompt(&conversation, "stream 3").await;
    let mut follower = conversation.follow(Seq(0));
    let mut out = std::io::stderr().lock();
    writeln!(out, "id {}", conversation.id()).expect("told");
    loop {
        for entry in follower.next(64).await.expect("entries") {
            writeln!(out, "seen {} {}", entry.seq, entry.kind).expect("told");
        }
    }
}

/// What a host had shown when it was killed, so many entries in.
struct Shown {
    id: String,
    last: u64,
    updates: usize,
}

async fn killed(stage: &Stage, keep: bool, what: &str, after: usize) -> Shown {
    let (dir, mark) = (stage.dir.clone(), stage.mark.clone());
    let what = what.to_owned();
    // The ledger is the other's meanwhile.
    tokio::task::spawn_blocking(move || {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args([
                "--exact",
                "death::the_host_that_dies",
                "--ignored",
                "--nocapture",
            ])
            .env("HOSTLER_TEST_HOST", dir)
            .env("HOSTLER_TEST_MARK", mark)
            .env("HOSTLER_TEST_PROMPT", what)
            .env("HOSTLER_TEST_ON_EXIT", if keep { "keep" } else { "kill" })
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a host");
        let mut shown = Shown {
            id: String::new(),
            last: 0,
            updates: 0,
        };
        let mut lines = BufReader::new(child.stderr.take().expect("its output")).lines();
        let mut dead = false;
        while let Some(Ok(line)) = lines.next() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["id", id] => shown.id = (*id).into(),
                ["seen", seq, kind] => {
                    let seq = seq.parse().expect("a number");
                    assert_eq!(seq, shown.last + 1, "shown in order");
                    shown.last = seq;
                    shown.updates += usize::from(*kind == "update");
                    if shown.updates >= after && !dead {
                        dead = true;
                        child.kill().expect("killed");
                    }
                }
                _ => {}
            }
        }
        child.wait().expect("waited");
        assert!(
            dead,
            "the host ended by itself, after {} entries",
            shown.last
        );
        shown
    })
    .await
    .expect("joined")
}

/// A place for hosts, whose own host is gone.
fn place() -> (Stage, tempfile::TempDir, String) {
    let dir = tempfile::Builder::new()
        .prefix("hostler-agent-")
        .tempdir()
        .expect("a directory");
    let mark = format!("mark-agent-{}-{}", std::process::id(), dir.path().display());
    let stage = Stage::at(&dir.path().join("unused"), &mark, |_| {});
    (stage, dir, mark)
}

async fn next(dir: &Path, mark: &str) -> (Host, Vec<hostler_agent::Resumed>) {
    let stage = Stage::at(dir, mark, |_| {});
    stage
        .sessions
        .recover(&stage.earlier)
        .await
        .expect("recovered");
    let host = Host::on(stage, spec(&[]), options());
    let resumed = host.agents.recover().await.expect("recovered");
    (host, resumed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_keep_the_turn_goes_on_and_every_update_is_there_once() {
    for (count, after) in [(20_000, 100), (20_000, 5000)] {
        let (mut stage, dir, mark) = place();
        stage.dir = dir.path().join("state");
        let shown = killed(&stage, true, &format!("stream {count}"), after).await;
        let (host, resumed) = next(&stage.dir, &mark).await;
        assert_eq!(resumed.len(), 1);
        assert!(resumed[0].interrupted.is_empty(), "it goes on");
        let conversation = host.agents.get(&shown.id).expect("it is live");
        let mut follower = conversation.follow(Seq(0));
        let (mut texts, mut last, mut ends) = (Vec::new(), 0, 0);
        while ends < 2 {
            for entry in soon("entries", follower.next(1000)).await.expect("entries") {
                assert_eq!(entry.seq.0, last + 1);
                last = entry.seq.0;
                if entry.kind == EntryKind::Update && entry.turn == Some(1) {
                    texts.push(json(&entry)["update"]["content"]["text"].to_string());
                }
                ends += usize::from(entry.kind == EntryKind::TurnEnded);
            }
        }
        assert!(last > shown.last);
        let expected: Vec<String> = (0..count).map(|index| format!("\"{index}\"")).collect();
        assert_eq!(texts, expected, "none missing, none doubled");
        assert_eq!(said(&conversation, 2).await.len(), 3, "what waited ran");
        assert_eq!(
            stop_reason(&turn(&conversation, "stream 1").await),
            "end_turn"
        );
        host.end(&conversation).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_kill_the_turn_is_interrupted_and_all_that_was_shown_is_there() {
    let (mut stage, dir, mark) = place();
    stage.dir = dir.path().join("state");
    let shown = killed(&stage, false, "slow 100000 1", 50).await;
    let (host, resumed) = next(&stage.dir, &mark).await;
    host.stage.await_none("after the host was killed").await;
    assert_eq!(resumed[0].interrupted, [1, 2]);
    let id = shown.id.parse().expect("an id");
    let all = host
        .agents
        .entries(&id, Seq(0), 1_000_000)
        .await
        .expect("entries");
    assert!(
        all.len() as u64 >= shown.last,
        "{} of {}",
        all.len(),
        shown.last
    );
    for (entry, seq) in all.iter().zip(1..) {
        assert_eq!(entry.seq, Seq(seq));
    }
    let again = host.agents.load(&id, by()).await.expect("loaded");
    let next = prompt(&again, "stream 2").await;
    assert_eq!(next.id, 3, "numbers of turns go on");
    assert_eq!(
        stop_reason(&soon("the end", next.ended()).await),
        "end_turn"
    );
    host.end(&again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_taken_over_loses_no_update() {
    let dir = tempfile::Builder::new()
        .prefix("hostler-agent-")
        .tempdir()
        .expect("a directory");
    let mark = format!("mark-agent-{}-{}", std::process::id(), dir.path().display());
    let host = Host::on(Stage::at(dir.path(), &mark, |_| {}), spec(&[]), options());
    let conversation = host.open().await;
    let id = conversation.id().clone();
    let turn = prompt(&conversation, "slow 300 2").await;
    let mut follower = conversation.follow(Seq(0));
    while follower.after().0 < 50 {
        soon("entries", follower.next(10)).await.expect("entries");
    }
    host.agents.hand_over().await;
    let failed = host.stage.sessions.hand_over(Duration::from_secs(30)).await;
    assert!(failed.is_empty(), "{failed:?}");
    assert!(matches!(
        soon("the end", turn.ended()).await,
        TurnEnd::Interrupted(_)
    ));
    drop((follower, turn, conversation));
    let Host { agents, stage } = host;
    drop(agents);
    drop(stage);
    let (host, _) = next(dir.path(), &mark).await;
    let conversation = host.agents.get(id.as_str()).expect("it is live");
    let mut follower = conversation.follow(Seq(0));
    'all: loop {
        for entry in soon("entries", follower.next(100)).await.expect("entries") {
            if entry.kind == EntryKind::TurnEnded {
                break 'all;
            }
        }
    }
    let expected: Vec<String> = (0..300).map(|index| index.to_string()).collect();
    assert_eq!(said(&conversation, 1).await, expected);
    let report = conversation
        .close(CloseReason::Client, by())
        .await
        .expect("closed");
    assert_eq!(report.remaining, 0);
    host.stage.await_none("after the close").await;
}
