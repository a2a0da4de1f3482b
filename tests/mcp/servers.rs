//! Servers: seen with their ports, and gone with them.

use serde_json::json;

use crate::client::{Mcp, SERVER, is_free, ports};
use crate::support::{Place, run};

#[test]
fn a_server_is_listed_with_its_port_and_stopped_until_the_port_is_free() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let session = host.client.open(json!({ "grace": 1 })).await;
        let mcp = Mcp::new(&host.client, &session).await;
        let asked = json!({ "command": SERVER, "name": "web" });
        let id = mcp.ok("process_start", asked).await["id"].clone();
        let port = mcp.listening("web", 1).await[0];
        assert!(!is_free(port));
        let listed = mcp.ok("process_list", json!({})).await;
        assert_eq!(listed["processes"][0]["id"], id);
        assert_eq!(ports(&listed["processes"][0]["ports"]), [port]);

        let (failed, text, stopped) = mcp.ask("process_kill", json!({ "process": "web" })).await;
        assert!(!failed && is_free(port), "{text}");
        assert!(text.contains(&format!("free again: port {port}")), "{text}");
        assert_eq!(stopped["stopped"], true, "{stopped}");
        assert_eq!(ports(&stopped["ports_free"]), [port]);
        assert!(place.living().is_empty(), "{:?}", place.living());
        // Once more is no failure.
        let again = mcp.ok("process_kill", json!({ "process": "web" })).await;
        assert_eq!(again["stopped"], true);
        mcp.leave().await;
    });
}

/// Each way to slip away from whoever started it, and ignoring what is asked.
const ESCAPES: [(&str, &str); 6] = [
    ("a child", "SERVER; true"),
    ("orphaned", "(SERVER &) ; exit 0"),
    ("nohup", "nohup SERVER > /dev/null 2>&1 & sleep 0.1; exit 0"),
    ("a session of its own", "setsid -f SERVER"),
    (
        "and nothing in its environment",
        "env -i \"PATH=$PATH\" setsid -f SERVER",
    ),
    (
        "deaf to SIGTERM",
        "trap '' TERM; SERVER & (setsid -f SERVER); wait",
    ),
];

#[test]
fn what_a_process_has_detached_goes_with_it() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let session = host.client.open(json!({ "grace": 1 })).await;
        let mcp = Mcp::new(&host.client, &session).await;
        for (what, command) in ESCAPES {
            let count = command.matches("SERVER").count();
            let id = mcp.start(&command.replace("SERVER", SERVER)).await;
            let found = mcp.listening(&id, count).await;
            let asked = json!({ "process": id, "grace": 0.3 });
            let stopped = mcp.ok("process_kill", asked).await;
            assert_eq!(stopped["stopped"], true, "{what}: {stopped}");
            assert_eq!(ports(&stopped["ports_free"]), found, "{what}");
            assert!(found.into_iter().all(is_free), "{what}");
            assert!(place.living().is_empty(), "{what}: {:?}", place.living());
            println!("{what}: stopped in {} ms", stopped["took_ms"]);
        }
        mcp.leave().await;
    });
}

#[test]
fn all_are_stopped_at_once_and_nothing_of_anybody_elses() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let session = host.client.open(json!({ "grace": 1 })).await;
        let (one, two) = tokio::join!(
            Mcp::new(&host.client, &session),
            Mcp::new(&host.client, &session)
        );
        let client = host.client.start(&session, "sleep 1000").await;
        let mut mine = Vec::new();
        for command in [
            SERVER,
            "sleep 1000",
            "trap '' TERM; while :; do sleep 0.1; done",
        ] {
            mine.push(one.start(command).await);
        }
        let port = one.listening(&mine[0], 1).await[0];
        let theirs = two.start(SERVER).await;
        let their_port = two.listening(&theirs, 1).await[0];
        let all = two.ok("process_list", json!({ "all": true })).await;
        assert_eq!(all["processes"].as_array().map(Vec::len), Some(5));
        let own = two.ok("process_list", json!({})).await;
        assert_eq!(own["processes"].as_array().map(Vec::len), Some(1));

        let stopped = one.ok("process_stop_all", json!({ "grace": 0.3 })).await;
        assert_eq!(stopped["all_stopped"], true, "{stopped}");
        assert_eq!(stopped["processes"].as_array().map(Vec::len), Some(3));
        assert!(is_free(port) && !is_free(their_port));
        for (id, state) in [
            (&client, "running"),
            (&theirs, "running"),
            (&mine[1], "exited"),
        ] {
            let process = host.client.get(&format!("/v1/processes/{id}")).await;
            assert_eq!(process.expect(200)["state"], state, "{id}");
        }
        // A server that goes stops nothing: what it has started is the session's.
        two.leave().await;
        assert!(!is_free(their_port));
        one.leave().await;
        let closed = host.client.delete(&format!("/v1/sessions/{session}")).await;
        assert_eq!(closed.expect(200)["remaining"], 0);
        assert!(is_free(their_port));
        place.all_gone();
    });
}

/// Two may listen on one port, if both say so.
fn shared_listener() -> std::net::TcpListener {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    let socket =
        rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    sockopt::set_socket_reuseport(&socket, true).expect("SO_REUSEPORT");
    let any = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0);
    rustix::net::bind(&socket, &any).expect("bind");
    rustix::net::listen(&socket, 1).expect("listen");
    socket.into()
}

#[test]
fn a_port_on_which_another_listens_is_not_called_free() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let session = host.client.open(json!({ "grace": 1 })).await;
        let mcp = Mcp::new(&host.client, &session).await;
        let other = shared_listener();
        let port = other.local_addr().expect("an address").port();
        let script = format!(
            "import socket, time; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); \
             s.bind((\"127.0.0.1\", {port})); s.listen(); time.sleep(1000)"
        );
        let id = mcp.start(&format!("python3 -c '{script}'")).await;
        assert_eq!(mcp.listening(&id, 1).await, [port]);
        let (failed, text, stopped) = mcp.ask("process_kill", json!({ "process": id })).await;
        assert!(!failed && place.living().is_empty(), "{text}");
        assert_eq!(stopped["stopped"], false, "{stopped}");
        assert!(text.contains(&format!("port {port} is NOT free")), "{text}");
        let pid = format!("(pid {})", std::process::id());
        assert!(text.contains(&pid), "{text}");
        mcp.leave().await;
    });
}
