//! The URIs of channels, and of files.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The root channel.
pub(crate) const ROOT: &str = ahp_types::ROOT_RESOURCE_URI;
/// The channel of all automations.
pub(crate) const AUTOMATIONS: &str = "ahp-automations://";
const AUTOMATION: &str = "ahp-automation:/";
const AUTOMATION_RUN: &str = "ahp-automation-run:/";
const SESSION: &str = "ahp-session:/";
const CHAT: &str = "ahp-chat:/";
const TERMINAL: &str = "ahp-terminal:/";
const EXTENSION: &str = "ahp-hostler-session:/";
/// The longest URI of a channel that clients may choose.
const LONGEST: usize = 256;

/// The channel of a session of Hostler that was given no other name.
pub(crate) fn session(id: &str) -> String {
    format!("{SESSION}{id}")
}

/// The channel of a conversation that was given no other name.
pub(crate) fn chat(id: &str) -> String {
    format!("{CHAT}{id}")
}

/// The channel of a process with a terminal.
pub(crate) fn terminal(id: &str) -> String {
    format!("{TERMINAL}{id}")
}

/// The extension channel of a session: what its own `_meta` says, as notifications.
pub(crate) fn extension(session: &str) -> Option<String> {
    Some(format!("{EXTENSION}{}", session.strip_prefix(SESSION)?))
}

/// Whether a client may give a session this name.
pub(crate) fn may_be_session(uri: &str) -> bool {
    may_be(uri, SESSION)
}

/// Whether a client may give a chat this name.
pub(crate) fn may_be_chat(uri: &str) -> bool {
    may_be(uri, CHAT)
}

/// Whether a client may give a terminal this name.
pub(crate) fn may_be_terminal(uri: &str) -> bool {
    may_be(uri, TERMINAL)
}

/// The part behind the scheme of a session's URI.
pub(crate) fn session_part(uri: &str) -> Option<&str> {
    uri.strip_prefix(SESSION)
}

/// The part behind the scheme of a terminal's URI.
pub(crate) fn terminal_part(uri: &str) -> Option<&str> {
    uri.strip_prefix(TERMINAL)
}

/// The automation that is this schedule.
pub(crate) fn automation(schedule: &str) -> String {
    format!("{AUTOMATION}{schedule}")
}

/// The schedule that an automation is.
pub(crate) fn automation_part(uri: &str) -> Option<&str> {
    uri.strip_prefix(AUTOMATION)
}

/// The channel of a job that a schedule has made.
pub(crate) fn automation_run(job: &str) -> String {
    format!("{AUTOMATION_RUN}{job}")
}

/// The job that a run is.
pub(crate) fn automation_run_part(uri: &str) -> Option<&str> {
    uri.strip_prefix(AUTOMATION_RUN)
}

fn may_be(uri: &str, scheme: &str) -> bool {
    uri.strip_prefix(scheme).is_some_and(|name| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
        !name.is_empty() && uri.len() <= LONGEST && name.bytes().all(good)
    })
}

/// A path as a `file:` URI (RFC 8089).
pub(crate) fn of_path(path: &Path) -> String {
    let mut uri = "file://".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                uri.push(char::from(byte));
            }
            _ => {
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    uri
}

/// The absolute path that a `file:` URI of this machine names.
pub(crate) fn path(uri: &str) -> Option<PathBuf> {
    let rest = uri.strip_prefix("file://")?;
    let rest = rest.strip_prefix("localhost").unwrap_or(rest);
    if !rest.starts_with('/') {
        return None;
    }
    let mut bytes = Vec::with_capacity(rest.len());
    let mut left = rest.bytes();
    while let Some(byte) = left.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(left.next()?)?, digit(left.next()?)?);
                (high * 16 + low) as u8
            }
            b'?' | b'#' => return None,
            byte => byte,
        });
    }
    (!bytes.contains(&0)).then(|| OsString::from_vec(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_uris_and_back() {
        for (text, uri) in [("/", "file:///"), ("/a b/ü%", "file:///a%20b/%C3%BC%25")] {
            assert_eq!(of_path(Path::new(text)), uri);
            assert_eq!(path(uri), Some(text.into()));
        }
        for uri in [
            "file:/a",
            "file://host/a",
            "/a",
            "file:///%0",
            "file:///%00",
            "file:///a?b",
        ] {
            assert_eq!(path(uri), None, "{uri}");
        }
    }

    #[test]
    fn names_of_channels_are_plain() {
        assert!(may_be_session("ahp-session:/0f-a.b"));
        for uri in [
            "ahp-session:/",
            "ahp-session:/a b",
            "ahp-chat:/a",
            "ahp-root://",
        ] {
            assert!(!may_be_session(uri), "{uri}");
        }
        assert_eq!(
            extension("ahp-session:/a").as_deref(),
            Some("ahp-hostler-session:/a")
        );
    }
}
