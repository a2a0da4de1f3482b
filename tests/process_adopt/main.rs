//! Trees that change their host: found whole, never doubled, and never ended by a stranger.

#[path = "../support/async_tree.rs"]
#[allow(dead_code)]
mod support;

// The program comes by hooks in debug builds only.
#[cfg(debug_assertions)]
#[path = "../support/hooks.rs"]
#[allow(dead_code)]
mod hooks;
#[path = "../support/hosts.rs"]
#[cfg_attr(not(debug_assertions), allow(dead_code))]
mod hosts;

mod deaths;
mod door;
mod protocol;
mod streams;
mod whole;

use std::path::Path;
use std::time::Duration;

use hostler_process::{Adopted, Error, Tree};
use support::{Found, until};

const GRACE: Duration = Duration::from_millis(200);

/// Is a host of its own for the other tests; nothing by itself.
#[test]
fn the_host() {
    hosts::be_host();
}

/// Is a stranger for another test; nothing by itself.
#[test]
fn the_stranger() {
    door::be_stranger();
}

/// Adopts a tree, and says what was adopted where that went wrong.
async fn adopt(path: &Path) -> Adopted {
    match Tree::adopt(path).await {
        Ok(adopted) => adopted,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// Waits until a keeper has seen that its host is gone: then it takes no more for what that had asked.
async fn gone(what: &str, found: &Found) {
    until(what, || !found.still_lives()).await;
}

fn pid_of(words: &str) -> i32 {
    words
        .split(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("no pid: {words}"))
}

/// Kills a process that is known by its start too.
fn kill(found: &Found) {
    found.signal(hostler_process::Signal::KILL);
}

fn is_no_keeper(error: &Error) -> bool {
    matches!(error, Error::NoKeeper(_))
}
