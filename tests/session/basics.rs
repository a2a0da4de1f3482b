//! Opening, running, closing.

use std::time::Duration;

use hostler_ledger::SessionFilter;
use hostler_session::{CloseReason, Error, Outcome, SessionState};

use super::support::*;

#[tokio::test]
async fn a_command_runs_and_its_output_and_exit_are_told() {
    let stage = Stage::new();
    let session = stage.open().await;
    assert_eq!(session.state(), SessionState::Active);
    let run = session
        .run(shell("echo out; echo err >&2; exit 7"), by())
        .await
        .unwrap();
    let exit = run.process.wait().await.unwrap();
    assert_eq!(exit.code, Some(7));
    assert_eq!(output_of(&run.process).await, "out\n");
    let err = run.process.stderr().unwrap();
    assert_eq!(err.read_text_at(0, 100).unwrap().text, "err\n");
    let both = exec(&session, shell("echo a; echo b >&2; echo c").background()).await;
    assert_eq!(output_of(&both).await, "a\nb\nc\n");
    let report = session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    assert_eq!(
        (report.remaining, report.proven, report.recorded),
        (0, true, true)
    );
    assert_eq!(report.released.len(), 2);
    assert_eq!(
        report.released[0].outcome,
        Outcome::Exited {
            code: Some(7),
            signal: None
        }
    );
    assert_eq!(session.state(), SessionState::Closed);
    assert!(matches!(
        session.exec(shell("true"), by()).await,
        Err(Error::Closed(_))
    ));
    assert!(stage.sessions.get(session.id().as_str()).is_err());
    assert!(!stage.sessions.session_dir(session.id()).exists());
    let ledger = stage.sessions.ledger();
    assert!(
        ledger
            .sessions(&SessionFilter::default())
            .unwrap()
            .is_empty()
    );
    let again = session.close(CloseReason::Idle, by(), None).await.unwrap();
    assert_eq!(again, report);
    until("its keeper is gone", || stage.keepers().is_empty()).await;
}

#[tokio::test]
async fn a_close_ends_what_ignores_sigterm_and_what_detached_itself() {
    let stage = Stage::new();
    let session = stage.open().await;
    let script = "trap '' TERM; setsid sh -c 'sleep 1000 & exec sleep 1001' & echo up; while :; do sleep 1; done";
    let process = exec(&session, shell(script).background()).await;
    let mut follower = process.stdout().follow(0);
    assert_eq!(follower.next_text(100).await.unwrap().unwrap().text, "up\n");
    until("all are up", || stage.living().len() >= 4).await;
    let began = std::time::Instant::now();
    let report = session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    assert!(stage.living().is_empty(), "{:?}", stage.living());
    assert_eq!(report.remaining, 0);
    assert!(report.processes.len() >= 4, "{report:?}");
    assert_eq!(report.released[0].outcome, Outcome::Killed);
    assert!(
        began.elapsed() < GRACE + Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn input_is_written_and_closed() {
    let stage = Stage::new();
    let session = stage.open().await;
    let cat = exec(&session, shell("cat; echo done").background().with_stdin()).await;
    cat.write(b"one\n").await.unwrap();
    let big = vec![b'x'; 300_000];
    cat.write(&big).await.unwrap();
    cat.close_input().await.unwrap();
    let output = output_of(&cat).await;
    assert!(output.starts_with("one\nxxx") && output.ends_with("xdone\n"));
    assert_eq!(output.len(), 4 + 300_000 + 5);
    assert!(matches!(cat.write(b"x").await, Err(Error::NoInput(_))));
    session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_terminal_has_a_size_viewers_and_a_shell_that_goes_with_it() {
    let stage = Stage::new();
    let session = stage.open().await;
    let size = hostler_session::TerminalSize { rows: 30, cols: 90 };
    let shell = exec(
        &session,
        hostler_session::ExecOptions::new(["bash", "--norc", "-i"]).on_terminal(size),
    )
    .await;
    shell.write(b"stty size; echo mar''ker\n").await.unwrap();
    let mut viewers = [shell.view(size).unwrap(), shell.stdout().follow(0)];
    for viewer in &mut viewers {
        let mut seen = String::new();
        while !seen.contains("marker\r\n") {
            seen += &viewer.next_text(1000).await.unwrap().unwrap().text;
        }
        assert!(seen.contains("30 90"), "{seen}");
    }
    shell
        .resize(hostler_session::TerminalSize { rows: 20, cols: 40 })
        .unwrap();
    assert_eq!(shell.size().unwrap().cols, 40);
    let began = std::time::Instant::now();
    let report = session
        .close(CloseReason::Client, by(), Some(Duration::from_secs(20)))
        .await
        .unwrap();
    // It ignores SIGTERM, and goes with its terminal.
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(report.released[0].outcome, Outcome::Terminated);
}

#[tokio::test]
async fn a_command_that_cannot_be_run_leaves_nothing() {
    let stage = Stage::new();
    let session = stage.open().await;
    for argv in [vec!["no-such-program"], vec!["/"], vec![]] {
        let error = session
            .exec(hostler_session::ExecOptions::new(argv), by())
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::Process(_) | Error::Invalid(_)),
            "{error}"
        );
    }
    assert!(session.resources().await.unwrap().is_empty());
    let report = session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    assert!(report.recorded && report.released.is_empty(), "{report:?}");
}
