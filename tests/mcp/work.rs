//! What an agent does with a process: start, poll, read, wait, write, keep.

use serde_json::json;

use crate::client::Mcp;
use crate::support::{Place, run};

#[test]
fn the_tools_are_there() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let session = host.client.open(json!({})).await;
        let mcp = Mcp::new(&host.client, &session).await;
        let mut tools = mcp.tools().await;
        tools.sort();
        let expected = [
            "keep", "kill", "list", "log", "poll", "start", "stop_all", "wait", "write",
        ];
        let expected = expected.map(|name| format!("process_{name}"));
        assert_eq!(tools[0], "delegate");
        assert_eq!(tools[1..], expected);
        mcp.leave().await;
    });
}

#[test]
fn output_is_polled_once_and_read_from_anywhere() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let session = host.client.open(json!({})).await;
        let mcp = Mcp::new(&host.client, &session).await;
        let asked = json!({
            "command": "echo $WORD; pwd; while read line; do echo \"got $line\"; done; echo over; exit 3",
            "cwd": "/usr", "env": { "WORD": "first" }, "name": "reader", "patterns": ["^got b"], "stdin": true,
        });
        mcp.ok("process_start", asked).await;
        let until = |pattern| json!({ "process": "reader", "until": "output", "pattern": pattern });
        let waited = mcp.ok("process_wait", until("^/usr$")).await;
        assert_eq!(
            (&waited["reached"], &waited["line"]),
            (&json!(true), &json!("/usr"))
        );
        let reader = json!({ "process": "reader" });
        let polled = mcp.ok("process_poll", reader.clone()).await;
        assert_eq!(polled["new_output"], "first\n/usr\n");
        let input = json!({ "process": "reader", "text": "a\nb\n" });
        mcp.ok("process_write", input).await;
        mcp.ok("process_wait", until("got b")).await;
        let polled = mcp.ok("process_poll", reader.clone()).await;
        assert_eq!(polled["new_output"], "got a\ngot b\n");
        assert_eq!(polled["matched"], json!(["got b"]));
        let polled = mcp.ok("process_poll", reader.clone()).await;
        assert_eq!(
            (&polled["new_output"], &polled["matched"]),
            (&json!(""), &json!([]))
        );

        // A time that is over is no failure, and the process goes on.
        let short = json!({ "process": "reader", "timeout": 0.05 });
        let (failed, text, waited) = mcp.ask("process_wait", short).await;
        assert!(!failed && text.contains("is running"), "{text}");
        assert_eq!(waited["reached"], false);
        mcp.ok("process_write", json!({ "process": "reader", "eof": true }))
            .await;
        let (_, text, waited) = mcp.ask("process_wait", reader.clone()).await;
        assert!(text.contains("exited with 3"), "{text}");
        assert_eq!(waited["process"]["exit"]["code"], 3);
        // What cannot come any more is not waited for.
        let waited = mcp.ok("process_wait", until("never")).await;
        assert_eq!(waited["reached"], false);

        let log = mcp
            .ok("process_log", json!({ "process": "reader", "tail": 2 }))
            .await;
        assert_eq!(log["text"], "got b\nover\n");
        let log = mcp
            .ok(
                "process_log",
                json!({ "process": "reader", "offset": 6, "limit": 5 }),
            )
            .await;
        assert_eq!((&log["text"], &log["next"]), (&json!("/usr\n"), &json!(11)));
        mcp.leave().await;
        assert!(place.living().is_empty());
    });
}

#[test]
fn a_signal_of_choice_comes_first() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let session = host.client.open(json!({ "grace": 5 })).await;
        let mcp = Mcp::new(&host.client, &session).await;
        let id = mcp
            .start("trap 'echo bye; exit 7' INT; echo up; while :; do sleep 0.05; done")
            .await;
        let up = json!({ "process": id, "until": "output", "pattern": "up" });
        mcp.ok("process_wait", up).await;
        let stopped = mcp
            .ok("process_kill", json!({ "process": id, "signal": "INT" }))
            .await;
        assert_eq!(
            (&stopped["stopped"], &stopped["exit"]["code"]),
            (&json!(true), &json!(7))
        );
        let log = mcp.ok("process_log", json!({ "process": id })).await;
        assert_eq!(log["text"], "up\nbye\n");
        mcp.leave().await;
    });
}

