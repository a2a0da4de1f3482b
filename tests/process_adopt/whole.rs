//! All of a tree goes over: the running, the ended, what is stored, and what happened meanwhile.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use hostler_process::{
    AfterMain, Contain, EndReason, Error, ExitStatus, Key, OnHostExit, Rules, Signal, Stdio, Step,
    Tree, TreeOptions,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use crate::hosts::Scene;
use crate::support::{Found, Stage, children_of, slack, until};
use crate::{GRACE, adopt, gone, is_no_keeper, pid_of};

/// A killed host's tree is there with its running processes, its exits and its pipes, in each way to contain.
#[tokio::test]
async fn a_killed_hosts_tree_is_adopted_whole() {
    for way in ["", "tree", "pidns"] {
        let scene = Scene::new();
        let mut host = scene.host();
        if let Err(error) = host.ask(&format!("tree t 30000 {way}")) {
            assert!(way == "pidns", "{error}");
            println!("skipped, {way}: {error}");
            continue;
        }
        let running = host.ok("spawn t cat exec cat");
        let ended = host.ok("spawn t three echo last words; exit 3");
        assert_eq!(host.ok("wait three"), "Code(3)");
        let detached = host.ok("spawn t nobody exec sleep 1000");
        host.ok("detach nobody");
        let path = scene.socket("t");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        until("both run", || scene.living().len() == 2).await;
        let before: Vec<i32> = scene.living().iter().map(|found| found.pid).collect();
        host.kill();

        let adopted = adopt(&path).await;
        assert_eq!(
            (adopted.ending, adopted.ended, adopted.main),
            (None, None, None)
        );
        let after: Vec<i32> = scene.living().iter().map(|found| found.pid).collect();
        assert_eq!(before, after);
        let shown: Vec<String> = adopted
            .processes
            .iter()
            .map(|(process, started)| {
                assert_eq!((process.key(), process.id()), (started.key, started.id));
                assert_eq!(process.exit(), started.exit);
                format!("{} {}", process.pid(), process.key().0)
            })
            .collect();
        assert_eq!(shown, [running, ended], "{way}");
        let tree = adopted.tree;
        let mut guards = adopted.processes.into_iter().map(|(process, _)| process);
        let (cat, three) = (guards.next().unwrap(), guards.next().unwrap());
        assert_eq!(three.wait().await.status, ExitStatus::Code(3));
        assert_eq!(cat.exit(), None);
        let census = tree.census().await.unwrap();
        let pids: Vec<i32> = census
            .iter()
            .map(|info| info.id.pid.cast_signed())
            .collect();
        assert!(pids.contains(&pid_of(&detached)), "{census:?}");

        // Its pipes.
        let input = tree.fetch(b"cat.stdin").await.unwrap();
        let mut input = pipe::Sender::from_owned_fd(input).unwrap();
        let output = tree.fetch(b"cat.stdout").await.unwrap();
        let mut output = pipe::Receiver::from_owned_fd(output).unwrap();
        input.write_all(b"still there\n").await.unwrap();
        let mut line = [0; 12];
        output.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"still there\n");
        let last = tree.fetch(b"three.stdout").await.unwrap();
        let mut words = String::new();
        // The end comes, for only the process had it for writing.
        pipe::Receiver::from_owned_fd(last)
            .unwrap()
            .read_to_string(&mut words)
            .await
            .unwrap();
        assert_eq!(words, "last words\n");
        drop(input);
        tree.discard(b"cat.stdin").await.unwrap();
        assert_eq!(cat.wait().await.status, ExitStatus::Code(0));

        // It goes on: new processes get numbers of their own, and it ends as any tree does.
        let next = tree
            .spawn(
                hostler_process::Command::new("/bin/sleep")
                    .arg("1000")
                    .env("HOSTLER_TEST_MARK", &scene.mark),
            )
            .await
            .unwrap();
        assert!(next.key() > Key(3), "{:?}", next.key());
        let report = tree.end(GRACE).await.unwrap();
        assert_eq!((report.remaining, report.left.len()), (0, 2), "{report:?}");
        assert!(scene.living().is_empty() && !path.exists());
        gone("its zygote goes with its last keeper", &host.zygote()).await;
        assert!(is_no_keeper(&Tree::adopt(&path).await.unwrap_err()));
    }
}

