//! What a session ended, others were connected to: the report names them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use hostler_session::{CloseReason, ExecOptions, ProcessHandle, Session};

use super::support::*;

/// What serves and what connects is this program again: `HOSTLER_TEST_ROLE` tells which, `HOSTLER_TEST_AT` where.
#[test]
#[ignore = "run by the other test"]
fn one_side() {
    let (Ok(role), Ok(at)) = (
        std::env::var("HOSTLER_TEST_ROLE"),
        std::env::var("HOSTLER_TEST_AT"),
    ) else {
        return;
    };
    let (socket, port) = (Path::new(&at).join("socket"), Path::new(&at).join("port"));
    let mut hold: (Vec<UnixStream>, Vec<TcpStream>) = Default::default();
    if role == "serve" {
        let unix = UnixListener::bind(socket).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        std::fs::write(port, tcp.local_addr().unwrap().port().to_string()).unwrap();
        println!("ready");
        loop {
            hold.0.push(unix.accept().unwrap().0);
            hold.0.last_mut().unwrap().write_all(b"x").unwrap();
            hold.1.push(tcp.accept().unwrap().0);
            hold.1.last_mut().unwrap().write_all(b"x").unwrap();
        }
    }
    hold.0.push(UnixStream::connect(socket).unwrap());
    hold.0[0].read_exact(&mut [0]).unwrap();
    let port: u16 = std::fs::read_to_string(port).unwrap().parse().unwrap();
    hold.1
        .push(TcpStream::connect(("127.0.0.1", port)).unwrap());
    hold.1[0].read_exact(&mut [0]).unwrap();
    println!("ready");
    let _ = hold.1[0].read(&mut [0]);
    std::thread::sleep(std::time::Duration::from_secs(60));
}

async fn start(session: &Session, role: &str, at: &Path) -> ProcessHandle {
    let program = std::env::current_exe().unwrap();
    let mut options = ExecOptions::new([
        program.to_str().unwrap(),
        "connected::one_side",
        "--exact",
        "--ignored",
        "--nocapture",
    ])
    .background();
    options.env.insert("HOSTLER_TEST_ROLE".into(), role.into());
    let at = at.to_string_lossy().into_owned();
    options.env.insert("HOSTLER_TEST_AT".into(), at);
    let process = exec(session, options).await;
    let ready = || {
        let output = process.stdout();
        let chunk = output.read_at(0, 4096).unwrap();
        String::from_utf8_lossy(&chunk.bytes).contains("ready")
    };
    until("it is ready", ready).await;
    process
}

#[tokio::test]
async fn the_report_names_who_else_was_connected() {
    let stage = Stage::new();
    let (server, client) = (stage.open().await, stage.open().await);
    let at = tempfile::tempdir().unwrap();
    let listener = start(&server, "serve", at.path()).await;
    let other = start(&client, "connect", at.path()).await;
    // One of its own is not somebody else.
    start(&server, "connect", at.path()).await;
    let report = server.close(CloseReason::Client, by(), None).await.unwrap();
    assert!(report.is_clean() && report.recorded, "{report:?}");
    let found: BTreeSet<_> = report
        .connected
        .iter()
        .map(|one| (Some(one.pid), one.session.clone(), Some(one.to.pid)))
        .collect();
    let expected = (
        other.status().pid,
        Some(client.id().clone()),
        listener.status().pid,
    );
    assert_eq!(found, BTreeSet::from([expected]), "{report:?}");
    // It is the last: nobody is left to be told.
    let report = client.close(CloseReason::Client, by(), None).await.unwrap();
    assert!(
        report.is_clean() && report.connected.is_empty(),
        "{report:?}"
    );
}
