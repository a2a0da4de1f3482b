//! Clients of a host that another one takes over from notice nothing.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::place::{Place, ended};

#[test]
fn input_and_output_go_on_and_nothing_comes_twice() {
    let mut place = Place::with_session("s");
    let mut child = place
        .hostler(&[
            "exec",
            "s",
            "--",
            "sh",
            "-c",
            "while read n; do echo line $n; done; exit 4",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("hostler");
    let mut stdin = child.stdin.take().expect("stdin");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    for round in 0..3 {
        let numbers = || (round * 1000)..(round * 1000 + 1000);
        for n in numbers() {
            writeln!(stdin, "{n}").expect("write");
        }
        for n in numbers() {
            let line = lines.next().expect("a line").expect("a line");
            assert_eq!(line, format!("line {n}"));
            // In the middle of it: the command runs, and most of its output is still to be read.
            if n % 1000 == 10 {
                place.take_over();
            }
        }
    }
    drop(stdin);
    assert!(lines.next().is_none());
    assert_eq!(ended(&mut child).code(), Some(4));
}
