//! Keepers, zygotes and hosts that die.

use std::time::{Duration, Instant};

use hostler_process::{
    Contain, EndReason, Error, ExitStatus, Group, OnHostExit, Signal, Stdio, TreeOptions,
};
use tokio::io::AsyncReadExt;

use crate::support::{Stage, slack, until};
use crate::{GRACE, kill};

#[tokio::test]
async fn a_killed_keeper_leaves_nothing_and_its_processes_are_lost() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let script = "setsid sh -c 'trap \"\" TERM; sleep 1000 & echo; wait' & sleep 1000";
    let mut process = tree
        .spawn(stage.shell(script).stdout(Stdio::Piped))
        .await
        .unwrap();
    process.take_stdout().unwrap().read_u8().await.unwrap();
    let ended = tree.spawn(stage.command("false")).await.unwrap();
    assert_eq!(ended.wait().await.status, ExitStatus::Code(1));
    kill(tree.keeper().pid, Signal::KILL);
    assert_eq!(process.wait().await.status, ExitStatus::Lost);
    assert!(stage.living().is_empty(), "{:?}", stage.living());
    assert_eq!(
        ended.wait().await.status,
        ExitStatus::Code(1),
        "what was known stays known"
    );
    let report = tree.end(GRACE).await.unwrap();
    assert_eq!(
        (report.reason, report.remaining),
        (EndReason::KeeperLost, 0)
    );
    assert_eq!(tree.ended().await.unwrap(), report);
    assert!(matches!(
        tree.spawn(stage.command("true")).await,
        Err(Error::KeeperGone)
    ));
    // The zygote is as good as before.
    assert_eq!(stage.tree().await.end(GRACE).await.unwrap().remaining, 0);
}

#[tokio::test]
async fn a_keeper_that_hangs_is_killed() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    kill(tree.keeper().pid, Signal::STOP);
    let begun = Instant::now();
    let report = tree.end(GRACE).await.unwrap();
    assert_eq!(
        (report.reason, report.remaining),
        (EndReason::KeeperLost, 0)
    );
    assert!(
        begun.elapsed() < Duration::from_secs(4) * slack(),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(process.wait().await.status, ExitStatus::Lost);
    assert!(stage.living().is_empty());
}

#[tokio::test]
async fn nothing_is_called_gone_before_that_is_proven() {
    let stage = Stage::new();
    let tree = stage
        .zygote
        .tree(TreeOptions {
            contain: Some(Contain::Tree),
            ..stage.options()
        })
        .await
        .unwrap();
    let mut process = tree
        .spawn(
            stage
                .shell("setsid sleep 1000 & echo; wait")
                .stdout(Stdio::Piped),
        )
        .await
        .unwrap();
    process.take_stdout().unwrap().read_u8().await.unwrap();
    let zygote = stage.zygote.pid().as_raw_nonzero().get().cast_unsigned();
    kill(zygote, Signal::STOP);
    kill(tree.keeper().pid, Signal::KILL);
    assert!(matches!(tree.end(GRACE).await, Err(Error::Unproven)));
    kill(zygote, Signal::CONT);
    stage.await_none("the zygote goes on").await;
    let report = loop {
        match tree.end(GRACE).await {
            Err(Error::Unproven) => tokio::task::yield_now().await,
            other => break other.unwrap(),
        }
    };
    assert_eq!(
        (report.reason, report.remaining),
        (EndReason::KeeperLost, 0)
    );
}

#[tokio::test]
async fn trees_outlive_their_zygote() {
    let stage = Stage::new();
    let (tree, other) = (stage.tree().await, stage.tree().await);
    let process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let lost = other
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    kill(
        stage.zygote.pid().as_raw_nonzero().get().cast_unsigned(),
        Signal::KILL,
    );
    stage.zygote.gone().await;
    assert!(matches!(
        stage.zygote.tree(stage.options()).await,
        Err(Error::ZygoteGone)
    ));
    let second = tree.spawn(stage.command("true")).await.unwrap();
    assert_eq!(second.wait().await.status, ExitStatus::Code(0));
    assert_eq!(tree.end(GRACE).await.unwrap().remaining, 0);
    assert_eq!(
        process.wait().await.status,
        ExitStatus::Signal {
            signal: 15,
            core: false
        }
    );
    // With both gone nobody claims to know, unless a cgroup does.
    kill(other.keeper().pid, Signal::KILL);
    match other.end(GRACE).await {
        Ok(report) => assert_eq!((other.contain(), report.remaining), (Contain::Cgroup, 0)),
        Err(error) => assert!(
            matches!(error, Error::Unproven) && other.contain() == Contain::Tree,
            "{error}"
        ),
    }
    assert_eq!(lost.wait().await.status, ExitStatus::Lost);
    stage
        .await_none("direct children die with their keeper")
        .await;
}

#[tokio::test]
async fn a_tree_that_is_kept_is_left_to_the_next_host() {
    let stage = Stage::new();
    let keep = OnHostExit::Keep(Duration::from_millis(300));
    let tree = stage
        .zygote
        .tree(TreeOptions {
            on_host_exit: keep,
            ..stage.options()
        })
        .await
        .unwrap();
    let process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let watcher = process.detach_into_tree();
    let guard = tree.spawn(stage.command("true")).await.unwrap();
    // A spawn is over when the program runs.
    until("`true` has ended", || stage.living().len() == 1).await;
    drop(tree);
    assert_eq!(watcher.wait().await.status, ExitStatus::Lost);
    assert_eq!(stage.living().len(), 1, "it waits");
    assert!(matches!(
        guard.signal(Signal::TERM).await,
        Err(Error::HungUp)
    ));
    stage.await_none("nobody came").await;
}

#[tokio::test]
async fn the_runtime_may_go_first() {
    let stage = Stage::new();
    let command = stage.command("sleep").arg("1000").group(Group::Group);
    let (_inner, tree, _process, watcher) = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let inner = Stage::new();
            let tree = inner.tree().await;
            let process = tree.spawn(command).await.unwrap();
            let watcher = process.watcher();
            // Guards that live longer than the runtime, and the task that would hear of them, are of no use.
            (inner, tree, process, watcher)
        })
    })
    .join()
    .unwrap();
    assert!(matches!(tree.census().await, Err(Error::KeeperGone)));
    assert!(matches!(tree.end(GRACE).await, Err(Error::KeeperGone)));
    assert_eq!(watcher.wait().await.status, ExitStatus::Lost);
    stage.await_none("the connection hung up").await;
}
