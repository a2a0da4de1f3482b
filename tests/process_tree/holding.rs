//! What a tree holds: its census, events, detached processes and stored descriptors.

use std::io::Write;

use hostler_process::{ExitStatus, How, Signal, Stdio, Step, Target, TreeEvent};
use tokio::io::AsyncReadExt;

use crate::GRACE;
use crate::support::{Stage, until};

#[tokio::test]
async fn the_census_and_signals_know_their_targets() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let mut process = tree
        .spawn(
            stage
                .shell("sleep 1000 & echo; wait; exit 3")
                .stdout(Stdio::Piped),
        )
        .await
        .unwrap();
    process.take_stdout().unwrap().read_u8().await.unwrap();
    let census = loop {
        let census = tree.census().await.unwrap();
        assert_eq!(census.len(), 2, "{census:?}");
        // It is a shell still until it has executed.
        if census[1].command.as_bytes() == b"sleep" {
            break census;
        }
    };
    assert_eq!(
        (census[0].id, census[0].key, census[0].parent),
        (process.id(), Some(process.key()), tree.keeper().pid)
    );
    let sleep = census[1];
    assert_eq!(
        (sleep.parent, sleep.command.to_string().as_str(), sleep.key),
        (process.pid(), "sleep", None)
    );
    assert!(b"SRD".contains(&sleep.state), "{sleep:?}");

    let mut wrong = sleep.id;
    wrong.start_time += 1;
    let error = tree
        .signal(Target::Descendant(wrong), Signal::KILL)
        .await
        .unwrap_err();
    assert_eq!(
        error.failure().map(|failure| failure.errno),
        Some(libc::ESRCH)
    );
    // One that exists, and is not of the tree.
    let mut stranger = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let found = crate::support::Found::read(stranger.id().cast_signed()).unwrap();
    let id = hostler_process::ProcessId {
        pid: stranger.id(),
        start_time: found.start,
    };
    let error = tree
        .signal(Target::Descendant(id), Signal::KILL)
        .await
        .unwrap_err();
    assert_eq!(
        error.failure().map(|failure| failure.errno),
        Some(libc::ESRCH)
    );
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();

    tree.signal(Target::Descendant(sleep.id), Signal::TERM)
        .await
        .unwrap();
    assert_eq!(process.wait().await.status, ExitStatus::Code(3));
    let error = process.signal(Signal::TERM).await.unwrap_err();
    assert_eq!(
        error.failure().map(|failure| failure.errno),
        Some(libc::ESRCH)
    );

    let members = [
        tree.spawn(stage.command("sleep").arg("1000"))
            .await
            .unwrap(),
        {
            let mut process = tree
                .spawn(stage.shell("sleep 1000 & echo; wait").stdout(Stdio::Piped))
                .await
                .unwrap();
            process.take_stdout().unwrap().read_u8().await.unwrap();
            process
        },
    ];
    members[1].signal_group(Signal::INT).await.unwrap();
    // A background job of a shell without job control ignores it.
    assert_eq!(
        members[1].wait().await.status,
        ExitStatus::Signal {
            signal: 2,
            core: false
        }
    );
    tree.signal(Target::All, Signal::TERM).await.unwrap();
    assert_eq!(
        members[0].wait().await.status,
        ExitStatus::Signal {
            signal: 15,
            core: false
        }
    );
    stage.await_none("all were signalled").await;
}

#[tokio::test]
async fn stops_and_ends_are_events() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let mut events = tree.events();
    let process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    process.signal(Signal::STOP).await.unwrap();
    assert!(
        matches!(events.recv().await, Ok(TreeEvent::Stopped { key, signal: libc::SIGSTOP }) if key == process.key())
    );
    process.signal(Signal::CONT).await.unwrap();
    assert!(
        matches!(events.recv().await, Ok(TreeEvent::Continued { key }) if key == process.key())
    );
    process.signal(Signal::STOP).await.unwrap();
    assert!(matches!(events.recv().await, Ok(TreeEvent::Stopped { .. })));
    let report = tree.end(GRACE).await.unwrap();
    assert_eq!(
        report.left[0].how,
        How::Terminated,
        "a stopped process is let go on to end"
    );
    loop {
        match events.recv().await.unwrap() {
            TreeEvent::Ended(told) => break assert_eq!(told, report),
            TreeEvent::Exited { key, exit } => {
                assert_eq!(key, process.key());
                assert_eq!(exit, process.wait().await);
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_detached_process_belongs_to_the_tree() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let watcher = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap()
        .detach_into_tree();
    let dropped = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap()
        .watcher();
    assert_eq!(
        dropped.wait().await.status,
        ExitStatus::Signal {
            signal: 15,
            core: false
        }
    );
    assert_eq!(tree.census().await.unwrap().len(), 1);
    assert_eq!(watcher.exit(), None);
    drop(tree);
    assert_eq!(
        watcher.wait().await.status,
        ExitStatus::Signal {
            signal: 15,
            core: false
        }
    );
    stage.await_none("the tree was dropped").await;
    until("its keeper went too", || stage.keepers().is_empty()).await;
}

#[tokio::test]
async fn descriptors_are_kept_under_names() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    tree.store(b"write", write).await.unwrap();
    tree.store(b"read", read).await.unwrap();
    assert_eq!(
        tree.names().await.unwrap(),
        [b"write".to_vec(), b"read".to_vec()]
    );
    std::fs::File::from(tree.fetch(b"write").await.unwrap())
        .write_all(b"hello")
        .unwrap();
    tree.discard(b"write").await.unwrap();
    let mut read = std::fs::File::from(tree.fetch(b"read").await.unwrap());
    let mut text = String::new();
    // It ends, for the keeper's was the last for writing.
    std::io::Read::read_to_string(&mut read, &mut text).unwrap();
    assert_eq!(text, "hello");
    for error in [
        tree.fetch(b"write").await.map(drop).unwrap_err(),
        tree.discard(b"write").await.unwrap_err(),
    ] {
        assert_eq!(
            error.failure().map(|failure| (failure.step, failure.errno)),
            Some((Step::Store, libc::ENOENT))
        );
    }
}
