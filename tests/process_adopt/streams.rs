//! What a process writes reaches its hosts once and in order, whoever they are.

use hostler_process::Terminal;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::hosts::{Host, Scene};
use crate::{GRACE, adopt};

const LINES: usize = 60_000;

fn numbers() -> String {
    // In many writes, and some time.
    format!("i=0; while [ $i -lt {LINES} ]; do echo $i; i=$((i+1)); done")
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    text.lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

fn check(bytes: &[u8]) {
    let lines = lines(bytes);
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(line, &number.to_string(), "of {}", lines.len());
    }
    assert_eq!(lines.len(), LINES);
}

/// Takes over from the one before: by its death, over its head, or given by it.
fn take(scene: &Scene, host: &mut Host, number: usize) -> Host {
    let mut next = scene.host();
    match number % 3 {
        0 => host.kill(),
        1 => drop(host.ok("hand t 30000")),
        _ => {}
    }
    next.ok("adopt t");
    next.ok("open t pipe");
    next.ok("open t term");
    next
}

#[tokio::test]
async fn numbered_lines_cross_twenty_adoptions() {
    let scene = Scene::new();
    let mut host = scene.host();
    host.ok("tree t 30000");
    host.ok(&format!("spawn t pipe {}", numbers()));
    host.ok(&format!("type t term {}", numbers()));
    for number in 0..20 {
        host.ok("read pipe 7000");
        host.ok("read term 8000");
        host = take(&scene, &mut host, number);
    }
    drop(host);

    let adopted = adopt(&scene.socket("t")).await;
    let tree = adopted.tree;
    let output = tree.fetch(b"pipe.stdout").await.unwrap();
    let mut output = pipe::Receiver::from_owned_fd(output).unwrap();
    let mut terminal = Terminal::from_master(tree.fetch(b"term").await.unwrap()).unwrap();
    let mut piped = std::fs::read(scene.dir.path().join("pipe.log")).unwrap();
    let mut typed = std::fs::read(scene.dir.path().join("term.log")).unwrap();
    let seen = (lines(&piped).len(), lines(&typed).len());
    println!("before the last adoption: {seen:?} lines");
    assert!(seen.0 < LINES && seen.1 < LINES, "they still wrote");
    let (a, b) = tokio::join!(
        output.read_to_end(&mut piped),
        terminal.read_to_end(&mut typed)
    );
    a.unwrap();
    b.unwrap();
    check(&piped);
    check(&typed);
    for (process, _) in &adopted.processes {
        assert_eq!(
            process.wait().await.status,
            hostler_process::ExitStatus::Code(0)
        );
    }
    assert_eq!(tree.end(GRACE).await.unwrap().remaining, 0);
}

/// The pipes of a process are stored before it runs: a host that is killed at the moment of its start loses nothing.
#[cfg(debug_assertions)]
#[tokio::test]
async fn a_host_that_dies_while_it_spawns_leaves_the_pipes() {
    let hooks = crate::hooks::Hooks::new();
    for name in ["spawn.before-clone", "spawn.after-exec"] {
        let scene = Scene::with_hooks(Some(&hooks.path()));
        let mut host = scene.host();
        host.ok("tree t 30000");
        hooks.hold(name);
        host.say("spawn t p read word; echo $word; exit 4");
        let held = hooks.arrival();
        host.kill();
        drop(held);
        let adopted = adopt(&scene.socket("t")).await;
        let [(process, _)] = &adopted.processes[..] else {
            panic!("{:?}", adopted.processes)
        };
        let input = adopted.tree.fetch(b"p.stdin").await.unwrap();
        std::io::Write::write_all(&mut std::fs::File::from(input), b"heard\n").unwrap();
        assert_eq!(
            process.wait().await.status,
            hostler_process::ExitStatus::Code(4)
        );
        let output = adopted.tree.fetch(b"p.stdout").await.unwrap();
        let mut said = String::new();
        pipe::Receiver::from_owned_fd(output)
            .unwrap()
            .read_to_string(&mut said)
            .await
            .unwrap();
        assert_eq!(said, "heard\n");
        assert_eq!(adopted.tree.end(GRACE).await.unwrap().remaining, 0);
    }
}
