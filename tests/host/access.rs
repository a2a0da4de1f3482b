//! Who may.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Place, run};

#[test]
fn on_tcp_a_token_is_needed_and_the_host_must_be_meant() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = &host.client;
        let own = ("host", client.tcp.as_str());
        let bearer = format!("Bearer {}", client.token);
        let right = ("authorization", bearer.as_str());
        let origin = format!("http://{}", client.tcp);
        for (path, headers, status) in [
            ("/v1/host", vec![own, right], 200),
            (
                "/v1/host",
                vec![own, right, ("origin", origin.as_str())],
                200,
            ),
            ("/v1/host", vec![("host", "localhost"), right], 200),
            ("/healthz", vec![own], 200),
            ("/v1/host", vec![own], 401),
            ("/v1/nothing", vec![own], 401),
            (
                "/v1/host",
                vec![own, ("authorization", "Bearer wrong")],
                401,
            ),
            ("/v1/host", vec![("host", "evil.example"), right], 403),
            ("/healthz", vec![("host", "evil.example")], 403),
            (
                "/v1/host",
                vec![own, right, ("origin", "http://evil.example")],
                403,
            ),
            ("/v1/host", vec![own, right, ("origin", "null")], 403),
        ] {
            let answer = client.over_tcp(path, &headers).await;
            assert_eq!(answer.status, status, "{path} {headers:?}");
        }
        let path = format!("/v1/events?token={}&limit=1", client.token);
        assert_eq!(client.over_tcp(&path, &[own]).await.status, 200);
        assert_eq!(
            client
                .over_tcp("/v1/events?token=wrong", &[own])
                .await
                .status,
            401
        );

        // A browser's WebSocket from another site.
        let session = client.open(serde_json::json!({})).await;
        let upgrade = [
            own,
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let path = format!("/v1/sessions/{session}/exec?token={}", client.token);
        let answer = client.over_tcp(&path, &upgrade).await;
        assert_eq!(answer.status, 101);
        let foreign = [&upgrade[..], &[("origin", "http://evil.example")]].concat();
        assert_eq!(client.over_tcp(&path, &foreign).await.status, 403);

        let said = host.said.all();
        for reason in [
            "a token is needed",
            "the token is wrong",
            "`evil.example`",
            "`http://evil.example`",
            "`null`",
        ] {
            assert!(said.contains(reason), "{reason} in {said}");
        }
        // The token is in the line for people and nowhere else.
        assert_eq!(said.matches(&client.token).count(), 1);
    });
}

#[test]
fn another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be somebody else");
        return;
    }
    let place = Place::new();
    let host = place.host();
    let mode = std::fs::metadata(&host.client.socket)
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let state = std::fs::metadata(place.state_dir())
        .expect("the state")
        .permissions()
        .mode();
    assert_eq!(state & 0o777, 0o700);
    // The permissions are taken away, and the kernel's word remains.
    let open = std::fs::Permissions::from_mode(0o777);
    for path in [place.dir.path(), &place.state_dir(), &host.client.socket] {
        std::fs::set_permissions(path, open.clone()).expect("chmod");
    }
    let script = "import socket,sys,os\nos.setgid(65534); os.setuid(65534)\ns=socket.socket(socket.AF_UNIX); \
                  s.connect(sys.argv[1])\ns.sendall(b'GET /v1/host HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n')\n\
                  print(s.makefile().read())";
    let output = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(&host.client.socket)
        .output()
        .expect("python");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("HTTP/1.1 403"), "{text} {output:?}");
    assert!(text.contains("not user 65534's"), "{text}");
    host.said.wait_for(&["refused", "uid 65534"]);
}
