//! Ending trees and processes.

use std::time::{Duration, Instant};

use hostler_process::{
    AfterMain, Contain, EndReason, Error, ExitStatus, How, Limits, Rules, Stdio, TreeOptions,
};
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::io::AsyncReadExt;

use crate::GRACE;
use crate::support::{Stage, slack};

#[tokio::test]
async fn an_end_takes_those_that_will_not_and_all_callers_get_one_report() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let script = "trap '' TERM HUP INT; setsid sh -c 'trap \"\" TERM; sleep 1000 & echo; wait' & echo; wait; sleep 1000";
    let mut process = tree
        .spawn(stage.shell(script).stdout(Stdio::Piped))
        .await
        .unwrap();
    let mut lines = [0; 2];
    process
        .take_stdout()
        .unwrap()
        .read_exact(&mut lines)
        .await
        .unwrap();
    let begun = Instant::now();
    let (a, b, c) = tokio::join!(
        tree.end(GRACE),
        tree.end(Duration::from_secs(60)),
        tree.ended()
    );
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    assert!(a == b && b == c, "{a:?}\n{b:?}");
    assert!(
        begun.elapsed() >= GRACE && begun.elapsed() < GRACE + Duration::from_secs(3) * slack(),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(a.remaining, 0);
    assert!(
        a.left
            .iter()
            .any(|left| left.id == process.id() && left.how == How::Killed),
        "{a:?}"
    );
    assert!(a.left.len() >= 3, "{a:?}");
    assert!(stage.living().is_empty(), "{:?}", stage.living());
    assert_eq!(
        process.wait().await.status,
        ExitStatus::Signal {
            signal: 9,
            core: false
        }
    );
    assert_eq!(tree.end(GRACE).await.unwrap(), a);
    assert!(matches!(
        tree.spawn(stage.command("true")).await,
        Err(Error::Ended)
    ));
    assert!(matches!(tree.census().await, Err(Error::Ended)));
}

#[tokio::test]
async fn a_process_is_ended_with_what_is_under_it_and_the_tree_stays() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let other = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let mut process = tree
        .spawn(
            stage
                .shell("sleep 1000 & sleep 1000 & echo; wait")
                .stdout(Stdio::Piped),
        )
        .await
        .unwrap();
    process.take_stdout().unwrap().read_u8().await.unwrap();
    let (a, b) = tokio::join!(process.end(GRACE), process.end(GRACE));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a, b);
    assert_eq!((a.remaining, a.left.len()), (0, 3), "{a:?}");
    assert_eq!(
        process.wait().await.status,
        ExitStatus::Signal {
            signal: 15,
            core: false
        }
    );
    assert_eq!(process.end(GRACE).await.unwrap(), a);
    let census = tree.census().await.unwrap();
    assert_eq!(
        census.iter().map(|info| info.id).collect::<Vec<_>>(),
        [other.id()]
    );
    let ended = tree.spawn(stage.command("true")).await.unwrap();
    ended.wait().await;
    assert!(ended.end(GRACE).await.unwrap().left.is_empty());
}

#[tokio::test]
async fn a_process_that_forks_on_is_ended_with_all_that_it_forked() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let script = "trap '' TERM; i=0; while [ $i -lt 2000 ]; do sleep 1000 & i=$((i+1)); [ $i = 20 ] && echo; wait -n 2>/dev/null & done";
    for grace in [Duration::ZERO, Duration::from_millis(50)] {
        let mut process = tree
            .spawn(
                stage
                    .command("bash")
                    .arg("-c")
                    .arg(script)
                    .stdout(Stdio::Piped),
            )
            .await
            .unwrap();
        process.take_stdout().unwrap().read_u8().await.unwrap();
        let report = process.end(grace).await.unwrap();
        assert!(
            report.remaining == 0 && report.left.len() > 20,
            "{report:?}"
        );
        let census = tree.census().await.unwrap();
        assert!(census.is_empty(), "{census:?}");
    }
}

#[tokio::test]
async fn rules_and_limits_end_a_tree_unasked() {
    let stage = Stage::new();
    let after_main = TreeOptions {
        rules: Rules {
            after_main: AfterMain::End,
            ..Rules::default()
        },
        ..stage.options()
    };
    let tree = stage.zygote.tree(after_main).await.unwrap();
    let process = tree
        .spawn(stage.shell("setsid sleep 1000 & exit 4").main())
        .await
        .unwrap();
    let report = tree.ended().await.unwrap();
    assert_eq!(
        (report.reason, report.remaining, report.left.len()),
        (EndReason::MainExited, 0, 1),
        "{report:?}"
    );
    assert_eq!(process.wait().await.status, ExitStatus::Code(4));
    assert_eq!(tree.end(GRACE).await.unwrap(), report);

    let few = TreeOptions {
        limits: Limits {
            pids: Some(3),
            ..Limits::default()
        },
        ..stage.options()
    };
    let tree = stage
        .zygote
        .tree(TreeOptions {
            contain: Some(Contain::Tree),
            ..few
        })
        .await
        .unwrap();
    let _process = tree
        .spawn(stage.shell("for i in 1 2 3 4 5; do sleep 1000 & done; wait"))
        .await
        .unwrap();
    let report = tree.ended().await.unwrap();
    assert!(
        matches!(report.reason, EndReason::Pids { count: 4.. }),
        "{report:?}"
    );
    stage.await_none("the limit ended them").await;
}

#[tokio::test]
async fn a_tree_ends_with_its_owner() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let _process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let mut owner = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(owner.id().cast_signed()).unwrap();
    tree.tie_to(pidfd_open(pid, PidfdFlags::empty()).unwrap())
        .await
        .unwrap();
    owner.kill().unwrap();
    let report = tree.ended().await.unwrap();
    assert_eq!((report.reason, report.remaining), (EndReason::OwnerGone, 0));
    owner.wait().unwrap();
}
