//! Who knocks at a keeper: strangers, half of a host, one too many, and the next host over the head of the present one.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

use hostler_keeper::connection::{Connection, ConnectionError};
use hostler_keeper::message::{Hello, Reply, Request};
use hostler_keeper::rendezvous;
use hostler_process::{Error, ExitStatus, OnHostExit, Signal, Tree, TreeOptions};
use rustix::net::SendFlags;
use tokio::time::{sleep, timeout};

use crate::hosts::Scene;
use crate::support::{Found, Stage, slack, until};
use crate::{GRACE, adopt, gone};

/// Set for a test program that is to knock as another user, and leave with what came of it.
const STRANGER: &str = "HOSTLER_TEST_STRANGER";

fn knock(path: &Path) -> Connection {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    loop {
        match rendezvous::connect(&path) {
            Ok((connection, _)) => return connection,
            Err(rustix::io::Errno::AGAIN) => std::thread::yield_now(),
            Err(errno) => panic!("{errno}"),
        }
    }
}

fn hello(oldest: u8, newest: u8) -> Request<'static> {
    Request::Hello(Hello {
        oldest,
        newest,
        name: b"test",
    })
}

/// Whether the keeper has closed this one.
fn is_closed(connection: &Connection) -> bool {
    match connection.try_receive() {
        Ok(None) => true,
        Err(ConnectionError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => false,
        other => panic!("{other:?}"),
    }
}

async fn kept_tree(stage: &Stage, path: &Path) -> Tree {
    let options = TreeOptions {
        rendezvous: Some(path.to_owned()),
        on_host_exit: OnHostExit::Keep(Duration::from_secs(30)),
        ..stage.options()
    };
    stage.zygote.tree(options).await.unwrap()
}

#[tokio::test]
async fn strangers_change_nothing() {
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let tree = kept_tree(&stage, &path).await;
    let process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let still_ours = async || {
        let census = timeout(Duration::from_secs(5), tree.census())
            .await
            .unwrap();
        assert_eq!(census.unwrap().len(), 1);
    };
    // Gone again, before and after it was let in; with a greeting that it does not wait for.
    for say_hello in [false, true] {
        for _ in 0..50 {
            let stranger = knock(&path);
            if say_hello {
                stranger.send(1, &hello(1, 1), &[]).unwrap();
                // Only if it reads at once does the keeper find anybody.
            }
            drop(stranger);
        }
        if !say_hello {
            still_ours().await;
        }
    }
    // One of them may have been taken for a host that has died since: the tree waits for its owner.
    let adopted = adopt(&path).await;
    let (tree, guards) = (adopted.tree, adopted.processes);
    drop(process);
    let process = &guards[0].0;
    let still_ours = async || {
        let census = timeout(Duration::from_secs(5), tree.census())
            .await
            .unwrap();
        assert_eq!(census.unwrap().len(), 1);
    };
    // Nonsense, and sense that is not for here.
    let header = [1, 15, 0, 0, 1, 0, 0, 0];
    let garbage: Vec<Vec<u8>> = vec![
        b"x".to_vec(),
        vec![0xff; 100],
        vec![0; 4096],
        header.to_vec(),
        [&header[..], &[1]].concat(),
        [&header[..], &[1, 1, 0xff, 0xff, 0xff, 0xff]].concat(),
        // In a file that did not come.
        [1, 15, 1, 0, 1, 0, 0, 0].to_vec(),
        // Another major version's frame.
        [&[2u8, 15, 0, 0, 1, 0, 0, 0][..], &[1, 9, 0, 0, 0, 0]].concat(),
    ];
    for bytes in garbage {
        let stranger = knock(&path);
        rustix::net::send(&stranger, &bytes, SendFlags::empty()).unwrap();
        until("it is sent away", || is_closed(&stranger)).await;
        still_ours().await;
    }
    for request in [
        Request::Census,
        Request::End { grace: GRACE },
        Request::Names,
    ] {
        let stranger = knock(&path);
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        stranger.send(1, &request, &[null.as_fd()]).unwrap();
        until("it is sent away", || is_closed(&stranger)).await;
        still_ours().await;
    }
    // Versions of another time are told which would do.
    for (oldest, newest) in [(0, 0), (2, 255)] {
        let stranger = knock(&path);
        stranger.send(7, &hello(oldest, newest), &[]).unwrap();
        let received = stranger.receive().unwrap().unwrap();
        assert_eq!(received.header.id, 7);
        let known = Reply::Incompatible {
            oldest: hostler_keeper::wire::OLDEST,
            newest: hostler_keeper::wire::VERSION,
        };
        assert_eq!(received.message::<Reply>().unwrap(), known);
        until("it is sent away", || is_closed(&stranger)).await;
        still_ours().await;
    }
    assert!(process.exit().is_none());
    assert_eq!(tree.end(GRACE).await.unwrap().remaining, 0);
}

#[tokio::test]
async fn the_silent_are_sent_away_and_keep_nobody_out() {
    let scene = Scene::new();
    let stage = Stage::new();
    let path = scene.socket("t");
    let tree = kept_tree(&stage, &path).await;
    let _process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let mut silent: Vec<Connection> = (0..200).map(|_| knock(&path)).collect();
    let began = Instant::now();
    assert_eq!(tree.census().await.unwrap().len(), 1);
    let mut host = scene.host();
    assert_eq!(host.ok("adopt t"), "1");
    println!("found behind 200 silent ones after {:?}", began.elapsed());
    assert!(
        began.elapsed() < Duration::from_secs(4) * slack(),
        "{:?}",
        began.elapsed()
    );
    until("they are sent away", || {
        silent.retain(|stranger| !is_closed(stranger));
        silent.is_empty()
    })
    .await;
    assert_eq!(host.ok("census t"), "1");
    assert_eq!(host.ok("end t"), "0");
}

#[tokio::test]
async fn a_superseded_host_ends_nothing() {
    let scene = Scene::new();
    let stage = Stage::new();
    let path = scene.socket("t");
    let tree = kept_tree(&stage, &path).await;
    let process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let second = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let ended = tree.spawn(stage.command("true")).await.unwrap();
    let exit = ended.wait().await;
    let (watcher, pid) = (process.watcher(), process.pid());
    let mut host = scene.host();
    assert_eq!(host.ok("adopt t"), "3");
    assert!(matches!(tree.ended().await, Err(Error::Superseded)));
    assert!(matches!(tree.census().await, Err(Error::Superseded)));
    assert!(matches!(tree.end(GRACE).await, Err(Error::Superseded)));
    assert!(matches!(
        tree.spawn(stage.command("true")).await,
        Err(Error::Superseded)
    ));
    assert!(matches!(process.end(GRACE).await, Err(Error::Superseded)));
    assert_eq!(watcher.wait().await.status, ExitStatus::Lost);
    assert_eq!(ended.wait().await, exit);
    assert!(matches!(
        tree.hand_over(GRACE).await,
        Err(Error::Superseded)
    ));
    drop((process, second, ended));
    sleep(Duration::from_millis(400)).await;
    assert_eq!(host.ok("census t"), "2");
    assert!(Found::read(pid.cast_signed()).unwrap().lives());
    // And back.
    let adopted = adopt(&path).await;
    assert_eq!(
        host.ask("census t").unwrap_err(),
        Error::Superseded.to_string()
    );
    host.ok("drop t");
    assert_eq!(adopted.processes.len(), 3);
    assert_eq!(adopted.tree.end(GRACE).await.unwrap().remaining, 0);
}

#[tokio::test]
async fn of_many_hosts_at_once_one_has_the_tree() {
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let tree = kept_tree(&stage, &path).await;
    let process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let path = path.clone();
        tasks.spawn(async move { adopt(&path).await });
    }
    let hosts = tasks.join_all().await;
    let (mut owners, mut superseded) = (Vec::new(), 0);
    for host in hosts {
        match host.tree.census().await {
            Ok(_) => owners.push(host),
            Err(Error::Superseded) => superseded += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((owners.len(), superseded), (1, 49));
    assert!(matches!(tree.census().await, Err(Error::Superseded)));
    until("it lives", || stage.living().len() == 1).await;
    drop((tree, process));
    assert_eq!(owners[0].tree.end(GRACE).await.unwrap().remaining, 0);
}

/// A host that was stopped, with more to read than its socket holds, learns all the same that it is superseded.
#[tokio::test]
async fn a_host_that_does_not_read_is_superseded_too() {
    let scene = Scene::new();
    let mut host = scene.host();
    host.ok("tree t 30000");
    let pid = pid_of_spawn(&mut host, "spawn t p exec sleep 1000");
    host.signal(Signal::STOP);
    let target = rustix::process::Pid::from_raw(pid).unwrap();
    // Two events each time, until the keeper has some that do not go out.
    for _ in 0..3000 {
        for signal in [Signal::STOP, Signal::CONT] {
            rustix::process::kill_process(target, signal).unwrap();
        }
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    let adopted = adopt(&scene.socket("t")).await;
    assert_eq!(adopted.tree.census().await.unwrap().len(), 1);
    host.signal(Signal::CONT);
    assert_eq!(
        host.ask("ended t").unwrap_err(),
        Error::Superseded.to_string()
    );
    host.ok("drop t");
    drop(host);
    assert_eq!(adopted.tree.census().await.unwrap().len(), 1);
    assert_eq!(adopted.tree.end(GRACE).await.unwrap().remaining, 0);
}

fn pid_of_spawn(host: &mut crate::hosts::Host, line: &str) -> i32 {
    crate::pid_of(&host.ok(line))
}

/// Connects as another user to a socket whose file would allow it.
#[tokio::test]
async fn another_user_is_not_let_in() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let tree = kept_tree(&stage, &path).await;
    let _process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    for (mode, outcome) in [(0o600, "PermissionDenied"), (0o666, "sent away")] {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let said = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["the_stranger", "--exact", "--nocapture"])
            .env(STRANGER, &path)
            .uid(65534)
            .gid(65534)
            .output();
        let Ok(said) = said else {
            println!("skipped: the other user cannot execute this program");
            return;
        };
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains(&format!("@{outcome}")), "{mode:o}: {said}");
        assert_eq!(tree.census().await.unwrap().len(), 1);
    }
    assert_eq!(tree.end(GRACE).await.unwrap().remaining, 0);
}

