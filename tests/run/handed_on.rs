//! What `hostler` does not do itself it hands on to the program beside it, which finds everything as it was given.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Cell, Outcome, Scene};

/// Runs these words, after a shell has prepared the ground.
fn after(scene: &Scene, prepare: &str, words: Vec<OsString>) -> Outcome {
    let script: OsString = format!("{prepare}\nexec \"$@\"").into();
    let shell = ["sh".into(), "-c".into(), script, "sh".into()];
    scene.outcome(&mut scene.wrapped(shell.into_iter().chain(words)))
}

/// A directory with `hostler` in it, and this in the place of `hostler-host`.
fn beside(scene: &Scene, host: Option<&Path>) -> tempfile::TempDir {
    let kit = scene.kit.hostler();
    // In the kit's own directory: a file cannot have links on two file systems.
    let dir = tempfile::tempdir_in(kit.parent().expect("a directory")).expect("a directory");
    fs::hard_link(&kit, dir.path().join("hostler")).expect("a link");
    if let Some(host) = host {
        fs::hard_link(host, dir.path().join("hostler-host")).expect("a link");
    }
    dir
}

/// The line without what stands between these two.
fn unnumbered(line: &str, before: &str, behind: &str) -> String {
    let parts = line
        .split_once(before)
        .and_then(|(left, right)| Some((left, right.split_once(behind)?.1)));
    match parts {
        Some((left, right)) => format!("{left}{before}{behind}{right}"),
        None => line.to_owned(),
    }
}

#[test]
fn as_it_was_given() {
    let scene = Scene::new(Cell::plain());
    let dir = beside(&scene, Some(&scene.kit.misbehave()));
    for (prepare, what) in [
        ("exec 7</dev/null 2>&1", "fds"),
        ("exec 0<&- 7</dev/null", "fds"),
        ("exec 2>&-", "fds"),
        ("trap '' PIPE USR1; umask 027", "state"),
        ("export A=1 B='two words' C=", "state"),
    ] {
        let bare = after(&scene, prepare, scene.misbehave_words(&[what]));
        let words = vec![dir.path().join("hostler").into(), what.into()];
        let handed = after(&scene, prepare, words);
        // Pipes and the files of output have other numbers each time, and what names the process differs.
        let comparable = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| {
                !line.starts_with("session ")
                    && !line.starts_with("group ")
                    && !line.contains(" _=")
            });
            lines
                .map(|line| {
                    let line = unnumbered(line, "pipe:[", "]");
                    unnumbered(&unnumbered(&line, "/out-", " "), "/err-", " ")
                })
                .collect()
        };
        assert!(!bare.out.is_empty(), "{bare:?}");
        assert_eq!(
            (bare.code, comparable(&bare.out)),
            (handed.code, comparable(&handed.out)),
            "after `{prepare}`"
        );
    }
}

#[test]
fn nobody_is_there() {
    let scene = Scene::new(Cell::plain());
    let dir = beside(&scene, None);
    for words in [&["ps"][..], &["--help"], &[]] {
        let hostler = dir.path().join("hostler").into_os_string();
        let words = [hostler].into_iter().chain(words.iter().map(Into::into));
        let outcome = scene.outcome(&mut scene.wrapped(words));
        assert_eq!(
            (outcome.code, outcome.out.as_str()),
            (127, ""),
            "{outcome:?}"
        );
        let missing = dir.path().join("hostler-host");
        let missing = missing.to_str().expect("text");
        assert!(
            outcome.err.starts_with("hostler: ") && outcome.err.contains(missing),
            "{outcome:?}"
        );
        assert_eq!(outcome.err.lines().count(), 1, "{outcome:?}");
    }
    // `run` needs nobody.
    let words = ["run", "--", "sh", "-c", "exit 3"].map(OsString::from);
    let words = [dir.path().join("hostler").into()].into_iter().chain(words);
    let outcome = scene.outcome(&mut scene.wrapped(words));
    assert_eq!(outcome.code, 3, "{outcome:?}");
    scene.await_none("alone", Instant::now(), Duration::from_millis(100));
}

#[test]
fn help_is_the_same_from_both() {
    let scene = Scene::new(Cell::plain());
    let print = |program: OsString, word: &str| {
        let words = [program, "run".into(), word.into()];
        let outcome = scene.outcome(&mut scene.wrapped(words));
        (outcome.code, outcome.out, outcome.err)
    };
    let small = scene.kit.hostler();
    // Its usage begins with the name that it was called by.
    let dir = tempfile::tempdir_in(small.parent().expect("a directory")).expect("a directory");
    let host = dir.path().join("hostler");
    fs::hard_link(small.with_file_name("hostler-host"), &host).expect("a link");
    for word in ["--help", "-h", "--no-such", "--grace", "--grace=x"] {
        let one = print(small.clone().into(), word);
        assert_eq!(one, print(host.clone().into(), word), "{word}");
        assert!(
            word.len() > 6 || one.0 == 0 && one.1.contains("hostler run"),
            "{one:?}"
        );
    }
}
