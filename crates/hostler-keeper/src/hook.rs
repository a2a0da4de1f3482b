//! Named events in the code, at which a test can await or pause a process. Nothing of it is in a release build.
//!
//! A test listens on a Unix stream socket and names it in `HOSTLER_TEST_HOOKS`. A process that comes by `hook!("name")`
//! connects, writes `name pid\n`, and goes on once it has read a byte, or once the connection ends. Whoever does not set
//! the variable sees no difference.

/// Comes by the event of this name.
#[macro_export]
macro_rules! hook {
    ($name:literal) => {
        #[cfg(debug_assertions)]
        $crate::hook::reach($name);
    };
}

/// Tells the listening test, if there is one, and waits for its word.
#[cfg(debug_assertions)]
pub fn reach(name: &str) {
    use std::io::{Read, Write};
    use std::sync::OnceLock;
    static SOCKET: OnceLock<Option<std::ffi::OsString>> = OnceLock::new();
    // Read once and in the front, before it forks: the keeper's environment is the same.
    let Some(path) = SOCKET.get_or_init(|| std::env::var_os("HOSTLER_TEST_HOOKS")) else {
        return;
    };
    let Ok(mut stream) = std::os::unix::net::UnixStream::connect(path) else {
        return;
    };
    if stream
        .write_all(format!("{name} {}\n", std::process::id()).as_bytes())
        .is_ok()
    {
        // A test that has gone away lets everything go on.
        let _ = stream.read(&mut [0]);
    }
}
