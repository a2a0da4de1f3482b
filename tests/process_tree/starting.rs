//! Starting processes: what they are given, and what comes of those that cannot be run.

use std::os::fd::OwnedFd;
use std::time::Duration;

use hostler_process::{Contain, EndReason, Error, ExitStatus, Stdio, Step, TreeOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::GRACE;
use crate::support::Stage;

#[tokio::test]
async fn exits_are_told_as_they_were() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    for (script, status) in [
        ("true", ExitStatus::Code(0)),
        ("exit 7", ExitStatus::Code(7)),
        (
            "kill -TERM $$",
            ExitStatus::Signal {
                signal: 15,
                core: false,
            },
        ),
    ] {
        let process = tree.spawn(stage.shell(script)).await.unwrap();
        let (first, second) = tokio::join!(process.wait(), process.wait());
        assert_eq!((first.status, first), (status, second), "{script}");
        let watcher = process.watcher();
        drop(process);
        assert_eq!(watcher.wait().await, first);
    }
    let report = tree.end(GRACE).await.unwrap();
    assert_eq!(
        (report.remaining, report.left.len(), report.reason),
        (0, 0, EndReason::Request)
    );
}

#[tokio::test]
async fn usage_is_told() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let process = tree
        .spawn(stage.shell("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"))
        .await
        .unwrap();
    let usage = process.wait().await.usage;
    assert!(
        usage.user + usage.system > Duration::from_millis(10),
        "{usage:?}"
    );
    assert!(usage.peak_resident > 100_000, "{usage:?}");
}

#[tokio::test]
async fn what_cannot_be_run_is_an_error_of_the_spawn() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    for (command, step, errno) in [
        (stage.command("no-such-program"), Step::Exec, libc::ENOENT),
        (stage.command("/"), Step::Exec, libc::EACCES),
        (stage.command("/dev/null"), Step::Exec, libc::EACCES),
        (
            stage.command("true").cwd("/no/such/dir"),
            Step::Directory,
            libc::ENOENT,
        ),
        (
            stage.command("true").arg("x".repeat(200_000)),
            Step::Exec,
            libc::E2BIG,
        ),
    ] {
        let error = tree.spawn(command).await.unwrap_err();
        assert_eq!(
            error.failure().map(|failure| (failure.step, failure.errno)),
            Some((step, errno)),
            "{error}"
        );
        assert!(matches!(error, Error::Spawn { .. }));
    }
    assert!(matches!(
        tree.spawn(stage.command("tr\0ue")).await,
        Err(Error::Nul(_))
    ));
    assert!(tree.census().await.unwrap().is_empty());
    assert!(tree.processes().await.unwrap().is_empty());
}

#[tokio::test]
async fn pipes_carry_data_both_ways() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let command = stage
        .shell("cat; echo err >&2")
        .stdin(Stdio::Piped)
        .stdout(Stdio::Piped)
        .stderr(Stdio::Piped);
    let mut process = tree.spawn(command).await.unwrap();
    let mut input = process.take_stdin().unwrap();
    let data = vec![b'x'; 1_000_000];
    let (mut output, mut errors) = (Vec::new(), String::new());
    let (mut stdout, mut stderr) = (
        process.take_stdout().unwrap(),
        process.take_stderr().unwrap(),
    );
    let write = async {
        input.write_all(&data).await.unwrap();
        drop(input);
    };
    let (_, read, _) = tokio::join!(
        write,
        stdout.read_to_end(&mut output),
        stderr.read_to_string(&mut errors)
    );
    read.unwrap();
    assert!(output == data);
    assert_eq!(errors, "err\n");
    assert_eq!(process.wait().await.status, ExitStatus::Code(0));
    assert!(process.take_stdin().is_none() && process.take_stdout().is_none());
}

