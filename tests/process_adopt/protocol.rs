//! Keepers outlive releases: what hosts and keepers of this version say to each other is kept, byte for byte, and spoken for
//! as long as that version is.
//!
//! `session-v1.txt` holds one conversation over the rendezvous. `>` is a host's frame, with what goes beside it; the frames
//! that answer it follow, `<`; `reconnect` is a new connection. With `HOSTLER_RECORD_SESSION=FILE` the conversation of this
//! build is written there: for a new version, in a file of its own. A file that was released is never changed.

use std::ffi::CString;
use std::fmt::Write as _;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use hostler_keeper::connection::Connection;
use hostler_keeper::message::{Event, Hello, Message, Reply, Request, Spawn, Tidy};
use hostler_keeper::wire::{HEADER_LEN, Header, Writer};
use hostler_process::{Group, Key, OnHostExit, Target, TreeOptions};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::gone;
use crate::support::{Found, Stage};

const SESSION: &str = include_str!("session-v1.txt");

/// One frame of a host, what goes beside it, and the frames that answer it.
struct Turn {
    reconnect: bool,
    frame: Vec<u8>,
    /// How many descriptors, each /dev/null.
    beside: usize,
    answers: Vec<Vec<u8>>,
}

fn encode<'a>(id: u32, message: &impl Message<'a>) -> Vec<u8> {
    let mut writer = Writer::new();
    let kind = message.encode(&mut writer);
    let header = Header {
        kind,
        in_file: false,
        id,
    };
    [&header.encode()[..], &writer.finish()].concat()
}

/// What the host of this version says, and how many frames answer each.
fn said() -> Vec<(bool, Vec<u8>, usize, usize)> {
    let spawn = |key, args: Vec<&'static std::ffi::CStr>| {
        Request::Spawn(Box::new(Spawn {
            key: Key(key),
            main: false,
            program: c"/bin/sh",
            args,
            env: vec![c"PATH=/usr/bin:/bin"],
            cwd: Some(c"/"),
            fds: vec![0, 1, 2],
            group: Group::Session,
            nice: Some(1),
            umask: Some(0o22),
            rlimits: vec![hostler_keeper::message::Rlimit {
                resource: libc::RLIMIT_CORE,
                soft: 0,
                hard: 0,
            }],
            blocked: 0,
            ignored: Some(0),
            stored: Vec::new(),
            tidy: Tidy::default(),
        }))
    };
    let hello = || {
        Request::Hello(Hello {
            oldest: 1,
            newest: 1,
            name: b"recorded",
        })
    };
    let grace = Duration::from_millis(200);
    let wait = Duration::from_secs(30);
    let turns: Vec<(bool, Request<'static>, usize, usize)> = vec![
        (true, hello(), 0, 1),
        (false, Request::Names, 0, 1),
        (false, Request::Store { name: b"kept" }, 1, 1),
        (false, Request::Names, 0, 1),
        // Spawned, and its exit.
        (false, spawn(7, vec![c"sh", c"-c", c"exit 3"]), 3, 2),
        (
            false,
            spawn(9, vec![c"sh", c"-c", c"exec sleep 1000"]),
            3,
            1,
        ),
        (false, spawn(9, vec![c"sh"]), 3, 1),
        (false, Request::Processes, 0, 1),
        (false, Request::Census, 0, 1),
        (
            false,
            Request::Signal {
                target: Target::Process(Key(7)),
                signal: 15,
            },
            0,
            1,
        ),
        (false, Request::SetOnHostExit(OnHostExit::Keep(wait)), 0, 1),
        (false, Request::HandOver { wait }, 0, 1),
        (true, hello(), 0, 1),
        (false, Request::Fetch { name: b"kept" }, 0, 1),
        (false, Request::Fetch { name: b"other" }, 0, 1),
        (false, Request::Discard { name: b"kept" }, 0, 1),
        // The report, and its exit.
        (false, Request::Release { key: Key(9), grace }, 0, 2),
        (false, Request::Forget { key: Key(7) }, 0, 1),
        (false, Request::Forget { key: Key(9) }, 0, 1),
        (false, Request::Processes, 0, 1),
        // The answer, and the event.
        (false, Request::End { grace }, 0, 2),
    ];
    turns
        .into_iter()
        .zip(1..)
        .map(|((reconnect, request, beside, answers), id)| {
            (reconnect, encode(id, &request), beside, answers)
        })
        .collect()
}

