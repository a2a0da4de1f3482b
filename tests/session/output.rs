//! What processes write: head, tail, gap, characters, readers.

use std::time::Duration;

use hostler_session::{CloseReason, ExecOptions, KeepOutput, Pattern, Restart, SessionEvent};

use super::support::*;

fn keeping(options: ExecOptions, head: u64, tail: u64) -> ExecOptions {
    let output = KeepOutput {
        head,
        tail,
        whole: false,
    };
    ExecOptions { output, ..options }
}

#[tokio::test]
async fn head_and_tail_are_kept_and_the_gap_is_told() {
    let stage = Stage::new();
    let session = stage.open().await;
    let options = keeping(shell("seq 1 1000000").background(), 8192, 100_000);
    let process = exec(&session, options).await;
    process.wait().await;
    let output = process.stdout();
    output.ended().await;
    let progress = output.progress();
    assert_eq!(progress.len, 6_888_896);
    assert_eq!(progress.gap_start, 8192);
    assert!(progress.len - progress.gap_end >= 100_000, "{progress:?}");
    assert!(progress.len - progress.gap_end < 500_000, "{progress:?}");
    let head = output.read_text_at(0, 20_000).unwrap();
    assert!(head.text.starts_with("1\n2\n3\n") && head.next == 8192);
    let behind = output.read_text_at(head.next, 100).unwrap();
    assert_eq!(behind.skipped, progress.gap_end - 8192);
    let tail = output.read_text_at(progress.len - 15, 100).unwrap();
    assert_eq!(tail.text, "999999\n1000000\n");
    let path = stage
        .sessions
        .session_dir(session.id())
        .join("out")
        .join(format!("{}.out", process.id()));
    let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path).unwrap());
    assert!(blocks * 512 < 600_000, "{} bytes on the disk", blocks * 512);
    session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_whole_is_kept_if_asked() {
    let stage = Stage::new();
    let session = stage.open().await;
    let mut options = shell("seq 1 1000000").background();
    options.output.whole = true;
    let process = exec(&session, options).await;
    let text = output_of(&process).await;
    assert!(
        text.lines()
            .zip(1..=1_000_000)
            .all(|(line, number)| line.parse() == Ok(number))
    );
    assert_eq!(text.lines().count(), 1_000_000);
    session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_reader_that_is_waited_for_misses_nothing() {
    let stage = Stage::new();
    let session = stage.open().await;
    let options = keeping(shell("seq 1 1000000"), 0, 4096);
    let mut run = session.run(options, by()).await.unwrap();
    let (mut text, mut rounds) = (Vec::new(), 0);
    while let Some(chunk) = run.stdout.next(50_000).await.unwrap() {
        assert_eq!(chunk.skipped, 0);
        text.extend(chunk.bytes);
        rounds += 1;
        if rounds < 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(text.len(), 6_888_896);
    assert!(run.process.wait().await.unwrap().is_success());
    // One that is not read runs on when its reader goes.
    let run = session.run(shell("seq 1 1000000"), by()).await.unwrap();
    drop((run.stdout, run.stderr));
    assert!(run.process.wait().await.unwrap().is_success());
    session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
}

#[tokio::test]
async fn characters_are_never_split() {
    let stage = Stage::new();
    let session = stage.open().await;
    let script = "i=0; while [ $i -lt 400 ]; do printf 'aé€🦀'; i=$((i+1)); done; printf '\\360\\237'; sleep 0.05; printf '\\246\\200'";
    let process = exec(&session, shell(script).background()).await;
    let mut follower = process.stdout().follow(0);
    let (mut text, mut most) = (String::new(), 4);
    while let Some(chunk) = follower.next_text(most).await.unwrap() {
        assert!(
            !chunk.text.contains(char::REPLACEMENT_CHARACTER),
            "{:?}",
            chunk.text
        );
        text += &chunk.text;
        most = most % 7 + 4;
    }
    assert_eq!(text, "aé€🦀".repeat(400) + "🦀");
    session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_wait_ends_with_the_exit_though_others_hold_the_pipe() {
    let stage = Stage::new();
    let session = stage.open().await;
    let go = stage.dir.join("go");
    let script = format!(
        "echo first; (until test -e {}; do sleep 0.01; done; echo late; exec sleep 1000) & exit 3",
        go.display()
    );
    let run = session.run(shell(&script), by()).await.unwrap();
    assert_eq!(run.process.wait().await.unwrap().code, Some(3));
    assert_eq!(output_of(&run.process).await, "first\n");
    let output = run.process.stdout();
    std::fs::write(&go, "").unwrap();
    until("what comes later is read too", || {
        output.progress().len == 11
    })
    .await;
    session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    assert!(stage.living().is_empty());
}

#[tokio::test]
async fn lines_are_watched_for_with_a_rate_limit() {
    let stage = Stage::new();
    let session = stage.open().await;
    let mut events = stage.sessions.events();
    let mut options =
        shell("for i in 1 2 3 4 5 6; do echo \"ready on port 80$i\"; done; echo no").background();
    options.patterns = vec![
        Pattern {
            pattern: r"port (\d+)$".into(),
            regex: true,
            per_minute: 4,
        },
        Pattern {
            pattern: "803".into(),
            regex: false,
            per_minute: 0,
        },
    ];
    let process = exec(&session, options).await;
    process.wait().await;
    let mut matched = Vec::new();
    while matched.len() < 5 {
        if let SessionEvent::Matched { pattern, line, .. } = events.recv().await.unwrap() {
            matched.push((pattern, line));
        }
    }
    assert_eq!(
        matched
            .iter()
            .filter(|(_, line)| line == "ready on port 803")
            .count(),
        2
    );
    let mut bad = shell("true").background();
    bad.patterns = vec![Pattern {
        pattern: "(".into(),
        regex: true,
        per_minute: 0,
    }];
    assert!(session.exec(bad, by()).await.is_err());
    session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_fails_is_started_again_so_often() {
    let stage = Stage::new();
    let session = stage.open().await;
    let mut options = shell("echo run; exit 1").background();
    options.restart = Restart::OnFailure {
        pause: Duration::from_millis(10),
        longest: Duration::from_millis(20),
        most: 3,
    };
    let mut events = stage.sessions.events();
    let process = exec(&session, options.clone()).await;
    assert_eq!(process.wait().await.unwrap().code, Some(1));
    assert_eq!(process.status().starts, 4);
    assert_eq!(output_of(&process).await, "run\n".repeat(4));
    let (mut again, mut ended) = (0, 0);
    until("it is told", || {
        while let Ok(event) = events.try_recv() {
            again += u32::from(matches!(event, SessionEvent::Restarting { .. }));
            ended += u32::from(matches!(event, SessionEvent::Exited { .. }));
        }
        ended == 1
    })
    .await;
    assert_eq!(again, 3);
    // One whose end is asked for is not.
    options.restart = Restart::OnFailure {
        pause: Duration::from_secs(1000),
        longest: Duration::from_secs(1000),
        most: 3,
    };
    let process = exec(&session, options).await;
    let state = process
        .watch()
        .wait_for(|status| status.state == hostler_session::ResourceState::Restarting)
        .await
        .map(|_| ());
    state.unwrap();
    process.end(None, by()).await.unwrap();
    assert_eq!(process.status().starts, 1);
    let report = session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    assert!(report.recorded, "{report:?}");
}

#[tokio::test]
async fn too_many_in_the_background_are_refused() {
    let stage = Stage::new();
    let session = stage
        .open_with(|options| options.policy.limits.background = 2)
        .await;
    for _ in 0..2 {
        exec(&session, shell("sleep 1000").background()).await;
    }
    let third = session.exec(shell("sleep 1000").background(), by()).await;
    assert!(matches!(
        third,
        Err(hostler_session::Error::Limit { limit: 2, .. })
    ));
    assert!(
        exec(&session, shell("true"))
            .await
            .wait()
            .await
            .unwrap()
            .is_success()
    );
    session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
}
