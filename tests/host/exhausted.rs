//! A host that is out of descriptors or of processes: new work is refused with a clear line, old work goes on.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;

use crate::support::{Client, Place, run, wait_until};

/// What a session's process has written.
async fn written(client: &Client, id: &str) -> u64 {
    let process = client.get(&format!("/v1/processes/{id}")).await.expect(200);
    process["output_bytes"].as_u64().expect("a number")
}

async fn goes_on(client: &Client, id: &str) {
    let before = written(client, id).await;
    let began = std::time::Instant::now();
    while written(client, id).await == before {
        assert!(
            began.elapsed() < crate::support::long(),
            "old work stands still"
        );
    }
}

const WORK: &str = "while :; do echo x; read -t 0.05 never; done";

async fn work(client: &Client, session: &str) -> String {
    let body = json!({ "argv": ["bash", "-c", WORK], "stdin": true });
    let path = format!("/v1/sessions/{session}/processes");
    let process = client.post(&path, body).await.expect(201);
    process["id"].as_str().expect("an id").to_owned()
}

#[test]
fn out_of_descriptors_new_work_is_refused_and_old_work_goes_on() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let client = &host.client;
        let session = client.open(json!({ "grace": 0.3 })).await;
        let old = work(client, &session).await;
        let pid = Pid::from_raw(host.pid().cast_signed()).expect("a pid");
        let open = || {
            let fds = std::fs::read_dir(format!("/proc/{}/fd", host.pid()));
            fds.expect("descriptors").count() as u64
        };
        let limit = getrlimit(Resource::Nofile);
        // Enough for a few connections, and for nothing that has to be started.
        let few = Rlimit {
            current: Some(open() + 4),
            maximum: limit.maximum,
        };
        let before = prlimit(Some(pid), Resource::Nofile, few).expect("a limit");
        let path = format!("/v1/sessions/{session}/processes");
        let body = json!({ "argv": ["sleep", "1000"], "stdin": true });
        let mut refused = None;
        for _ in 0..16 {
            let answer = client.post(&path, body.clone()).await;
            if answer.status != 201 {
                refused = Some(answer.error(503));
                break;
            }
        }
        let (code, message) = refused.expect("a refusal");
        assert_eq!(code, "unavailable");
        assert!(message.contains("Too many open files"), "{message}");
        assert_eq!(message.lines().count(), 1);
        goes_on(client, &old).await;
        prlimit(Some(pid), Resource::Nofile, before).expect("a limit");
        client.post(&path, body).await.expect(201);
        let report = client.delete(&format!("/v1/sessions/{session}")).await;
        assert_eq!(report.expect(200)["remaining"], 0);
    });
    assert_eq!(place.living(), []);
}

#[test]
fn out_of_processes_new_work_is_refused_and_old_work_goes_on() {
    let Some(group) = Group::make() else {
        eprintln!("skipped: no cgroup with pids.max can be made here");
        return;
    };
    let place = Place::new();
    let host = place.host();
    run(async {
        let client = &host.client;
        // In the keeper's own group, where the limit is.
        let session = client
            .open(json!({ "grace": 0.3, "contain": "tree" }))
            .await;
        let old = work(client, &session).await;
        let info = client
            .get(&format!("/v1/sessions/{session}"))
            .await
            .expect(200);
        group.take(info["keeper"].as_u64().expect("a pid"));
        group.limit("1");
        let path = format!("/v1/sessions/{session}/processes");
        let body = json!({ "argv": ["sleep", "1000"] });
        let (code, message) = client.post(&path, body.clone()).await.error(503);
        assert_eq!(code, "unavailable");
        assert!(
            message.contains("Resource temporarily unavailable"),
            "{message}"
        );
        goes_on(client, &old).await;
        group.limit("max");
        client.post(&path, body).await.expect(201);
        let report = client.delete(&format!("/v1/sessions/{session}")).await;
        assert_eq!(report.expect(200)["remaining"], 0);
    });
    drop(host);
    wait_until("the group is empty", || group.remove());
}

/// A cgroup in which the number of processes is bounded.
struct Group(std::path::PathBuf);

impl Group {
    fn make() -> Option<Self> {
        let pids = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
        let name = format!("hostler-test-{}", std::process::id());
        pids.iter().find_map(|root| {
            let dir = std::path::Path::new(root).join(&name);
            std::fs::create_dir(&dir).ok()?;
            let group = Self(dir);
            if group.0.join("pids.max").exists() {
                return Some(group);
            }
            group.remove();
            None
        })
    }

    fn take(&self, pid: u64) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("moved");
    }

    fn limit(&self, most: &str) {
        std::fs::write(self.0.join("pids.max"), most).expect("a limit");
    }

    fn remove(&self) -> bool {
        std::fs::remove_dir(&self.0).is_ok()
    }
}
