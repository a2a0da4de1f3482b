//! What an agent asks permission for is the job's question.

use std::time::Duration;

use hostler_agent::{ConversationFilter, RequestId};
use hostler_job::{Error, Job};
use hostler_ledger::{JobEnd, StepRunState};
use serde_json::{Map, Value, json};

use crate::place::Place;
use crate::support::*;

const FLOW: &str = r#"
name: x
steps:
  a: { agent: { name: peer, prompt: "permission" } }
outputs: { said: a.text }
"#;

/// A host whose agent waits for nobody for long.
fn shop() -> Shop {
    let mut spec = spec(&[]);
    spec.permission_timeout = Duration::from_millis(1);
    let host = Host::on(Stage::new(), spec, options());
    Shop::of(host, hostler_agent::PoolOptions::default())
}

async fn asked(job: &Job) -> Map<String, Value> {
    let asks = || {
        job.live()
            .into_values()
            .find(|known| known.contains_key("asks"))
    };
    until("it asks", || asks().is_some()).await;
    asks().expect("just seen")
}

fn answer(text: &str) -> Map<String, Value> {
    [("answer".to_owned(), text.into())].into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_waits_for_as_long_as_it_takes_and_the_answer_is_one_of_the_agents() {
    let shop = shop();
    for (said, chosen) in [("YES", "yes"), ("always", "always"), ("deny", "no")] {
        let job = shop.start(FLOW).await;
        until_state(&shop, &job, "a", StepRunState::Suspended).await;
        let asks = asked(&job).await;
        assert_eq!(asks["asks"], "may it do this? what it wants to do");
        assert_eq!(asks["choices"], json!(["always", "yes", "no"]));
        for none in [answer(""), Map::new()] {
            let refused = job.answer(None, none, by()).await;
            assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
        }
        let refused = job.answer(None, answer("perhaps"), by()).await;
        let refused = refused.expect_err("it is none");
        assert!(matches!(refused, Error::Invalid(_)), "{refused:?}");
        let all = "the answer is one of: always, yes, no";
        assert!(refused.to_string().contains(all), "{refused}");
        // What somebody has read is what is answered, or nothing.
        let request = RequestId(asks["request"].as_u64().expect("its number"));
        let other = RequestId(request.0 + 1);
        let to_other = job
            .answer_that((None, Some(other)), answer(said), by())
            .await;
        assert!(matches!(to_other, Err(Error::Conflict(_))), "{to_other:?}");
        let run = job.answer_that((Some(1), Some(request)), answer(said), by());
        assert_eq!(run.await.expect("taken"), 1);
        let status = soon("it ends", job.wait()).await.expect("its status");
        is(&status, JobEnd::Completed, "completed");
        assert_eq!(outputs(&status), json!({ "said": chosen }));
        let late = job.answer(Some(1), answer("no"), by()).await;
        assert!(matches!(late, Err(Error::Ended(_))), "{late:?}");
        shop.nothing_left(&job).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_may_say_what_is_answered_for_nobody() {
    let shop = shop();
    for (policy, chosen) in [("allow", "yes"), ("deny", "no")] {
        let flow = FLOW.replace("name: peer", &format!("name: peer, permission: {policy}"));
        let (_, status) = shop.run(&flow).await;
        assert_eq!(outputs(&status), json!({ "said": chosen }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_the_session_may_answer_and_a_job_that_asks_can_be_cancelled() {
    let shop = shop();
    let job = shop.start(FLOW).await;
    asked(&job).await;
    let all = shop.host.agents.list(&ConversationFilter::default());
    let conversation = all.expect("listed").pop().expect("its conversation");
    let conversation = shop.host.agents.get(conversation.id.as_str()).expect("it");
    let request = conversation.requests().await.expect("requests")[0];
    let no = json!({ "outcome": { "outcome": "selected", "optionId": "no" } });
    let no = serde_json::value::to_raw_value(&no).expect("JSON");
    let first = conversation.answer(request, Ok(no), by()).await;
    first.expect("taken");
    let status = soon("it ends", job.wait()).await.expect("its status");
    assert_eq!(outputs(&status), json!({ "said": "no" }));

    let job = shop.start(FLOW).await;
    asked(&job).await;
    let status = soon("it ends", job.cancel(by())).await.expect("its status");
    is(&status, JobEnd::Cancelled, "cancelled");
    assert!(job.live().is_empty(), "{:?}", job.live());
    shop.nothing_left(&job).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_host_asks_on() {
    let place = Place::new();
    let shop = place.next().await;
    let mut new = shop.job(FLOW);
    new.cwd = place.dir.path().to_owned();
    let job = shop.jobs.create(new, by()).await.expect("a job");
    until_state(&shop, &job, "a", StepRunState::Suspended).await;
    let id = job.id().clone();
    shop.jobs.hand_over().await;
    shop.host.agents.hand_over().await;
    let sessions = &shop.host.stage.sessions;
    let failed = sessions.hand_over(Duration::from_secs(30)).await;
    assert!(failed.is_empty(), "{failed:?}");
    drop(job);
    drop(shop);
    let shop = place.next().await;
    let job = shop.jobs.get(id.as_str()).expect("it goes on");
    asked(&job).await;
    job.answer(None, answer("yes"), by()).await.expect("taken");
    let status = soon("it ends", job.wait()).await.expect("its status");
    is(&status, JobEnd::Completed, "completed");
    assert_eq!(outputs(&status), json!({ "said": "yes" }));
    shop.nothing_left(&job).await;
    shop.host.stage.await_none("after the job").await;
}