#[tokio::test]
async fn twenty_hosts_in_a_row_have_one_tree() {
    let scene = Scene::new();
    let mut host = scene.host();
    host.ok("tree t 30000");
    let pid = pid_of(&host.ok("spawn t p exec sleep 1000"));
    let began = Instant::now();
    for number in 0..20 {
        let mut next = scene.host();
        // By the death of the one before, and over its head.
        if number % 2 == 0 {
            host.kill();
        }
        assert_eq!(next.ok("adopt t"), "1");
        assert_eq!(next.ok("census t"), "1");
        if number % 2 == 1 {
            assert_eq!(
                host.ask("census t").unwrap_err(),
                Error::Superseded.to_string()
            );
        }
        host = next;
    }
    println!("20 adoptions took {:?}", began.elapsed());
    assert!(Found::read(pid).unwrap().lives());
    host.kill();
    let adopted = adopt(&scene.socket("t")).await;
    assert_eq!(adopted.processes[0].0.pid().cast_signed(), pid);
    assert_eq!(adopted.tree.end(GRACE).await.unwrap().remaining, 0);
    assert!(scene.living().is_empty());
}

#[tokio::test]
async fn what_happened_without_a_host_is_told_to_the_next() {
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let options = TreeOptions {
        rendezvous: Some(dir.path().join("t")),
        on_host_exit: OnHostExit::Keep(Duration::from_secs(30)),
        rules: Rules {
            after_main: AfterMain::End,
            ..Rules::default()
        },
        ..stage.options()
    };
    let tree = stage.zygote.tree(options).await.unwrap();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let key = tree.new_key();
    let process = tree
        .spawn(
            stage
                .shell("read go; echo the end; exit 5")
                .stdin(Stdio::Fd(read))
                .stdout(Stdio::Piped)
                .stored("p")
                .key(key)
                .main(),
        )
        .await
        .unwrap();
    assert_eq!(process.key(), key);
    let keeper = Found::read(tree.keeper().pid.cast_signed()).unwrap();
    drop(tree);
    drop(process);
    std::io::Write::write_all(&mut std::fs::File::from(write), b"go\n").unwrap();
    let reaped = || children_of(keeper.pid).is_empty();
    until("it has ended by itself", reaped).await;

    let adopted = adopt(&dir.path().join("t")).await;
    let report = adopted.ended.unwrap();
    assert_eq!(
        (report.reason, report.remaining),
        (EndReason::MainExited, 0)
    );
    assert_eq!(adopted.main, Some(key));
    let (process, started) = &adopted.processes[0];
    assert_eq!(started.exit.unwrap().status, ExitStatus::Code(5));
    assert_eq!(process.wait().await.status, ExitStatus::Code(5));
    let output = adopted.tree.fetch(b"p.stdout").await.unwrap();
    let mut words = String::new();
    pipe::Receiver::from_owned_fd(output)
        .unwrap()
        .read_to_string(&mut words)
        .await
        .unwrap();
    assert_eq!(words, "the end\n");
    assert!(matches!(
        adopted.tree.spawn(stage.command("true")).await,
        Err(Error::Ended)
    ));
    // Lost again, and found again.
    drop((adopted.tree, adopted.processes));
    let adopted = adopt(&dir.path().join("t")).await;
    assert_eq!(adopted.ended.as_ref(), Some(&report));
    assert_eq!(adopted.tree.end(GRACE).await.unwrap(), report);
    assert_eq!(adopted.tree.ended().await.unwrap(), report);
    gone("it was read", &keeper).await;
    assert!(!dir.path().join("t").exists());
}

