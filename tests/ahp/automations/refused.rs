//! What is no automation here.

use serde_json::{Value, json};

use super::{AUTOMATIONS, create, definition, peer};
use crate::peer::Peer;
use crate::support::{Place, run};

#[test]
fn what_cannot_be_an_automation_is_refused_with_the_reason() {
    run(async {
        let place = Place::new();
        let host = place.host();
        // Who follows nothing is heard, too.
        let mut stranger = Peer::new(&host.client, "stranger").await;
        let wrong = create("a b", definition("true"));
        let seq = stranger.dispatch(AUTOMATIONS, wrong).await;
        let why = stranger.refusal(seq).await;
        assert!(why.contains("a schedule has a name"), "{why}");
        let mut peer = peer(&host.client, "one").await;
        peer.make("there", definition("true")).await;
        let before = peer.state(AUTOMATIONS);
        let with = |change: &dyn Fn(&mut Value)| {
            let mut definition = definition("true");
            change(&mut definition);
            definition
        };
        let event = json!({"kind": "event", "id": "e", "type": "t", "title": "T", "events": []});
        let plugin = json!({"id": "p", "uri": "virtual:///p", "name": "P", "type": "plugin"});
        let cron = |definition: &mut Value, expression: &str| {
            definition["triggers"][0]["schedule"]["expression"] = json!(expression);
        };
        let cases: Vec<(&str, Value, &str)> = vec![
            ("there", definition("true"), "already"),
            ("a b", definition("true"), "a schedule has a name"),
            (
                "x",
                with(&|it| it["session"]["provider"] = json!("nobody")),
                "no agent `nobody`",
            ),
            ("x", with(&|it| cron(it, "61 * * * *")), "`61` is no minute"),
            ("x", with(&|it| cron(it, "@daily")), "five fields"),
            (
                "x",
                with(&|it| cron(it, "0 0 L * *")),
                "`L` is no day of the month",
            ),
            ("x", with(&|it| cron(it, "0 0 30 2 *")), "never due"),
            (
                "x",
                with(&|it| it["triggers"][0]["schedule"]["timeZone"] = json!("Mars/Olympus")),
                "no time zone",
            ),
            (
                "x",
                with(&|it| it["triggers"] = json!([event])),
                "no event triggers",
            ),
            (
                "x",
                with(&|it| {
                    let trigger = it["triggers"][0].clone();
                    it["triggers"] = json!([trigger, trigger]);
                }),
                "one schedule",
            ),
            (
                "x",
                with(&|it| it["session"]["customizations"] = json!([plugin])),
                "no customizations",
            ),
            (
                "x",
                with(&|it| it["session"]["model"] = json!({"id": "m"})),
                "the model",
            ),
            (
                "x",
                with(&|it| {
                    it["session"]["workingDirectories"] = json!(["file:///tmp", "file:///"])
                }),
                "one working directory",
            ),
            (
                "x",
                with(&|it| it["session"]["workingDirectories"] = json!(["file:///no/such"])),
                "cannot work in",
            ),
            (
                "x",
                with(&|it| it["message"]["text"] = json!(" ")),
                "a message",
            ),
            (
                "x",
                with(&|it| it["message"]["origin"]["kind"] = json!("user")),
                "`automation`",
            ),
            ("x", with(&|it| it["title"] = json!("")), "a title"),
            (
                "x",
                with(&|it| it["disableConditions"] = json!([{"kind": "afterRuns", "max": 1}])),
                "disable conditions",
            ),
        ];
        for (name, definition, words) in cases {
            let seq = peer.dispatch(AUTOMATIONS, create(name, definition)).await;
            let why = peer.refusal(seq).await;
            assert!(why.contains(words), "{words}: {why}");
            assert_eq!(why.lines().count(), 1, "{why}");
        }
        let elsewhere = json!({"type": "automation/createRequested", "resource": "ahp-session:/x", "definition": definition("true")});
        let seq = peer.dispatch(AUTOMATIONS, elsewhere).await;
        assert!(peer.refusal(seq).await.contains("`ahp-automation:/`"));
        let set = json!({"type": "automation/set", "automation": peer.entry("there")});
        let seq = peer.dispatch(AUTOMATIONS, set).await;
        assert!(peer.refusal(seq).await.contains("only the host"));
        peer.settle().await;
        assert_eq!(peer.state(AUTOMATIONS), before);
        let none = peer
            .ask(
                "listAutomationTriggerDefinitions",
                json!({"channel": AUTOMATIONS}),
            )
            .await;
        assert_eq!(none, Ok(json!({"items": []})));
        let asked = json!({"channel": AUTOMATIONS, "provider": "nobody"});
        let asked = peer.ask("listAutomationTriggerDefinitions", asked).await;
        assert_eq!(asked.expect_err("no agent").0, -32002);
        let asked = peer.ask_run("there", "").await;
        assert_eq!(asked.expect_err("no request").0, -32602);
    });
}
