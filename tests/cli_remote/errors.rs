//! What cannot be done is said in one line.

use std::io::Write;
use std::net::TcpListener;

use crate::far::{Far, failed};

#[test]
fn hosts_that_are_not_there_or_not_willing_are_told_in_one_line() {
    let far = Far::new();
    let url = format!("ws://{}", far.net.address);
    let ls = |url: &str, token: Option<&str>| {
        let mut command = far.bare(&["session", "ls", "--host", url]);
        if let Some(token) = token {
            command.env("HOSTLER_TOKEN", token);
        }
        let (code, line) = failed(&mut command);
        assert_eq!(code, Some(1), "{line}");
        assert!(!line.contains("secret"), "{line}");
        line
    };
    let line = ls(&url, None);
    assert!(line.contains("wants a token"), "{line}");
    let line = ls(&url, Some("secretsecretsecret"));
    assert!(line.contains("does not take this token"), "{line}");
    let line = ls(&format!("{url}/?token=secretsecret"), None);
    assert!(line.contains("does not take this token"), "{line}");
    let line = ls(&format!("{url}/nothing"), Some(&far.token));
    assert!(
        line.contains("no Agent Host Protocol") && line.contains("404"),
        "{line}"
    );
    // Nobody there.
    let free = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = free.local_addr().expect("an address");
    drop(free);
    let line = ls(&format!("http://{address}"), Some("secretsecret"));
    assert!(
        line.contains("cannot reach the host") && line.contains("refused"),
        "{line}"
    );
    // Somebody else there.
    let other = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = other.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in other.incoming().map_while(Result::ok) {
            let _ = stream.write_all(b"220 mail ready\r\n");
        }
    });
    let line = ls(&address.to_string(), Some("secretsecret"));
    assert!(line.contains("no Agent Host Protocol"), "{line}");
    let (code, line) = failed(&mut far.bare(&["session", "ls", "--host", "ftp://x/?token=secret"]));
    assert_eq!(code, Some(2), "{line}");
    assert!(!line.contains("secret"), "{line}");
}

#[test]
fn tokens_come_from_a_file_the_url_or_the_environment() {
    let far = Far::new();
    let file = far.dir.path().join("state/token");
    let file = file.to_str().expect("text");
    let url = format!("http://{}", far.net.address);
    let with = format!("{url}/?token={}", far.token);
    for words in [
        vec!["session", "ls", "--host", &url, "--token-file", file],
        vec!["session", "ls", "--host", &with],
    ] {
        let output = far.bare(&words).output().expect("hostler");
        assert!(output.status.success(), "{output:?}");
    }
    let (code, line) =
        failed(&mut far.bare(&["session", "ls", "--host", &url, "--token-file", "/no/such"]));
    assert_eq!(code, Some(1));
    assert!(line.contains("/no/such"), "{line}");
    let (code, line) = failed(&mut far.bare(&["session", "ls", "--token-file", file]));
    assert_eq!(code, Some(2));
    assert!(line.contains("--host"), "{line}");
}

#[test]
fn what_is_not_carried_is_refused_and_what_is_not_there_is_named() {
    let far = Far::new();
    for words in [
        &["exec", "s", "--", "true"][..],
        &["exec", "-d", "s", "--", "true"],
        &["ps"],
        &["kill", "p-1"],
        &["session", "evict", "s"],
        &["log"],
    ] {
        let (code, line) = far.fails(words);
        assert_eq!(code, Some(1), "{words:?}: {line}");
        assert!(line.contains("this machine only"), "{words:?}: {line}");
    }
    let (_, line) = far.fails(&["session", "ls", "--all"]);
    assert!(line.contains("this machine only"), "{line}");
    for words in [
        &["session", "show", "nothing"][..],
        &["session", "close", "nothing"],
        &["session", "fork", "nothing"],
        &["prompt", "nothing", "hello"],
        &["attach", "nothing"],
        &["logs", "-f", "nothing"],
    ] {
        let (code, line) = far.fails(words);
        assert_eq!(code, Some(1), "{words:?}: {line}");
        assert!(
            line.contains("there is no") && line.contains("nothing"),
            "{words:?}: {line}"
        );
    }
    far.ok(&["session", "new", "--name", "bare"]);
    let (_, line) = far.fails(&["prompt", "bare", "hello"]);
    assert!(line.contains("has no conversation"), "{line}");
    let (_, line) = far.fails(&["session", "new", "--agent", "nobody"]);
    assert!(line.contains("nobody"), "{line}");
}