fn recorded() -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    let mut reconnect = false;
    for line in SESSION.lines() {
        match line.split_at_checked(2) {
            Some(("> ", rest)) => {
                let (hex, beside) = rest.split_once(" +").unwrap_or((rest, "0"));
                turns.push(Turn {
                    reconnect: std::mem::take(&mut reconnect),
                    frame: bytes(hex),
                    beside: beside.parse().unwrap(),
                    answers: Vec::new(),
                });
            }
            Some(("< ", hex)) => turns.last_mut().unwrap().answers.push(bytes(hex)),
            _ => reconnect |= line == "reconnect",
        }
    }
    turns
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn send(connection: &Connection, frame: &[u8], beside: usize) {
    let null: Vec<OwnedFd> = (0..beside)
        .map(|_| std::fs::File::open("/dev/null").unwrap().into())
        .collect();
    let null: Vec<BorrowedFd<'_>> = null.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if beside > 0 {
        assert!(control.push(SendAncillaryMessage::ScmRights(&null)));
    }
    let parts = [IoSlice::new(frame)];
    rustix::net::sendmsg(connection, &parts, &mut control, SendFlags::empty()).unwrap();
}

fn receive(connection: &Connection) -> Vec<u8> {
    let received = connection.receive().unwrap().expect("an answer");
    [&received.header.encode()[..], &received.body].concat()
}

/// Plays the host's part to a keeper of this build, and gives back its answers.
async fn play(turns: &[(bool, Vec<u8>, usize, usize)]) -> Vec<Vec<Vec<u8>>> {
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let options = TreeOptions {
        rendezvous: Some(path.clone()),
        contain: Some(hostler_process::Contain::Tree),
        ..stage.options()
    };
    let tree = stage.zygote.tree(options).await.unwrap();
    let keeper = Found::read(tree.keeper().pid.cast_signed()).unwrap();
    tree.hand_over(Duration::from_secs(30)).await.unwrap();
    let connect = |path: &Path| {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        hostler_keeper::rendezvous::connect(&path).unwrap().0
    };
    let mut connection = connect(&path);
    let mut said = Vec::new();
    for (reconnect, frame, beside, answers) in turns {
        if *reconnect {
            connection = connect(&path);
        }
        send(&connection, frame, *beside);
        said.push((0..*answers).map(|_| receive(&connection)).collect());
    }
    gone("the keeper", &keeper).await;
    said
}

fn head(frame: &[u8]) -> (u8, u32) {
    let (header, _) = Header::decode(frame).unwrap();
    (header.kind, header.id)
}

/// Whether the answer says pids and times, which are others each time.
fn varies(frame: &[u8]) -> bool {
    matches!(head(frame).0, 66..=68 | 70 | 71 | 130 | 134)
}

#[tokio::test]
async fn the_recorded_session_is_spoken() {
    let said = said();
    if let Some(file) = std::env::var_os("HOSTLER_RECORD_SESSION") {
        let mut text = String::new();
        for ((reconnect, frame, beside, _), answers) in said.iter().zip(play(&said).await) {
            if *reconnect {
                text.push_str("reconnect\n");
            }
            let beside = if *beside > 0 {
                format!(" +{beside}")
            } else {
                String::new()
            };
            let _ = writeln!(text, "> {}{beside}", hex(frame));
            for answer in answers {
                let _ = writeln!(text, "< {}", hex(&answer));
            }
        }
        std::fs::write(file, text).unwrap();
    }
    let recorded = recorded();
    let turns: Vec<_> = recorded
        .iter()
        .map(|turn| {
            let (frame, answers) = (turn.frame.clone(), turn.answers.len());
            (turn.reconnect, frame, turn.beside, answers)
        })
        .collect();
    for (turn, answers) in recorded.iter().zip(play(&turns).await) {
        let mut known: Vec<(u8, u32)> = turn.answers.iter().map(|frame| head(frame)).collect();
        let mut now: Vec<(u8, u32)> = answers.iter().map(|frame| head(frame)).collect();
        known.sort_unstable();
        now.sort_unstable();
        assert_eq!(known, now, "{}", hex(&turn.frame));
        for answer in turn.answers.iter().filter(|frame| !varies(frame)) {
            // Fields may have been appended.
            let same = |now: &Vec<u8>| now.starts_with(answer);
            assert!(answers.iter().any(same), "{}", hex(answer));
        }
    }
}

/// What this build writes begins with what was recorded, and says the same.
#[test]
fn recorded_frames_are_read_and_written_alike() {
    let mut kinds = std::collections::BTreeSet::new();
    for (turn, (_, now, beside, _)) in recorded().iter().zip(said()) {
        assert!(now.starts_with(&turn.frame), "{}", hex(&turn.frame));
        assert_eq!(turn.beside, beside);
        for frame in &turn.answers {
            let (header, body) = Header::decode(frame).unwrap();
            kinds.insert(header.kind);
            let again = if header.kind < 128 {
                encode(header.id, &Reply::decode(header.kind, body).unwrap())
            } else {
                encode(header.id, &Event::decode(header.kind, body).unwrap())
            };
            assert!(again.starts_with(&frame[..HEADER_LEN]), "{}", hex(frame));
            assert!(again.len() >= frame.len(), "{}", hex(frame));
            // What holds a blob of its own may have grown inside.
            if header.kind != 71 {
                assert!(again.starts_with(frame), "{}", hex(frame));
            }
        }
    }
    let all = [64, 65, 66, 67, 68, 69, 70, 71, 130, 134];
    assert_eq!(kinds, all.into_iter().collect());
}
