//! Watches.

use super::*;
use crate::ahp::delivery::Outbox;
use crate::ahp::hub::{Hub, Wanted, Who};
use crate::ahp::resource::watch::Watches;

struct Watcher {
    hub: Hub,
    who: Who,
    outbox: Arc<Outbox>,
    channel: String,
    watches: Watches,
}

async fn watch(place: &Place, below: &str, more: Value) -> Result<Watcher, AhpError> {
    let hub = Hub::new(place.dir.path());
    let watches = Watches::new(hub.clone());
    let who = Who {
        connection: 1,
        client: "c".into(),
        by: "test".into(),
        answers: true,
    };
    let outbox = Arc::new(Outbox::default());
    hub.enter(&who, &outbox);
    let mut all = json!({ "uri": place.uri(below) });
    all.as_object_mut()
        .expect("an object")
        .extend(more.as_object().expect("an object").clone());
    let roots = place.roots.clone();
    let channel = watches
        .create(Arc::new(move || roots.clone()), params(all))
        .await?;
    let held = hub.channel(&channel).expect("a channel").join(&who).await?;
    let followed = hub.follow(&who, vec![Wanted::new(&*channel, held)]);
    let followed = followed.expect("followed");
    let snapshot = followed.snapshots[0].get();
    let snapshot: Value = serde_json::from_str(snapshot).expect("JSON");
    assert_eq!(snapshot["state"]["root"], json!(place.uri(below)));
    Ok(Watcher {
        hub,
        who,
        outbox,
        channel,
        watches,
    })
}

impl Watcher {
    /// The changes that are told until this one is among them.
    async fn until(&self, uri: &str, kind: &str) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let wait = async {
            loop {
                let text = self.outbox.next().await.expect("more");
                let message: Value = serde_json::from_str(&text).expect("JSON");
                let action = serde_json::from_value(message["params"]["action"].clone());
                let StateAction::ResourceWatchChanged(action) = action.expect("an action") else {
                    panic!("{message}");
                };
                for item in action.changes["items"].as_array().expect("items") {
                    let text = |key: &str| item[key].as_str().expect("text").to_owned();
                    all.push((text("uri"), text("type")));
                }
                if all.contains(&(uri.to_owned(), kind.to_owned())) {
                    return;
                }
            }
        };
        let came = tokio::time::timeout(Duration::from_secs(20), wait).await;
        came.unwrap_or_else(|_| panic!("no {kind} {uri} in {all:?}"));
        all
    }

    async fn gone(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.watches.count() > 0 || self.hub.has(&self.channel) {
            assert!(Instant::now() < until, "the watch is still there");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn what_changes_is_told() {
    let place = Place::new();
    std::fs::create_dir(place.path("in/sub")).expect("made");
    let watcher = watch(&place, "in", json!({})).await.expect("a watch");
    place.put("in/a", "1");
    watcher.until(&place.uri("in/a"), "added").await;
    place.put("in/a", "2");
    watcher.until(&place.uri("in/a"), "updated").await;
    // Not what is below.
    place.put("in/sub/x", "1");
    std::fs::remove_file(place.path("in/a")).expect("removed");
    let told = watcher.until(&place.uri("in/a"), "deleted").await;
    assert!(!told.iter().any(|(uri, _)| uri.ends_with("/x")), "{told:?}");
    assert!(watcher.hub.unfollow(&watcher.who, &watcher.channel));
    watcher.gone().await;
}

#[tokio::test]
async fn what_is_below_is_told_where_it_is_wanted() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("in/node_modules/x")).expect("made");
    let more = json!({ "recursive": true, "excludes": { "items": ["node_modules", "*.tmp"] } });
    let watcher = watch(&place, "in", more).await.expect("a watch");
    place.put("in/node_modules/x/y", "1");
    place.put("in/b.tmp", "1");
    // At once, so that some of it is there before the directory is watched.
    std::fs::create_dir_all(place.path("in/new/deep/er")).expect("made");
    place.put("in/new/deep/er/file", "1");
    let told = watcher
        .until(&place.uri("in/new/deep/er/file"), "added")
        .await;
    assert!(
        told.iter().all(|(uri, _)| uri.contains("/in/new")),
        "{told:?}"
    );
    place.put("in/new/deep/er/file", "2");
    watcher
        .until(&place.uri("in/new/deep/er/file"), "updated")
        .await;
    watcher.hub.leave(&watcher.who);
    watcher.gone().await;
}

#[tokio::test]
async fn a_watch_ends_with_what_it_watches() {
    let place = Place::new();
    std::fs::create_dir(place.path("in/sub")).expect("made");
    let watcher = watch(
        &place,
        "in/sub",
        json!({ "includes": { "items": ["*.rs"] } }),
    )
    .await
    .expect("a watch");
    place.put("in/sub/a.txt", "1");
    place.put("in/sub/a.rs", "1");
    let told = watcher.until(&place.uri("in/sub/a.rs"), "added").await;
    assert_eq!(told.len(), 1, "{told:?}");
    std::fs::remove_dir_all(place.path("in/sub")).expect("removed");
    watcher.until(&place.uri("in/sub"), "deleted").await;
    watcher.gone().await;
}

#[tokio::test]
async fn nothing_outside_is_watched() {
    let place = Place::new();
    symlink("../out", place.path("in/dir")).expect("made");
    for below in ["out", "in/dir", "in/dir/secret"] {
        let refused = watch(&place, below, json!({}))
            .await
            .err()
            .expect("refused");
        assert_eq!(refused.code, codes::PERMISSION_DENIED);
    }
    assert_eq!(
        watch(&place, "in/none", json!({}))
            .await
            .err()
            .expect("refused")
            .code,
        codes::NOT_FOUND
    );
    let wrong = watch(&place, "in", json!({ "excludes": { "items": ["["] } })).await;
    assert_eq!(wrong.err().expect("refused").code, rpc::INVALID_PARAMS);
}

#[tokio::test]
async fn a_flood_is_told_as_one() {
    let place = Place::new();
    let watcher = watch(&place, "in", json!({})).await.expect("a watch");
    for number in 0..3000 {
        place.put(&format!("in/{number}"), "1");
    }
    watcher.until(&place.uri("in"), "updated").await;
}
