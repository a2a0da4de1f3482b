//! One host takes over from another: nothing ends, and every line comes once and in order.

use std::time::Duration;

use hostler_session::{
    CloseReason, Error, OnHostExit, ProcessHandle, ResourceId, SessionEvent, TerminalSize,
};

use super::support::*;

const LINES: &str = "n=0; while :; do n=$((n+1)); echo $n; [ $((n % 20)) = 0 ] && sleep 0.02; done";

fn all_text(handle: &ProcessHandle) -> String {
    let output = handle.stdout();
    let len = output.progress().len;
    let chunk = output.read_at(0, len as usize).unwrap();
    assert_eq!(chunk.skipped, 0);
    String::from_utf8(chunk.bytes).unwrap()
}

/// The last of the numbers, each of which came once and in order.
fn last_number(text: &str) -> u64 {
    let whole = &text[..text.rfind('\n').unwrap_or(0)];
    let mut last = 0;
    for line in whole.lines() {
        let number: u64 = line
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("after {last}: {line:?}"));
        assert_eq!(number, last + 1);
        last = number;
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_takeovers_under_load_lose_and_double_nothing() {
    const SESSIONS: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let mark = format!("mark-takeover-{}", std::process::id());
    let mut stage = Stage::at(dir.path(), &mark, |_| {});
    let mut ids: Vec<ResourceId> = Vec::new();
    for number in 0..SESSIONS {
        let session = stage
            .open_with(|options| {
                options.name = Some(format!("load-{number}"));
                if number % 2 == 0 {
                    options.policy.on_host_exit = OnHostExit::Keep;
                }
            })
            .await;
        let mut piped = shell(LINES).background();
        piped.output.whole = true;
        ids.push(exec(&session, piped).await.id().clone());
        let mut typed = shell(LINES).on_terminal(TerminalSize::default());
        typed.output.whole = true;
        ids.push(exec(&session, typed).await.id().clone());
    }
    for round in 0..10 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let began = std::time::Instant::now();
        let failed = stage.sessions.hand_over(Duration::from_secs(30)).await;
        assert!(failed.is_empty(), "{failed:?}");
        let handed = began.elapsed();
        stage.sessions.ledger().clone().close().unwrap();
        let next = Stage::at(dir.path(), &mark, |_| {});
        let recovery = next.sessions.recover(&next.earlier).await.unwrap();
        assert_eq!(recovery.adopted.len(), SESSIONS, "{recovery:?}");
        println!(
            "takeover {round}: handed over in {handed:?}, adopted in {:?}",
            recovery.took
        );
        stage = next;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let handles: Vec<ProcessHandle> = ids
        .iter()
        .map(|id| stage.sessions.process(id.as_str()).unwrap())
        .collect();
    for handle in &handles {
        let before = handle.stdout().progress().len;
        until("it goes on", || handle.stdout().progress().len > before).await;
        handle.signal(hostler_session::Signal::STOP).await.unwrap();
    }
    for handle in &handles {
        let last = last_number(&all_text(handle));
        assert!(last > 100, "{last}");
    }
    let reports = stage
        .sessions
        .close_all(CloseReason::Shutdown, by(), None, Duration::from_secs(20))
        .await;
    assert!(reports.len() == SESSIONS && reports.iter().all(|report| report.is_clean()));
    assert!(stage.living().is_empty());
}

#[tokio::test]
async fn a_handed_over_session_is_the_next_hosts() {
    let dir = tempfile::tempdir().unwrap();
    let mark = format!("mark-handed-{}", std::process::id());
    let stage = Stage::at(dir.path(), &mark, |_| {});
    let session = stage.open().await;
    let process = exec(&session, shell("cat").background().with_stdin()).await;
    assert!(
        stage
            .sessions
            .hand_over(Duration::from_secs(30))
            .await
            .is_empty()
    );
    assert!(matches!(
        session.exec(shell("true"), by()).await,
        Err(Error::Stopping)
    ));
    assert!(matches!(
        session.close(CloseReason::Client, by(), None).await,
        Err(Error::Stopping)
    ));
    assert!(matches!(
        stage.sessions.open(options(), by()).await,
        Err(Error::Stopping)
    ));
    stage.sessions.ledger().clone().close().unwrap();
    let id = process.id().to_string();
    drop((process, session, stage));
    let next = Stage::at(dir.path(), &mark, |_| {});
    next.sessions.recover(&next.earlier).await.unwrap();
    let process = next.sessions.process(&id).unwrap();
    process.write(b"hello\n").await.unwrap();
    process.close_input().await.unwrap();
    assert_eq!(output_of(&process).await, "hello\n");
    for session in next.sessions.list() {
        assert!(
            session
                .close(CloseReason::Client, by(), None)
                .await
                .unwrap()
                .recorded
        );
    }
}

#[tokio::test]
async fn what_is_kept_is_handed_over_with_the_session_it_is_from() {
    let dir = tempfile::tempdir().unwrap();
    let mark = format!("mark-both-{}", std::process::id());
    let stage = Stage::at(dir.path(), &mark, |_| {});
    let session = stage.open().await;
    let server = exec(
        &session,
        shell("while :; do echo up; sleep 0.01; done").background(),
    )
    .await;
    exec(&session, shell("sleep 1000").background()).await;
    let policy = hostler_session::Policy {
        grace: GRACE,
        ..Default::default()
    };
    session
        .keep(&stage.sessions, server.id(), "server", policy, by())
        .await
        .unwrap();
    let (first, id) = (session.id().to_string(), server.id().to_string());
    let failed = stage.sessions.hand_over(Duration::from_secs(30)).await;
    assert!(failed.is_empty(), "{failed:?}");
    stage.sessions.ledger().clone().close().unwrap();
    drop((session, server, stage));
    let next = Stage::at(dir.path(), &mark, |_| {});
    let recovery = next.sessions.recover(&next.earlier).await.unwrap();
    assert_eq!(recovery.adopted.len(), 2, "{recovery:?}");
    let server = next.sessions.process(&id).unwrap();
    let session = next.sessions.get(&first).unwrap();
    let report = session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    assert!(report.is_clean() && report.recorded, "{report:?}");
    assert_eq!(report.kept.len(), 1);
    let lines = server.stdout().progress().len;
    until("it goes on", || server.stdout().progress().len > lines).await;
    let kept = next.sessions.get("server").unwrap();
    let report = kept.close(CloseReason::Client, by(), None).await.unwrap();
    assert!(report.is_clean() && report.recorded, "{report:?}");
    assert!(next.living().is_empty());
    assert_eq!(
        std::fs::read_dir(dir.path().join("sessions"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn lines_are_watched_for_over_hosts_each_once() {
    let dir = tempfile::tempdir().unwrap();
    let mark = format!("mark-watch-{}", std::process::id());
    let stage = Stage::at(dir.path(), &mark, |_| {});
    let session = stage.open().await;
    let mut options = shell("cat").background().with_stdin();
    options.patterns = vec![hostler_session::Pattern {
        pattern: "port".into(),
        regex: false,
        per_minute: 0,
    }];
    let process = exec(&session, options).await;
    let id = process.id().to_string();
    let mut events = stage.sessions.events();
    process.write(b"port 1\npor").await.unwrap();
    let matched = async |events: &mut tokio::sync::broadcast::Receiver<SessionEvent>| loop {
        if let SessionEvent::Matched { line, .. } = events.recv().await.unwrap() {
            return line;
        }
    };
    assert_eq!(matched(&mut events).await, "port 1");
    process.write(b"t 2").await.unwrap();
    until("all is there", || process.stdout().progress().len == 13).await;
    let failed = stage.sessions.hand_over(Duration::from_secs(30)).await;
    assert!(failed.is_empty(), "{failed:?}");
    stage.sessions.ledger().clone().close().unwrap();
    drop((process, session));
    let next = Stage::at(dir.path(), &mark, |_| {});
    let mut events_after = next.sessions.events();
    next.sessions.recover(&next.earlier).await.unwrap();
    let process = next.sessions.process(&id).unwrap();
    process.write(b"2\nport 3\n").await.unwrap();
    let long = Duration::from_secs(4) * slack();
    for line in ["port 22", "port 3"] {
        let found = tokio::time::timeout(long, matched(&mut events_after)).await;
        assert_eq!(found.expect("in time"), line);
    }
    // The first host told of nothing more.
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, SessionEvent::Matched { .. }), "{event:?}");
    }
    for session in next.sessions.list() {
        let report = session.close(CloseReason::Client, by(), None).await;
        assert!(report.unwrap().is_clean());
    }
}

#[tokio::test]
async fn one_whose_keeper_is_asked_meanwhile_is_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let mark = format!("mark-asked-{}", std::process::id());
    let stage = Stage::at(dir.path(), &mark, |_| {});
    let session = stage.open().await;
    let process = exec(&session, shell("sleep 1000").background()).await;
    let keeper = i32::try_from(session.info().keeper.unwrap()).unwrap();
    let keeper = rustix::process::Pid::from_raw(keeper).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::STOP).unwrap();
    let asking = {
        let session = session.clone();
        tokio::spawn(async move { session.census().await })
    };
    let sessions = stage.sessions.clone();
    let mut handing =
        tokio::spawn(async move { sessions.hand_over(Duration::from_secs(30)).await });
    // Longer than whoever asks is waited for.
    let early = tokio::time::timeout(Duration::from_secs(3), &mut handing).await;
    assert!(early.is_err(), "{early:?}");
    rustix::process::kill_process(keeper, rustix::process::Signal::CONT).unwrap();
    let failed = handing.await.unwrap();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(asking.await.unwrap().is_ok());
    stage.sessions.ledger().clone().close().unwrap();
    let (session, process) = (session.id().to_string(), process.id().to_string());
    let next = Stage::at(dir.path(), &mark, |_| {});
    next.sessions.recover(&next.earlier).await.unwrap();
    assert!(
        next.sessions
            .process(&process)
            .unwrap()
            .status()
            .exit
            .is_none()
    );
    let session = next.sessions.get(&session).unwrap();
    let report = session.close(CloseReason::Client, by(), None).await;
    assert!(report.unwrap().is_clean() && next.living().is_empty());
}
