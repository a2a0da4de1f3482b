//! Viewers of a terminal.

use crate::children::ended;
use crate::far::Far;
use crate::support::{SOON, wait_until};

fn far() -> Far {
    let far = Far::new();
    far.ok(&[
        "session", "new", "--name", "s", "--grace", "300ms", "--env", "PS1=$ ",
    ]);
    far
}

#[test]
fn a_shell_is_made_typed_into_left_and_found_again() {
    let far = far();
    let (first, mut child) = far.at_terminal(&["attach", "s"]);
    first.expect("$ ");
    first.input("echo one''two; stty size\n");
    first.expect("onetwo");
    first.expect("24 80");
    first.resize(30, 100);
    first.input("sleep 0.2; stty size\n");
    first.expect("30 100");
    first.input("\x10\x11");
    first.expect("[detached]");
    assert_eq!(ended(&mut child).code(), Some(0));
    // It is the same one.
    let (again, mut child) = far.at_terminal(&["attach", "s"]);
    again.expect("onetwo");
    again.input("exit 5\n");
    again.expect("[exited with 5]");
    assert_eq!(ended(&mut child).code(), Some(5));
    assert_eq!(
        far.json(&["session", "close", "s", "--json"])["remaining"],
        0
    );
}

#[test]
fn a_terminal_has_one_who_types_and_goes_to_the_next() {
    let far = far();
    let id = far.ok_beside(&["exec", "-d", "-t", "--name", "shell", "s", "--", "sh"]);
    let (first, mut first_child) = far.at_terminal(&["attach", "--detach-keys", "ctrl-a,d", &id]);
    first.expect("$ ");
    let (second, mut second_child) = far.at_terminal(&["attach", "s/shell"]);
    second.expect("another client has this terminal");
    first.input("echo se''en\n");
    first.expect("seen");
    second.expect("seen");
    first.input("\x01d");
    first.expect("[detached]");
    assert_eq!(ended(&mut first_child).code(), Some(0));
    // Now it is the other one's, by itself.
    let mut typed = 0;
    wait_until("what the second types is taken", SOON, || {
        typed += 1;
        second.input("\n");
        std::thread::sleep(std::time::Duration::from_millis(20));
        second.screen().matches("$ ").count() > 1
    });
    second.input("echo mi''ne; kill -9 $$\n");
    second.expect("mine");
    second.expect("[ended by SIGKILL]");
    assert_eq!(ended(&mut second_child).code(), Some(137));
}

#[test]
fn a_full_screen_is_right_at_once_and_undone() {
    let far = far();
    let script =
        r"printf '\033[?1049h\033[?25l\033[2J\033[10;10Hmiddle\033[1;1Htop'; exec sleep 1000";
    far.ok_beside(&[
        "exec", "-d", "-t", "--name", "full", "s", "--", "sh", "-c", script,
    ]);
    // Nobody draws again but the host: the program does nothing any more.
    let (pty, mut child) = far.at_terminal(&["attach", "full"]);
    let drawn = pty.expect("middle") + &pty.screen();
    assert!(drawn.contains("\x1b[?1049h"), "{drawn:?}");
    wait_until("all is drawn", SOON, || {
        drawn.contains("top") || pty.screen().contains("top")
    });
    pty.input("\x10\x11");
    let left = pty.expect("[detached]");
    assert!(
        left.contains("\x1b[?1049l") && left.contains("\x1b[?25h"),
        "{left:?}"
    );
    assert_eq!(ended(&mut child).code(), Some(0));
}

#[test]
fn a_connection_that_is_lost_comes_back_with_what_was_typed() {
    let far = far();
    far.ok_beside(&[
        "exec",
        "-d",
        "-t",
        "--name",
        "cat",
        "s",
        "--",
        "sh",
        "-c",
        "stty -echo; echo ready; exec cat -n",
    ]);
    let (pty, mut child) = far.at_terminal(&["attach", "cat"]);
    pty.expect("ready");
    for round in 1..=3 {
        pty.input(&format!("before {round}\n"));
        pty.expect(&format!("before {round}"));
        wait_until("a connection to cut", SOON, || far.net.cut() > 0);
        pty.expect("was lost: connecting again");
        pty.input(&format!("after {round}\n"));
        // Once each: the lines are numbered.
        pty.expect(&format!("{}\tafter {round}", 2 * round));
    }
    pty.input("\x04");
    pty.expect("[exited with 0]");
    assert_eq!(ended(&mut child).code(), Some(0));
}