#[tokio::test]
async fn an_ended_tree_does_not_wait_for_ever() {
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let options = TreeOptions {
        rendezvous: Some(dir.path().join("t")),
        on_host_exit: OnHostExit::Keep(Duration::from_secs(2)),
        rules: Rules {
            timeout: Some(Duration::from_millis(100)),
            ..Rules::default()
        },
        ..stage.options()
    };
    let tree = stage.zygote.tree(options).await.unwrap();
    let process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let keeper = Found::read(tree.keeper().pid.cast_signed()).unwrap();
    drop((tree, process));
    stage.await_none("the timeout").await;
    assert!(keeper.still_lives(), "it waits with its report");
    gone("nobody came", &keeper).await;
    assert!(!dir.path().join("t").exists());
}

#[tokio::test]
async fn a_tree_is_handed_over_whatever_its_policy() {
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let options = TreeOptions {
        rendezvous: Some(path.clone()),
        ..stage.options()
    };
    let wait = Duration::from_secs(30);
    let tree = stage.zygote.tree(options.clone()).await.unwrap();
    assert_eq!(tree.rendezvous(), Some(path.as_path()));
    let process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let watcher = process.watcher();
    tree.hand_over(wait).await.unwrap();
    assert_eq!(watcher.wait().await.status, ExitStatus::Lost);
    assert!(matches!(
        process.signal(Signal::TERM).await,
        Err(Error::HungUp)
    ));
    drop(process);
    let adopted = adopt(&path).await;
    assert_eq!(adopted.processes.len(), 1);
    until("it lives", || stage.living().len() == 1).await;

    // A cancelled one is carried out all the same.
    let tree = adopted.tree;
    let guards = adopted.processes;
    tokio::select! {
        biased;
        _ = tree.hand_over(wait) => panic!("it takes a moment"),
        () = std::future::ready(()) => {}
    }
    until("it has let go", || guards[0].0.exit().is_some()).await;
    let adopted = adopt(&path).await;
    // Adopted, the policy counts again.
    drop((adopted.tree, adopted.processes));
    stage.await_none("dropped, by its options").await;

    // It waits that long, and no longer.
    let tree = stage.zygote.tree(options).await.unwrap();
    let _process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    tree.hand_over(Duration::from_secs(2)).await.unwrap();
    until("it waits", || stage.living().len() == 1).await;
    stage.await_none("nobody came").await;

    // One that nobody could find is not handed over.
    let tree = stage.tree().await;
    let _process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let error = tree.hand_over(wait).await.unwrap_err();
    assert_eq!(
        error.failure().map(|failure| failure.step),
        Some(Step::Rendezvous)
    );
    assert_eq!(stage.living().len(), 1);
    drop(tree);
    stage.await_none("dropped").await;
}

#[tokio::test]
async fn what_a_dead_host_means_can_be_changed() {
    let scene = Scene::new();
    let mut host = scene.host();
    for tree in ["kept", "killed"] {
        host.ok(&format!(
            "tree {tree} {}",
            if tree == "kept" { "kill" } else { "30000" }
        ));
        host.ok(&format!("spawn {tree} {tree}-p exec sleep 1000"));
    }
    host.ok("policy kept 30000");
    host.ok("policy killed kill");
    host.kill();
    until("one is ended", || scene.living().len() == 1).await;
    until("its socket too", || !scene.socket("killed").exists()).await;
    assert!(is_no_keeper(
        &Tree::adopt(&scene.socket("killed")).await.unwrap_err()
    ));
    let adopted = adopt(&scene.socket("kept")).await;
    adopted
        .tree
        .set_on_host_exit(OnHostExit::Kill)
        .await
        .unwrap();
    drop((adopted.tree, adopted.processes));
    until("dropped, by what it means now", || {
        scene.living().is_empty()
    })
    .await;
}