/// Is the other user, if this program was started to be one.
pub(crate) fn be_stranger() {
    let Some(path) = std::env::var_os(STRANGER) else {
        return;
    };
    let path = CString::new(path.as_bytes()).unwrap();
    let outcome = match rendezvous::connect(&path) {
        Err(errno) => format!("{:?}", io::Error::from(errno).kind()),
        Ok((connection, _)) => {
            let _ = connection.send(1, &hello(1, 1), &[]);
            match connection.receive() {
                Ok(None) => "sent away".into(),
                other => format!("{other:?}"),
            }
        }
    };
    println!("@{outcome}");
}

/// What is at the rendezvous may be no keeper, or one that hangs.
#[tokio::test]
async fn what_answers_may_be_anything() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    assert!(matches!(Tree::adopt(&path).await, Err(Error::NoKeeper(_))));
    std::fs::write(&path, "").unwrap();
    assert!(matches!(Tree::adopt(&path).await, Err(Error::NoKeeper(_))));
    let below = path.join("t");
    assert!(matches!(Tree::adopt(&below).await, Err(Error::NoKeeper(_))));
    std::fs::remove_file(&path).unwrap();

    let listener = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
    rustix::net::bind(&listener, &address).unwrap();
    assert!(matches!(Tree::adopt(&path).await, Err(Error::NoKeeper(_))));
    rustix::net::listen(&listener, 16).unwrap();
    type Expected = fn(&Error) -> bool;
    let answers: [(&[u8], Expected); 4] = [
        (b"", |error| matches!(error, Error::KeeperGone)),
        (b"nonsense", |error| matches!(error, Error::Protocol(_))),
        (&[1, 64, 0, 0, 1, 0, 0, 0], |error| {
            matches!(error, Error::Protocol(_))
        }),
        (&[1, 72, 0, 0, 1, 0, 0, 0, 3, 5], |error| {
            matches!(
                error,
                Error::Incompatible {
                    oldest: 3,
                    newest: 5
                }
            )
        }),
    ];
    for (bytes, expected) in answers {
        let server = listener.try_clone().unwrap();
        let answering = std::thread::spawn(move || {
            let client = Connection::from(rustix::net::accept(&server).unwrap());
            assert!(matches!(
                client.receive().unwrap().unwrap().message(),
                Ok(Request::Hello(_))
            ));
            if !bytes.is_empty() {
                rustix::net::send(&client, bytes, SendFlags::empty()).unwrap();
            }
        });
        let error = Tree::adopt(&path).await.unwrap_err();
        assert!(expected(&error), "{error:?}");
        println!("{error}");
        answering.join().unwrap();
    }
    // Nobody takes the call, and in the end there is no more room to wait.
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let path = path.clone();
        waiting.push(tokio::spawn(async move { Tree::adopt(&path).await }));
    }
    for task in waiting {
        assert!(matches!(task.await.unwrap(), Err(Error::Silent)));
    }
}

