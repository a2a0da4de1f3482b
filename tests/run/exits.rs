//! What `hostler run` ends with, and when.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Cell, SOON, Scene, read_text};

#[test]
fn every_status_is_passed_on() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let script = "i=0; while [ $i -le 255 ]; do \"$0\" run --contain \"$1\" -- sh -c \"exit $i\"; [ $? = $i ] || echo $i; i=$((i+1)); done";
        let contain = scene.run_words(&[], ["true"])[3].clone();
        let words = [
            "sh".into(),
            "-c".into(),
            script.into(),
            scene.kit.hostler().into_os_string(),
            contain,
        ];
        let outcome = scene.outcome(&mut scene.wrapped(words));
        assert_eq!(
            (outcome.out.as_str(), outcome.err.as_str()),
            ("", ""),
            "statuses that were not passed on"
        );
        println!("{cell:?}: 256 runs in {:?}", outcome.took);
    }
}

#[test]
fn a_signal_is_128_and_its_number() {
    for cell in Cell::all() {
        for signal in [1, 2, 3, 6, 9, 11, 13, 14, 15, 34, 64] {
            let scene = Scene::new(cell);
            let outcome = scene.outcome(&mut scene.misbehave(&[], &["die", &signal.to_string()]));
            assert_eq!(
                (outcome.code, outcome.signal),
                (128 + signal, None),
                "{outcome:?}"
            );
        }
    }
}

#[test]
fn it_ends_with_the_command_not_with_the_pipe() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let since = Instant::now();
        let words = scene.run_words(&[], ["sh", "-c", "sleep 100 & echo hi"]);
        let mut shell: Vec<std::ffi::OsString> =
            ["sh", "-c", "\"$@\" | cat", "sh"].map(Into::into).into();
        shell.extend(words);
        let outcome = scene.outcome(&mut scene.wrapped(shell));
        scene.await_none("a pipe held open", since, Duration::from_secs(1));
        assert_eq!(outcome.out, "hi\n");
        assert_eq!(outcome.err, "");
    }
}

#[test]
fn what_stays_behind_is_waited_for_where_asked() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let late = scene.lines("late");
        // Detached, it takes its time; it is told to write by the FIFO.
        let script =
            "setsid sh -c 'read x < \"$MISBEHAVE_GO\"; echo late >> \"$0\"' \"$0\" & exit 5";
        let words = [
            "sh".into(),
            "-c".into(),
            script.into(),
            late.path().as_os_str().to_owned(),
        ];
        let mut front = scene.start(&mut scene.run(&["--keep-children"], words));
        let quiet = Duration::from_millis(200);
        std::thread::sleep(quiet);
        assert!(
            front.child().try_wait().expect("wait").is_none(),
            "it did not wait: {}",
            front.err()
        );
        scene.go();
        assert_eq!(front.wait(SOON).code(), Some(5), "{}", front.err());
        assert_eq!(late.all(), ["late"]);
        scene.await_none(
            "--keep-children",
            Instant::now(),
            Duration::from_millis(100),
        );
    }
}

#[test]
fn orphans_are_reaped_while_the_command_runs() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let script = "for i in 1 2 3 4 5 6 7 8 9 10; do (true & true &) ; done; echo made >> \"$MISBEHAVE_READY\"; read x < \"$MISBEHAVE_GO\"";
        let mut front = scene.start(&mut scene.run(&[], ["sh", "-c", script]));
        scene
            .ready
            .wait_for("orphans", SOON, |lines| lines.len() == 1);
        let parents = [front.pid(), front.zygote().pid, front.keeper().pid];
        let zombies = || {
            let children = parents
                .iter()
                .flat_map(|&pid| crate::support::children_of(pid));
            children.filter(|child| !child.lives()).count()
        };
        crate::support::wait_until("no zombies", SOON, || zombies() == 0);
        scene.go();
        assert_eq!(
            front.wait(SOON).code(),
            Some(1),
            "read meets the end of the file"
        );
    }
}

#[test]
fn what_the_command_writes_is_not_touched() {
    let scene = Scene::new(Cell::plain());
    let script = "head -c 3000000 /dev/zero; printf 'last words' >&2";
    let outcome = scene.outcome(&mut scene.run(&[], ["sh", "-c", script]));
    assert_eq!(
        (outcome.out.len(), outcome.err.as_str(), outcome.code),
        (3_000_000, "last words", 0)
    );
}

#[test]
fn what_it_reads_goes_to_the_command_alone() {
    let scene = Scene::new(Cell::plain());
    let input = scene.path("input");
    std::fs::write(&input, "one\ntwo\n").expect("write");
    let mut command = scene.run(&[], ["sh", "-c", "read a; read b; echo \"$b $a\""]);
    command.stdin(Stdio::from(std::fs::File::open(&input).expect("open")));
    assert_eq!(scene.outcome(&mut command).out, "two one\n");
}

#[test]
fn a_writer_into_a_full_pipe_can_be_ended() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let mut command = scene.misbehave(&["--grace", "300ms"], &["write-endlessly"]);
        let err = scene.path("err-pipe");
        command
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&err).expect("create"));
        let mut front = scene.start_as_is(&mut command, scene.path("none"), err.clone());
        scene
            .ready
            .wait_for("it writes", SOON, |lines| lines.len() == 1);
        let since = Instant::now();
        front.signal(rustix::process::Signal::TERM);
        assert_eq!(front.wait(SOON).code(), Some(143), "{}", read_text(&err));
        scene.await_none("a full pipe", since, Duration::from_millis(1300));
    }
}
