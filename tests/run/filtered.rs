//! In containers whose system call filter does not know what came with later kernels.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::support::{Cell, Contain, Scene};

/// The grace that is given, and a second.
const LIMIT: Duration = Duration::from_millis(1300);

#[test]
fn a_filter_that_refuses_clone3_and_close_range() {
    for cell in Cell::all() {
        for errno in [Errno::NOSYS, Errno::PERM] {
            let scene = Scene::new(cell);
            let script = "setsid sleep 100 & cat /proc/self/cgroup; ls /proc/self/fd; exit 3";
            let words = scene.run_words(&["--grace", "300ms"], ["sh", "-c", script]);
            let number = errno.raw_os_error().to_string();
            let filtered = scene.misbehave_words(&["filtered", &number]);
            let all: Vec<OsString> = filtered.into_iter().chain(words).collect();
            let since = Instant::now();
            let outcome = scene.outcome(&mut scene.wrapped(all));
            scene.await_none("what a filtered command left", since, LIMIT);
            assert_eq!(outcome.code, 3, "{outcome:?}");
            let in_group = outcome.out.contains("/hostler-run-");
            match cell.contain {
                Contain::Tree => assert!(!in_group, "{outcome:?}"),
                Contain::Cgroup => assert!(in_group, "{outcome:?}"),
                // With a group where one can be had.
                Contain::Pidns => {}
            }
        }
    }
}

#[test]
fn the_init_of_a_namespace_holds_nothing_there_too() {
    for cell in Cell::all() {
        if cell.contain != Contain::Pidns {
            continue;
        }
        let scene = Scene::new(cell);
        let words = scene.run_words(&[], ["sh", "-c", "ls /proc/1/fd"]);
        let filtered = scene.misbehave_words(&["filtered", "1"]);
        let outcome = scene.outcome(&mut scene.wrapped(filtered.into_iter().chain(words)));
        assert_eq!(outcome.code, 0, "{outcome:?}");
        // The one by which it tells the keeper that it reaped, and for a moment the one by which it told that it stands.
        assert!(
            (1..=2).contains(&outcome.out.lines().count()),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_filter_that_refuses_handles_on_processes() {
    for cell in Cell::all() {
        for call in ["pidfd_open", "pidfd_send_signal"] {
            for errno in [Errno::NOSYS, Errno::PERM] {
                let scene = Scene::new(cell);
                let since = Instant::now();
                let script = "echo ran; setsid sleep 100 & exit 3";
                let words = scene.run_words(&["--grace", "300ms"], ["sh", "-c", script]);
                let number = errno.raw_os_error().to_string();
                let refused = scene.misbehave_words(&["refused", call, &number]);
                let outcome = scene.outcome(&mut scene.wrapped(refused.into_iter().chain(words)));
                scene.await_none("nothing was started", since, LIMIT);
                assert_eq!((outcome.code, outcome.out.as_str()), (1, ""), "{outcome:?}");
                assert_eq!(outcome.err.lines().count(), 1, "{outcome:?}");
                assert!(outcome.err.contains("pidfd_open"), "{outcome:?}");
            }
        }
    }
}

#[test]
fn missing_programs_are_told_there_too() {
    let scene = Scene::new(Cell::plain());
    let words = scene.run_words(&[], ["/nowhere/at/all"]);
    let filtered = scene.misbehave_words(&["filtered", "38"]);
    let outcome = scene.outcome(&mut scene.wrapped(filtered.into_iter().chain(words)));
    assert_eq!(outcome.code, 127, "{outcome:?}");
    assert_eq!(outcome.err.lines().count(), 1, "{outcome:?}");
}