#[tokio::test]
async fn a_stopped_keeper_is_silent_and_its_host_keeps_it() {
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let tree = kept_tree(&stage, &path).await;
    let process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let keeper = Found::read(tree.keeper().pid.cast_signed()).unwrap();
    keeper.signal(Signal::STOP);
    assert!(matches!(Tree::adopt(&path).await, Err(Error::Silent)));
    keeper.signal(Signal::CONT);
    // It finds a greeting whose sender did not wait.
    assert_eq!(tree.census().await.unwrap().len(), 1);
    assert!(process.exit().is_none());
    assert_eq!(tree.end(GRACE).await.unwrap().remaining, 0);
    gone("the keeper", &keeper).await;
}

/// Without room for one more descriptor nobody is let in, the host is served on, and nothing spins.
#[tokio::test]
async fn a_keeper_without_descriptors_goes_on() {
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let tree = kept_tree(&stage, &path).await;
    let process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let keeper = Found::read(tree.keeper().pid.cast_signed()).unwrap();
    let open = std::fs::read_dir(format!("/proc/{}/fd", keeper.pid)).unwrap();
    let most = open
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u64>().ok())
        .max()
        .unwrap();
    let limit = |soft| {
        let limit = rustix::process::Rlimit {
            current: Some(soft),
            maximum: Some(1024),
        };
        let pid = rustix::process::Pid::from_raw(keeper.pid);
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    };
    // Every lower number that is free is taken by one who is let in, and is silent.
    limit(most + 1);
    let strangers: Vec<Connection> = (0..30).map(|_| knock(&path)).collect();
    let began = cpu_ticks(keeper.pid);
    for _ in 0..10 {
        sleep(Duration::from_millis(100)).await;
        assert!(tree.names().await.unwrap().is_empty());
    }
    let spent = cpu_ticks(keeper.pid) - began;
    assert!(spent < 30, "{spent} hundredths of a second in one");
    limit(1024);
    drop((strangers, tree, process));
    let adopted = adopt(&path).await;
    assert_eq!(adopted.processes.len(), 1);
    assert_eq!(adopted.tree.end(GRACE).await.unwrap().remaining, 0);
}

/// CPU time of a process, in hundredths of a second.
fn cpu_ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