#[tokio::test]
async fn only_what_is_given_is_passed() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let script = "echo given >&9; ls /proc/self/fd | tr '\\n' ' '; umask; pwd; ulimit -n; cut -d' ' -f19 /proc/self/stat; env | grep -c .";
    let command = stage
        .shell(script)
        .stdout(Stdio::Piped)
        .fd(9, write)
        .umask(0o27)
        .cwd("/usr")
        .nice(5)
        .rlimit(libc::RLIMIT_NOFILE, 77, 99);
    let mut process = tree.spawn(command).await.unwrap();
    let mut output = String::new();
    process
        .take_stdout()
        .unwrap()
        .read_to_string(&mut output)
        .await
        .unwrap();
    // `ls` has one open for the listing. The environment: PATH, the mark, and PWD by the shell.
    assert_eq!(output, "0 1 2 3 9 0027\n/usr\n77\n5\n3\n");
    let mut given = String::new();
    std::io::Read::read_to_string(&mut std::fs::File::from(read), &mut given).unwrap();
    assert_eq!(given, "given\n");
}

#[tokio::test]
async fn more_descriptors_than_one_message_carries() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let mut command = stage.shell("ls /proc/self/fd | wc -l").stdout(Stdio::Piped);
    let null = std::fs::File::open("/dev/null").unwrap();
    for number in 100..400 {
        command = command.fd(number, OwnedFd::from(null.try_clone().unwrap()));
    }
    let mut process = tree.spawn(command).await.unwrap();
    let mut output = String::new();
    process
        .take_stdout()
        .unwrap()
        .read_to_string(&mut output)
        .await
        .unwrap();
    assert_eq!(output.trim(), "304");
}

#[tokio::test]
async fn a_thousand_at_once_are_a_thousand_exits() {
    let stage = Stage::new();
    let tree = std::sync::Arc::new(stage.tree().await);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..1000u32 {
        let (tree, command) = (
            tree.clone(),
            stage.command(if number % 2 == 0 { "true" } else { "false" }),
        );
        tasks.spawn(async move {
            (
                number,
                tree.spawn(command).await.unwrap().wait().await.status,
            )
        });
    }
    let mut exits = 0;
    while let Some(task) = tasks.join_next().await {
        let (number, status) = task.unwrap();
        assert_eq!(status, ExitStatus::Code(u8::from(number % 2 == 1)));
        exits += 1;
    }
    assert_eq!(exits, 1000);
    assert!(
        tree.processes().await.unwrap().is_empty(),
        "records are dropped with their guards"
    );
    assert_eq!(tree.end(GRACE).await.unwrap().remaining, 0);
}

#[tokio::test]
async fn each_way_to_contain_starts_and_ends() {
    let stage = Stage::new();
    for wanted in [
        None,
        Some(Contain::Tree),
        Some(Contain::Cgroup),
        Some(Contain::Pidns),
    ] {
        let tree = match stage
            .zygote
            .tree(TreeOptions {
                contain: wanted,
                ..stage.options()
            })
            .await
        {
            Ok(tree) => tree,
            Err(error @ Error::Keeper(_)) if wanted.is_some_and(|way| way > Contain::Tree) => {
                println!("skipped, {wanted:?}: {error}");
                continue;
            }
            Err(error) => panic!("{wanted:?}: {error}"),
        };
        println!("{wanted:?} is {:?}", tree.contain());
        let mut process = tree
            .spawn(
                stage
                    .shell("setsid sleep 1000 & echo; cat /proc/self/cgroup; wait")
                    .stdout(Stdio::Piped),
            )
            .await
            .unwrap();
        let mut output = process.take_stdout().unwrap();
        output.read_u8().await.unwrap();
        let mut groups = vec![0; 4096];
        let count = output.read(&mut groups).await.unwrap();
        let groups = String::from_utf8_lossy(&groups[..count]);
        if tree.contain() == Contain::Cgroup {
            assert!(
                groups.contains(&format!("hostler-{}-", std::process::id())),
                "{groups}"
            );
        }
        let report = tree.end(GRACE).await.unwrap();
        assert_eq!(report.remaining, 0);
        assert!(stage.living().is_empty());
    }
}
