//! Clients of a host that another one takes over from notice nothing.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::mpsc;

use crate::children::ended;
use crate::place::Place;

/// More than all that is on the way holds, so that input and output are under way whenever another host takes over.
const LINES: u32 = 300_000;
/// After so many lines another host takes over.
const TURN: u32 = 60_000;

#[test]
fn input_and_output_go_on_and_nothing_comes_twice() {
    let mut place = Place::with_session("s");
    let mut child = place
        .hostler(&["exec", "s", "--", "sh", "-c", "cat; exit 4"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("hostler");
    let mut stdin = child.stdin.take().expect("stdin");
    let lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let (turn, turns) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for n in 0..LINES {
                writeln!(stdin, "{n}").expect("write");
            }
        });
        scope.spawn(move || {
            let mut next = 0;
            for line in lines {
                assert_eq!(line.expect("a line"), next.to_string());
                if next % TURN == 10 {
                    turn.send(()).expect("send");
                }
                next += 1;
            }
            assert_eq!(next, LINES);
        });
        // While both go on.
        for () in turns {
            place.take_over();
        }
    });
    assert_eq!(ended(&mut child).code(), Some(4));
}