#[tokio::test]
async fn the_rendezvous_is_there_or_the_tree_is_not() {
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let make = |path: std::path::PathBuf| {
        stage.zygote.tree(TreeOptions {
            rendezvous: Some(path),
            ..stage.options()
        })
    };
    let refused = |error: Error| {
        let Error::Keeper(failure) = error else {
            panic!("{error}")
        };
        println!("{}", Error::Keeper(failure));
        assert_eq!(failure.step, Step::Rendezvous);
        failure.errno
    };
    let deep = dir.path().join("d".repeat(150));
    let missing = make(deep.join("t")).await.unwrap_err();
    assert_eq!(refused(missing), libc::ENOENT);
    assert_eq!(refused(make("t".into()).await.unwrap_err()), libc::EINVAL);
    std::fs::write(dir.path().join("file"), "").unwrap();
    let taken = make(dir.path().join("file")).await.unwrap_err();
    assert_eq!(refused(taken), libc::EADDRINUSE);

    // Longer than an address holds.
    std::fs::create_dir(&deep).unwrap();
    let tree = make(deep.join("t")).await.unwrap();
    let taken = make(deep.join("t")).await.unwrap_err();
    assert_eq!(refused(taken), libc::EADDRINUSE);
    tree.hand_over(Duration::from_secs(30)).await.unwrap();
    let adopted = adopt(&deep.join("t")).await;
    assert_eq!(adopted.tree.end(GRACE).await.unwrap().remaining, 0);
    assert!(std::fs::read_dir(&deep).unwrap().next().is_none());

    // A dead keeper's is taken the place of, and whatever has taken a keeper's place stays.
    drop(std::os::unix::net::UnixListener::bind(deep.join("t")).unwrap_err());
    let stale = dir.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let tree = make(stale.clone()).await.unwrap();
    std::fs::remove_file(&stale).unwrap();
    std::fs::write(&stale, "another's").unwrap();
    assert_eq!(tree.end(GRACE).await.unwrap().remaining, 0);
    assert_eq!(std::fs::read(&stale).unwrap(), b"another's");
    until("no keeper is left", || stage.keepers().is_empty()).await;
}

/// A tree whose end is under way goes over with that.
#[tokio::test]
async fn a_tree_is_adopted_while_it_ends() {
    for way in [Contain::Tree, Contain::Cgroup] {
        let scene = Scene::new();
        let mut host = scene.host();
        host.ok("tree t kill slow");
        host.ok("spawn t p trap '' TERM; echo up; while :; do sleep 1; done");
        host.ok("read p 3");
        host.kill();
        let adopted = loop {
            match adopt(&scene.socket("t")).await {
                // The host's death was not seen yet.
                adopted if adopted.ending.is_none() => drop((adopted.tree, adopted.processes)),
                adopted => break adopted,
            }
        };
        assert_eq!(adopted.ending, Some(EndReason::HostGone));
        let report = adopted.tree.ended().await.unwrap();
        assert_eq!(report.remaining, 0);
        assert!(
            !report.left.is_empty() && scene.living().is_empty(),
            "{report:?}"
        );
        assert!(adopted.processes[0].0.exit().is_some());
        assert!(!scene.socket("t").exists());
        if adopted.tree.contain() != way {
            break;
        }
    }
}

#[tokio::test]
async fn many_trees_are_found_at_once() {
    const TREES: usize = 100;
    let scene = Scene::new();
    let mut host = scene.host();
    for number in 0..TREES {
        host.ok(&format!("tree t{number} 60000"));
        host.ok(&format!("spawn t{number} p{number} exec sleep 1000"));
    }
    host.kill();
    let began = Instant::now();
    let mut adopted = Vec::new();
    for number in 0..TREES {
        adopted.push(adopt(&scene.socket(&format!("t{number}"))).await);
    }
    println!("{TREES} trees were adopted in {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5) * slack());
    let began = Instant::now();
    for adopted in &adopted {
        assert_eq!(adopted.processes.len(), 1);
        assert_eq!(adopted.tree.end(GRACE).await.unwrap().remaining, 0);
    }
    println!("and ended in {:?}", began.elapsed());
    assert!(scene.living().is_empty());
}