#[test]
fn a_long_log_is_given_from_its_end_and_in_parts() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let session = host.client.open(json!({})).await;
        let mcp = Mcp::new(&host.client, &session).await;
        let id = mcp.start("seq 1 200000").await;
        mcp.ok("process_wait", json!({ "process": id })).await;
        let last = mcp
            .ok("process_log", json!({ "process": id, "tail": 3 }))
            .await;
        assert_eq!(last["text"], "199998\n199999\n200000\n");
        let polled = mcp.ok("process_poll", json!({ "process": id })).await;
        assert!(
            polled["new_output"]
                .as_str()
                .is_some_and(|text| text.ends_with("\n200000\n"))
        );
        assert!(
            polled["left_out"]
                .as_u64()
                .is_some_and(|bytes| bytes > 1_000_000)
        );
        let (mut whole, mut offset) = (String::new(), 0);
        loop {
            let asked = json!({ "process": id, "offset": offset, "limit": 262_144 });
            let part = mcp.ok("process_log", asked).await;
            whole += part["text"].as_str().expect("text");
            offset = part["next"].as_u64().expect("a number");
            if part["complete"] == true {
                break;
            }
        }
        let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
        assert!(
            whole == expected,
            "{} bytes of {}",
            whole.len(),
            expected.len()
        );
        mcp.leave().await;
    });
}

#[test]
fn a_process_is_kept_beyond_its_session() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let session = host.client.open(json!({})).await;
        let mcp = Mcp::new(&host.client, &session).await;
        let id = mcp.start("sleep 1000").await;
        let kept = mcp
            .ok(
                "process_keep",
                json!({ "process": id, "name": "for-later" }),
            )
            .await;
        let listed = mcp.ok("process_list", json!({})).await;
        assert_eq!(listed["processes"], json!([]));
        mcp.ok("process_stop_all", json!({})).await;
        mcp.leave().await;
        host.client
            .delete(&format!("/v1/sessions/{session}"))
            .await
            .expect(200);
        let living = place.living();
        let sleeps = living.iter().filter(|found| found.name == "sleep");
        assert_eq!(sleeps.count(), 1, "it is kept: {living:?}");
        let keeper = kept["session"].as_str().expect("a session");
        host.client
            .delete(&format!("/v1/sessions/{keeper}"))
            .await
            .expect(200);
        place.all_gone();
    });
}

#[test]
fn what_cannot_be_done_is_one_line() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let session = host.client.open(json!({ "max_background": 2 })).await;
        let other = host.client.open(json!({})).await;
        let stranger = host.client.start(&other, "sleep 1000").await;
        let mcp = Mcp::new(&host.client, &session).await;
        for (tool, asked, says) in [
            (
                "process_poll",
                json!({ "process": "nobody" }),
                "there is no process `nobody`",
            ),
            (
                "process_kill",
                json!({ "process": stranger }),
                "there is no process",
            ),
            (
                "process_start",
                json!({ "command": " " }),
                "`command` is empty",
            ),
            (
                "process_start",
                json!({ "command": "true", "cwd": "/nowhere" }),
                "/nowhere",
            ),
            (
                "process_start",
                json!({ "command": "true", "patterns": ["("] }),
                "`(` is no regular expression",
            ),
        ] {
            let line = mcp.refused(tool, asked).await;
            assert!(line.contains(says), "{line}");
        }
        let first = mcp.start("sleep 1000").await;
        mcp.start("sleep 1000").await;
        for (tool, asked, says) in [
            ("process_start", json!({ "command": "true" }), "background"),
            (
                "process_write",
                json!({ "process": first, "text": "x" }),
                "standard input",
            ),
            (
                "process_kill",
                json!({ "process": first, "signal": "NO" }),
                "`NO` is no signal",
            ),
            (
                "process_wait",
                json!({ "process": first, "timeout": 1e9 }),
                "`timeout` is to be 0 to 600 seconds",
            ),
            (
                "process_wait",
                json!({ "process": first, "until": "output" }),
                "needs a `pattern`",
            ),
        ] {
            let line = mcp.refused(tool, asked).await;
            assert!(line.contains(says), "{line}");
        }
        // There is room again.
        mcp.ok("process_kill", json!({ "process": first, "signal": "INT" }))
            .await;
        mcp.start("true").await;
        mcp.leave().await;
    });
}
