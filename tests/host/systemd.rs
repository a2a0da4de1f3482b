//! What systemd is told, and what it gives.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Host, Place, long, run};

#[test]
fn systemd_is_told_of_ready_watchdog_and_stopping() {
    let place = Place::new();
    let path = place.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(long())).expect("set");
    let mut command = place.command(&[]);
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000")
        .env_remove("WATCHDOG_PID");
    let host = Host::spawn(command, &place.mark);
    let wait_for = |word: &str| {
        let mut bytes = [0; 4096];
        loop {
            let count = socket.recv(&mut bytes).expect(word);
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            if text.lines().any(|line| line == word) {
                return text;
            }
        }
    };
    let ready = wait_for("READY=1");
    assert!(
        ready.contains(&format!("MAINPID={}", host.pid())),
        "{ready}"
    );
    for _ in 0..3 {
        wait_for("WATCHDOG=1");
    }
    host.signal(rustix::process::Signal::TERM);
    wait_for("STOPPING=1");
    assert_eq!(host.stop().0.code(), Some(0));
}

#[test]
fn a_socket_that_systemd_has_made_is_used() {
    let place = Place::new();
    // As systemd: the socket is descriptor 3, and the variables name the process.
    let script = "import os,socket,sys\ns=socket.create_server(('127.0.0.1',0))\nport=s.getsockname()[1]\n\
                  os.dup2(s.fileno(),3); os.set_inheritable(3,True)\n\
                  os.environ.update(LISTEN_PID=str(os.getpid()),LISTEN_FDS='1',LISTEN_FDNAMES='tcp')\n\
                  sys.stderr.write('port %d\\n' % port); sys.stderr.flush()\n\
                  os.execv(sys.argv[1],sys.argv[1:])";
    let wanted = place.command(&[]);
    let mut command = Command::new("python3");
    command
        .args(["-c", script])
        .arg(wanted.get_program())
        .args(wanted.get_args())
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let host = Host::spawn(command, &place.mark);
    let port = host.said.wait_for(&["port "]);
    let port = port.trim_start_matches("port ");
    assert!(
        host.client.tcp.ends_with(&format!(":{port}")),
        "{port} {}",
        host.client.tcp
    );
    run(async {
        let own = [("host", "localhost")];
        let answer = tokio::time::timeout(
            Duration::from_secs(5),
            host.client.over_tcp("/healthz", &own),
        );
        assert_eq!(answer.await.expect("in time").status, 200);
    });
}
