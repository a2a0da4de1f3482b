//! Files below the sessions' directories, by the protocol's own client.

use ahp::SubscriptionEvent;
use ahp_types::actions::StateAction;
use ahp_types::commands::{
    ContentEncoding, CreateResourceWatchParams, ResourceReadParams, ResourceResolveParams,
    ResourceWriteParams,
};
use ahp_types::errors::ahp_error_codes as codes;

use crate::peer::{Peer, refused};
use crate::support::{Place, long};

fn reading(uri: String) -> ResourceReadParams {
    ResourceReadParams {
        channel: String::new(),
        meta: None,
        uri,
        encoding: None,
    }
}

fn writing(uri: String, data: &str, if_match: Option<String>) -> ResourceWriteParams {
    ResourceWriteParams {
        channel: String::new(),
        meta: None,
        uri,
        data: data.into(),
        encoding: ContentEncoding::Utf8,
        content_type: None,
        create_only: None,
        mode: None,
        position: None,
        if_match,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_written_and_watched() {
    let place = Place::new();
    let host = place.host();
    let root = place.dir.path().join("work");
    std::fs::create_dir(&root).expect("made");
    std::fs::write(place.dir.path().join("secret"), "secret").expect("written");
    let a = Peer::new(&host, "a").await;
    let uri = |name: &str| format!("file://{}/{name}", root.display());
    let early = a.client.resource_read(reading(uri("a"))).await;
    assert_eq!(
        refused(early).0,
        codes::PERMISSION_DENIED,
        "there is no session there"
    );
    let body = serde_json::json!({ "cwd": root });
    let session = host.client.post("/v1/sessions", body).await.expect(201);

    let watch = CreateResourceWatchParams {
        channel: String::new(),
        meta: None,
        uri: format!("file://{}", root.display()),
        recursive: Some(true),
        excludes: None,
        includes: None,
    };
    let watch = a
        .client
        .create_resource_watch(watch)
        .await
        .expect("a watch");
    let (_, mut changes) = a
        .client
        .subscribe(watch.channel.clone())
        .await
        .expect("subscribed");

    a.client
        .resource_write(writing(uri("a"), "one", None))
        .await
        .expect("written");
    let changed = async {
        while let Some(event) = changes.recv().await {
            if let SubscriptionEvent::Action(envelope) = event
                && let StateAction::ResourceWatchChanged(action) = envelope.action
            {
                return action.changes.to_string();
            }
        }
        String::new()
    };
    let changed = tokio::time::timeout(long(), changed)
        .await
        .expect("a change");
    assert!(changed.contains("work/a"), "{changed}");

    let resolved = ResourceResolveParams {
        channel: String::new(),
        meta: None,
        uri: uri("a"),
        follow_symlinks: None,
    };
    let etag = a
        .client
        .resource_resolve(resolved)
        .await
        .expect("resolved")
        .etag;
    a.client
        .resource_write(writing(uri("a"), "two", etag.clone()))
        .await
        .expect("written");
    let stale = a
        .client
        .resource_write(writing(uri("a"), "three", etag))
        .await;
    assert_eq!(refused(stale).0, codes::CONFLICT);
    let read = a
        .client
        .resource_read(reading(uri("a")))
        .await
        .expect("read");
    assert_eq!(read.data, "two");
    let outside = format!("file://{}/secret", place.dir.path().display());
    assert_eq!(
        refused(a.client.resource_read(reading(outside)).await).0,
        codes::PERMISSION_DENIED
    );

    let id = session["id"].as_str().expect("an id");
    host.client
        .delete(&format!("/v1/sessions/{id}"))
        .await
        .expect(200);
    let late = a.client.resource_read(reading(uri("a"))).await;
    assert_eq!(
        refused(late).0,
        codes::PERMISSION_DENIED,
        "the session has closed"
    );
}
