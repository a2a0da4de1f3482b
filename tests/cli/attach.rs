//! Viewers of a terminal.

use crate::children::ended;
use crate::place::Place;
use crate::support::{SOON, wait_until};

#[test]
fn viewers_share_a_terminal_and_leave_it_by_keys() {
    let place = Place::with_session("s");
    let (first, mut first_child) = place.at_terminal(&["attach", "s"]);
    first.expect("$ ");
    first.input("echo one''two\n");
    first.expect("onetwo");
    let (second, mut second_child) = place.at_terminal(&["attach", "s"]);
    // It joins with what is on the screen.
    second.expect("onetwo");
    second.input("echo three''four\n");
    first.expect("threefour");
    second.expect("threefour");
    second.input("\x10\x11");
    second.expect("[detached]");
    assert_eq!(ended(&mut second_child).code(), Some(0));
    // The beginning of the keys alone is passed on, when nothing follows.
    first.input("cat -v\n\x10");
    first.expect("cat -v");
    first.expect("^P");
    first.input("\n\x04");
    first.input("exit 5\n");
    first.expect("[exited with 5]");
    assert_eq!(ended(&mut first_child).code(), Some(5));
    let ended = place.json(&["ps", "s", "--json"]);
    assert_eq!(ended.as_array().map(Vec::len), Some(0));
}

#[test]
fn keys_can_be_chosen_and_the_terminal_named() {
    let place = Place::with_session("s");
    let id = place.ok(&["exec", "-d", "-t", "--name", "shell", "s", "--", "sh"]);
    for target in ["s/shell", "shell", &id, &id[..6]] {
        let (pty, mut child) = place.at_terminal(&["attach", "--detach-keys", "ctrl-a,d", target]);
        pty.expect("$ ");
        pty.input("\x01d");
        pty.expect("[detached]");
        assert_eq!(ended(&mut child).code(), Some(0));
    }
}

#[test]
fn what_a_program_has_set_is_set_for_a_viewer_and_undone_when_it_leaves() {
    let place = Place::with_session("s");
    // Another screen, long ago; what came since is more than a screenful.
    let script = "printf '\\033[?1049h\\033[?25l'; seq 500; trap 'echo drawn' WINCH; echo up; while :; do sleep 0.02; done";
    let id = place.ok(&["exec", "-d", "-t", "s", "--", "sh", "-c", script]);
    wait_until("it is up", SOON, || place.ok(&["logs", &id]).contains("up"));
    let (pty, mut child) = place.at_terminal(&["attach", "s"]);
    pty.expect("\x1b[?1049h\x1b[?25l");
    pty.expect("drawn");
    pty.input("\x10\x11");
    pty.expect("\x1b[?25h\x1b[?1049l");
    pty.expect("[detached]");
    ended(&mut child);
}

#[test]
fn without_a_terminal_there_is_nothing_to_attach() {
    let place = Place::with_session("s");
    let id = place.ok(&["exec", "-d", "-t", "s", "--", "cat"]);
    for target in ["s", &id] {
        let (status, line) = place.fails(&["attach", target]);
        assert_eq!(status, Some(1));
        assert!(line.contains("no terminal here"), "{line}");
    }
    let (_, line) = place.fails(&["attach", "nothing"]);
    assert!(
        line.contains("no session and no process `nothing`"),
        "{line}"
    );
}
