//! Trees and processes, as a host's async code has them.

#[path = "support/async_tree.rs"]
#[allow(dead_code)]
mod support;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hostler_process::{
    AfterMain, Contain, EndReason, Error, ExitStatus, Group, How, Limits, OnHostExit, Rules,
    Signal, Stdio, Step, Target, TreeEvent, TreeOptions,
};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use support::{Stage, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const GRACE: Duration = Duration::from_millis(200);

/// Kills a process that is a child of this one or held by a test's own zygote, and so still itself.
fn kill(pid: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    pidfd_send_signal(pidfd_open(pid, PidfdFlags::empty()).unwrap(), signal).unwrap();
}

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
        begun.elapsed() >= GRACE && begun.elapsed() < GRACE + Duration::from_secs(3),
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
    let found = support::Found::read(stranger.id().cast_signed()).unwrap();
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
        begun.elapsed() < Duration::from_secs(4),
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
