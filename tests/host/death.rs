//! The host's end, of whatever kind, and the host after it.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Place, run, slack, wait_until};

const STUBBORN: &str = "trap '' TERM HUP INT; echo up; while :; do sleep 1000; done";

#[test]
fn sigterm_closes_all_at_once_and_exits_with_0() {
    let place = Place::new();
    let host = place.host();
    run(async {
        for _ in 0..10 {
            let session = host.client.open(json!({ "grace": 1 })).await;
            for _ in 0..5 {
                host.client.start(&session, STUBBORN).await;
            }
        }
    });
    wait_until("all run", || place.living().len() == 100);
    let began = Instant::now();
    let (status, said) = host.stop();
    let took = began.elapsed();
    println!("50 stubborn pairs in 10 sessions, grace 1 s: stopped in {took:?}");
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(place.living(), []);
    assert!(took.as_secs_f64() < 2.0 + f64::from(slack()), "{took:?}");
    assert_eq!(said.matches("closed session").count(), 10, "{said}");
    assert!(!place.state_dir().join("host.sock").exists());
    // A goodbye was said: the next host finds nothing to do.
    let host = place.host();
    assert!(!host.said.all().contains("swept"));
}

#[test]
fn a_second_signal_hurries() {
    let place = Place::new();
    let mut host = place.host();
    run(async {
        let session = host.client.open(json!({ "grace": 600 })).await;
        host.client.start(&session, STUBBORN).await;
    });
    wait_until("it runs", || place.living().len() == 2);
    host.signal(Signal::TERM);
    host.said.wait_for(&["stopping"]);
    host.signal(Signal::INT);
    assert_eq!(host.ended().code(), Some(0));
    assert_eq!(place.living(), []);
}

#[test]
fn after_kill_9_what_is_to_go_goes_and_what_is_to_stay_is_adopted() {
    let place = Place::new();
    let host = place.host();
    let (kill, keep, id) = {
        let mut ids = None;
        run(async {
            let client = &host.client;
            let kill = client
                .open(json!({ "grace": 0.5, "on_host_exit": "kill" }))
                .await;
            client.start(&kill, STUBBORN).await;
            let keep = client
                .open(json!({ "on_host_exit": "keep", "keep_for": 300 }))
                .await;
            let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
            let id = client.start(&keep, script).await;
            ids = Some((kill, keep, id));
        });
        ids.expect("ids")
    };
    wait_until("all run", || place.living().len() >= 3);
    host.kill();
    let took = wait_until("the first is gone without anybody's help", || {
        !place
            .living()
            .iter()
            .any(|found| found.command_line().contains("trap"))
    });
    println!("gone {took:?} after the host");
    let host = place.host();
    assert!(host.said.wait_for(&["adopted"]).contains(&keep));
    assert!(host.said.wait_for(&["swept"]).contains(&kill));
    run(async {
        let client = &host.client;
        let info = client
            .get(&format!("/v1/sessions/{keep}"))
            .await
            .expect(200);
        assert_eq!(
            (&info["adopted"], &info["processes"]),
            (&json!(true), &json!(1))
        );
        let swept = client
            .get(&format!("/v1/sessions/{kill}"))
            .await
            .expect(200);
        assert_eq!(
            (&swept["state"], &swept["reason"]),
            (&json!("closed"), &json!("host_died"))
        );
        // Every line, also those from between the hosts, and it goes on.
        let output = async || {
            client
                .get(&format!("/v1/processes/{id}/output"))
                .await
                .bytes
        };
        let before = output().await.len();
        while output().await.len() < before + 50 {}
        let text = String::from_utf8(output().await).expect("text");
        for (index, line) in text.lines().enumerate().take(text.lines().count() - 1) {
            assert_eq!(line, (index + 1).to_string());
        }
        let report = client
            .delete(&format!("/v1/sessions/{keep}"))
            .await
            .expect(200);
        assert_eq!(report["remaining"], 0);
    });
    assert_eq!(place.living(), []);
}

#[test]
fn sigterm_leaves_what_is_to_be_kept_and_a_shutdown_of_all_does_not() {
    let place = Place::new();
    let host = place.host();
    run(async {
        for keep in ["kill", "keep"] {
            let session = host
                .client
                .open(json!({ "on_host_exit": keep, "keep_for": 300 }))
                .await;
            host.client.start(&session, "exec sleep 1000").await;
        }
    });
    let (status, said) = host.stop();
    assert_eq!(status.code(), Some(0));
    assert!(said.contains("left to the next host"), "{said}");
    assert_eq!(place.living().len(), 1);
    let mut host = place.host();
    host.said.wait_for(&["adopted"]);
    run(async {
        let answer = host
            .client
            .post("/v1/host/shutdown", json!({ "all": true, "deadline": 20 }))
            .await;
        assert_eq!(answer.status, 202);
    });
    assert_eq!(host.ended().code(), Some(0));
    assert_eq!(place.living(), []);
}

#[test]
fn a_host_without_its_zygote_makes_another_one() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let client = &host.client;
        let session = client.open(json!({})).await;
        let id = client.start(&session, "exec sleep 1000").await;
        let children = crate::support::children_of(host.pid().cast_signed());
        let zygote = children
            .iter()
            .find(|found| found.name.contains("zygote"))
            .expect("a zygote");
        zygote.signal(Signal::KILL);
        host.said.wait_for(&["the zygote is gone"]);
        let process = client.get(&format!("/v1/processes/{id}")).await.expect(200);
        assert_eq!(process["state"], "running");
        let began = Instant::now();
        loop {
            let answer = client.post("/v1/sessions", json!({})).await;
            if answer.status == 201 {
                break;
            }
            assert!(
                began.elapsed() < crate::support::long(),
                "{:?}",
                answer.json()
            );
        }
    });
    assert_eq!(host.stop().0.code(), Some(0));
    assert_eq!(place.living(), []);
}
