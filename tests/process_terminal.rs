//! Terminals: size, foreground, typing, hang-up.

#[path = "support/async_tree.rs"]
#[allow(dead_code)]
mod support;

use std::time::Duration;

use hostler_process::{ExitStatus, Size, Terminal};
use support::{Stage, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Reads until the terminal has shown this.
async fn shows(terminal: &mut Terminal, what: &str) -> String {
    let mut seen = String::new();
    let mut bytes = [0; 1024];
    while !seen.contains(what) {
        let read = timeout(Duration::from_secs(20), terminal.read(&mut bytes)).await;
        let count = read
            .unwrap_or_else(|_| panic!("no {what:?} in {seen:?}"))
            .unwrap();
        assert!(count > 0, "ended, without {what:?} in {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    seen
}

#[tokio::test]
async fn size_and_its_change_are_seen() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let mut terminal = Terminal::new(Size {
        rows: 33,
        cols: 111,
    })
    .unwrap();
    assert_eq!(terminal.foreground().unwrap(), None);
    let script = "trap 'stty size' WINCH; stty size; tty; echo ready; while :; do sleep 0.05; done";
    let command = stage.shell(script).terminal(&terminal).unwrap();
    let process = tree.spawn(command).await.unwrap();
    let seen = shows(&mut terminal, "ready").await;
    assert!(
        seen.contains("33 111") && seen.contains("/dev/pts/"),
        "{seen}"
    );
    let group = terminal
        .foreground()
        .unwrap()
        .map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    assert_eq!(group, Some(process.pid()));
    terminal.resize(Size { rows: 20, cols: 40 }).unwrap();
    shows(&mut terminal, "20 40").await;
    assert_eq!(terminal.size().unwrap(), Size { rows: 20, cols: 40 });
}

#[tokio::test]
async fn what_is_typed_is_read_and_ctrl_c_interrupts() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let mut terminal = Terminal::new(Size::default()).unwrap();
    let process = tree
        .spawn(stage.command("cat").terminal(&terminal).unwrap())
        .await
        .unwrap();
    terminal.write_all(b"hello\n").await.unwrap();
    // The echo, and cat's own.
    shows(&mut terminal, "hello\r\nhello\r\n").await;
    terminal.write_all(b"\x03").await.unwrap();
    assert_eq!(
        process.wait().await.status,
        ExitStatus::Signal {
            signal: libc::SIGINT,
            core: false
        }
    );
    let mut rest = Vec::new();
    terminal.read_to_end(&mut rest).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&rest), "^C", "the end is no error");
}

#[tokio::test]
async fn a_hang_up_reaches_leader_and_reader() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    for by_drop in [true, false] {
        let mut terminal = Terminal::new(Size::default()).unwrap();
        let process = tree
            .spawn(
                stage
                    .shell("echo up; sleep 1000")
                    .terminal(&terminal)
                    .unwrap(),
            )
            .await
            .unwrap();
        shows(&mut terminal, "up").await;
        if by_drop {
            drop(terminal);
        } else {
            let mut reader = terminal.clone();
            let reading = tokio::spawn(async move { reader.read(&mut [0; 10]).await.unwrap() });
            tokio::task::yield_now().await;
            terminal.hang_up();
            assert_eq!(
                timeout(Duration::from_secs(20), reading)
                    .await
                    .unwrap()
                    .unwrap(),
                0
            );
            assert!(
                terminal.write(b"x").await.is_err()
                    && terminal.size().is_err()
                    && terminal.foreground().is_err()
            );
            assert!(stage.command("true").terminal(&terminal).is_err());
        }
        assert_eq!(
            process.wait().await.status,
            ExitStatus::Signal {
                signal: libc::SIGHUP,
                core: false
            }
        );
    }
    stage.await_none("hung up").await;
}

#[tokio::test]
async fn a_terminal_is_kept_by_its_keeper() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let terminal = Terminal::new(Size { rows: 7, cols: 70 }).unwrap();
    let process = tree
        .spawn(stage.command("cat").terminal(&terminal).unwrap())
        .await
        .unwrap();
    tree.store(b"terminal", terminal.master().unwrap())
        .await
        .unwrap();
    drop(terminal);
    let mut terminal = Terminal::from_master(tree.fetch(b"terminal").await.unwrap()).unwrap();
    terminal.write_all(b"still here\n").await.unwrap();
    shows(&mut terminal, "still here\r\nstill here").await;
    assert_eq!(terminal.size().unwrap(), Size { rows: 7, cols: 70 });
    assert_eq!(process.exit(), None);
    drop(terminal);
    tree.discard(b"terminal").await.unwrap();
    assert_eq!(
        process.wait().await.status,
        ExitStatus::Signal {
            signal: libc::SIGHUP,
            core: false
        }
    );
}

#[tokio::test]
async fn a_spawn_that_fails_ends_its_terminal() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let mut terminal = Terminal::new(Size::default()).unwrap();
    tree.spawn(
        stage
            .command("no-such-program")
            .terminal(&terminal)
            .unwrap(),
    )
    .await
    .unwrap_err();
    assert_eq!(terminal.read(&mut [0; 10]).await.unwrap(), 0);
    // It can be used again.
    let process = tree
        .spawn(stage.command("true").terminal(&terminal).unwrap())
        .await
        .unwrap();
    assert_eq!(process.wait().await.status, ExitStatus::Code(0));
    until("nothing of it is left", || stage.living().is_empty()).await;
}
