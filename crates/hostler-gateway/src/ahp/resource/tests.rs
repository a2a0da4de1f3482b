//! Files below roots, in directories of their own.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ahp_types::actions::StateAction;
use ahp_types::commands::*;
use ahp_types::errors::ahp_error_codes as codes;
use ahp_types::errors::json_rpc_error_codes as rpc;
use hostler_agent::served::files::Roots;
use serde_json::{Value, json};

use super::*;
use crate::ahp::error::AhpError;
use crate::ahp::uri::of_path;

/// A directory with a root `in` in it, and `out` beside that.
struct Place {
    dir: tempfile::TempDir,
    roots: Roots,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("in")).expect("made");
        std::fs::create_dir(dir.path().join("out")).expect("made");
        std::fs::write(dir.path().join("out/secret"), "secret").expect("written");
        let roots = Roots::new(vec![dir.path().join("in")]);
        Self { dir, roots }
    }

    fn path(&self, below: &str) -> std::path::PathBuf {
        self.dir.path().join(below)
    }

    fn uri(&self, below: &str) -> String {
        of_path(&self.path(below))
    }

    fn put(&self, below: &str, text: &str) {
        std::fs::write(self.path(below), text).expect("written");
    }

    fn text(&self, below: &str) -> String {
        std::fs::read_to_string(self.path(below)).expect("read")
    }

    async fn read(&self, below: &str) -> Result<ResourceReadResult, AhpError> {
        read(&self.roots, params(json!({ "uri": self.uri(below) }))).await
    }

    async fn write(&self, below: &str, text: &str, more: Value) -> Result<(), AhpError> {
        let mut all = json!({ "uri": self.uri(below), "data": text, "encoding": "utf-8" });
        let (Some(all_), Some(more)) = (all.as_object_mut(), more.as_object()) else {
            panic!("objects");
        };
        all_.extend(more.clone());
        write(&self.roots, params(all)).await.map(|_| ())
    }

    async fn resolve(&self, below: &str, more: Value) -> Result<ResourceResolveResult, AhpError> {
        let mut all = json!({ "uri": self.uri(below) });
        all.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        resolve(&self.roots, params(all)).await
    }

    async fn etag(&self, below: &str) -> String {
        let resolved = self.resolve(below, json!({})).await.expect("resolved");
        resolved.etag.expect("an etag")
    }

    async fn delete(&self, below: &str, recursive: bool) -> Result<(), AhpError> {
        let all = json!({ "uri": self.uri(below), "recursive": recursive });
        delete(&self.roots, params(all)).await.map(|_| ())
    }

    async fn copy(&self, from: &str, to: &str, keep: bool) -> Result<(), AhpError> {
        let all =
            json!({ "source": self.uri(from), "destination": self.uri(to), "failIfExists": keep });
        copy(&self.roots, params(all)).await.map(|_| ())
    }

    async fn rename(&self, from: &str, to: &str, keep: bool) -> Result<(), AhpError> {
        let all =
            json!({ "source": self.uri(from), "destination": self.uri(to), "failIfExists": keep });
        rename(&self.roots, params(all)).await.map(|_| ())
    }

    async fn mkdir(&self, below: &str) -> Result<(), AhpError> {
        mkdir(&self.roots, params(json!({ "uri": self.uri(below) })))
            .await
            .map(|_| ())
    }
}

fn params<T: serde::de::DeserializeOwned>(mut value: Value) -> T {
    value["channel"] = json!("ahp-root://");
    serde_json::from_value(value).expect("parameters")
}

fn code<T: std::fmt::Debug>(result: Result<T, AhpError>) -> i32 {
    result.expect_err("refused").code
}

#[tokio::test]
async fn files_are_read_as_text_or_as_they_are() {
    let place = Place::new();
    place.put("in/a", "héllo");
    let result = place.read("in/a").await.expect("read");
    assert_eq!(
        (&*result.data, result.encoding),
        ("héllo", ContentEncoding::Utf8)
    );
    assert_eq!(result.content_type.as_deref(), Some("text/plain"));
    let asked = json!({ "uri": place.uri("in/a"), "encoding": "base64" });
    let result = read(&place.roots, params(asked)).await.expect("read");
    assert_eq!(
        (&*result.data, result.encoding),
        ("aMOpbGxv", ContentEncoding::Base64)
    );
    std::fs::write(place.path("in/b"), b"\x89PNG\r\n\x1a\n\xff").expect("written");
    let asked = json!({ "uri": place.uri("in/b"), "encoding": "utf-8" });
    let result = read(&place.roots, params(asked)).await.expect("read");
    assert_eq!(result.encoding, ContentEncoding::Base64);
    assert_eq!(result.content_type.as_deref(), Some("image/png"));
    assert_eq!(code(place.read("in/none").await), codes::NOT_FOUND);
    assert_eq!(code(place.read("in/none/none").await), codes::NOT_FOUND);
    assert_eq!(code(place.read("in").await), codes::PERMISSION_DENIED);
    let other = json!({ "uri": "virtual:/x" });
    assert_eq!(
        code(read(&place.roots, params(other)).await),
        codes::NOT_FOUND
    );
    let large = std::fs::File::create(place.path("in/large")).expect("made");
    large.set_len(read::MOST + 1).expect("long");
    assert_eq!(code(place.read("in/large").await), rpc::INVALID_PARAMS);
}

#[tokio::test]
async fn nothing_outside_of_the_roots_is_touched() {
    let place = Place::new();
    place.put("in/a", "a");
    symlink("../out/secret", place.path("in/link")).expect("made");
    symlink("../out", place.path("in/dir")).expect("made");
    for below in ["out/secret", "in/link", "in/dir/secret"] {
        assert_eq!(
            code(place.read(below).await),
            codes::PERMISSION_DENIED,
            "{below}"
        );
        assert_eq!(
            code(place.write(below, "x", json!({})).await),
            codes::PERMISSION_DENIED
        );
        assert_eq!(
            code(place.resolve(below, json!({})).await),
            codes::PERMISSION_DENIED
        );
        assert_eq!(
            code(place.copy(below, "in/copy", false).await),
            codes::PERMISSION_DENIED
        );
        let asked = params(json!({ "uri": place.uri(below), "read": true }));
        assert_eq!(
            code(request(&place.roots, asked).await),
            codes::PERMISSION_DENIED
        );
    }
    for below in ["out/secret", "in/dir/secret"] {
        assert_eq!(
            code(place.delete(below, true).await),
            codes::PERMISSION_DENIED
        );
        assert_eq!(
            code(place.rename(below, "in/moved", false).await),
            codes::PERMISSION_DENIED
        );
        assert_eq!(
            code(place.rename("in/a", below, false).await),
            codes::PERMISSION_DENIED
        );
        assert_eq!(
            code(place.copy("in/a", below, false).await),
            codes::PERMISSION_DENIED
        );
    }
    assert_eq!(
        code(place.mkdir("in/dir/new").await),
        codes::PERMISSION_DENIED
    );
    assert_eq!(
        code(place.delete("in", true).await),
        codes::PERMISSION_DENIED
    );
    let up = json!({ "uri": format!("{}/../out/secret", place.uri("in")) });
    assert_eq!(
        code(read(&place.roots, params(up)).await),
        rpc::INVALID_PARAMS
    );
    // A link is itself below the root, and what it leads to stays.
    place
        .delete("in/link", false)
        .await
        .expect("the link is deleted");
    place
        .delete("in/dir", true)
        .await
        .expect("the link is deleted");
    assert_eq!(place.text("out/secret"), "secret");
    let fine = params(json!({ "uri": place.uri("in/a"), "write": true }));
    request(&place.roots, fine).await.expect("granted");
}

#[tokio::test]
async fn pipes_are_not_opened() {
    let place = Place::new();
    let made = std::process::Command::new("mkfifo")
        .arg(place.path("in/pipe"))
        .status();
    assert!(made.expect("mkfifo").success());
    let answered = tokio::time::timeout(Duration::from_secs(5), place.read("in/pipe"));
    assert_eq!(code(answered.await.expect("at once")), rpc::INVALID_PARAMS);
    assert_eq!(
        code(place.write("in/pipe", "x", json!({})).await),
        rpc::INVALID_PARAMS
    );
    assert_eq!(
        code(place.copy("in/pipe", "in/copy", false).await),
        rpc::INVALID_PARAMS
    );
}

#[tokio::test]
async fn what_is_written_goes_where_it_is_to() {
    let place = Place::new();
    place
        .write("in/a", "0123456789", json!({}))
        .await
        .expect("made");
    for (mode, position, text, then) in [
        ("truncate", 4, "AB", "0123AB"),
        ("append", 0, "C", "0123ABC"),
        ("append", 3, "-", "0123-ABC"),
        ("insert", 0, ">", ">0123-ABC"),
        ("insert", 9, "<", ">0123-ABC<"),
        ("truncate", 0, "new", "new"),
    ] {
        let more = json!({ "mode": mode, "position": position });
        place.write("in/a", text, more).await.expect(mode);
        assert_eq!(place.text("in/a"), then, "{mode} {position}");
    }
    let far = json!({ "mode": "insert", "position": 9 });
    assert_eq!(
        code(place.write("in/a", "x", far).await),
        rpc::INVALID_PARAMS
    );
    let negative = json!({ "position": -1 });
    assert_eq!(
        code(place.write("in/a", "x", negative).await),
        rpc::INVALID_PARAMS
    );
    let once = json!({ "createOnly": true });
    assert_eq!(
        code(place.write("in/a", "x", once.clone()).await),
        codes::ALREADY_EXISTS
    );
    place.write("in/b", "x", once).await.expect("made");
    let bytes = json!({ "uri": place.uri("in/c"), "data": "/wA=", "encoding": "base64" });
    write(&place.roots, params(bytes)).await.expect("written");
    assert_eq!(std::fs::read(place.path("in/c")).expect("read"), [255, 0]);
    let wrong = json!({ "uri": place.uri("in/c"), "data": "?", "encoding": "base64" });
    assert_eq!(
        code(write(&place.roots, params(wrong)).await),
        rpc::INVALID_PARAMS
    );
    assert_eq!(
        code(place.write("in/none/a", "x", json!({})).await),
        codes::NOT_FOUND
    );
    assert_eq!(place.text("in/a"), "new");
}

#[tokio::test]
async fn an_etag_is_that_of_one_version() {
    let place = Place::new();
    place.put("in/a", "one");
    let first = place.etag("in/a").await;
    assert_eq!(place.etag("in/a").await, first);
    place
        .write("in/a", "two", json!({ "ifMatch": first }))
        .await
        .expect("written");
    let second = place.etag("in/a").await;
    assert_ne!(first, second);
    assert_eq!(
        code(place.write("in/a", "x", json!({ "ifMatch": first })).await),
        codes::CONFLICT
    );
    assert_eq!(
        code(place.write("in/b", "x", json!({ "ifMatch": first })).await),
        codes::CONFLICT
    );
    assert_eq!(place.text("in/a"), "two");
    // Another program, in place and with the same length.
    let mut last = second;
    for text in ["six", "ten"] {
        std::thread::sleep(Duration::from_millis(20));
        place.put("in/a", text);
        let now = place.etag("in/a").await;
        assert_ne!(now, last);
        last = now;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_have_one_etag_one_writes() {
    let place = Arc::new(Place::new());
    place.put("in/a", "start");
    for _ in 0..20 {
        let etag = place.etag("in/a").await;
        let mut all = tokio::task::JoinSet::new();
        for number in 0..8 {
            let (place, etag) = (place.clone(), etag.clone());
            all.spawn(async move {
                let more = json!({ "ifMatch": etag });
                place.write("in/a", &format!("by {number}"), more).await
            });
        }
        let results = all.join_all().await;
        let written = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(written, 1, "{results:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_loses_what_he_appends() {
    let place = Arc::new(Place::new());
    let mut all = tokio::task::JoinSet::new();
    for number in 0..64 {
        let place = place.clone();
        all.spawn(async move {
            let more = json!({ "mode": "append", "position": if number % 2 == 0 { 0 } else { 1 } });
            // The first ones find nothing there to be inserted into.
            let _ = place
                .write("in/a", "12345678", json!({ "mode": "append" }))
                .await;
            place.write("in/a", "12345678", more).await
        });
    }
    for result in all.join_all().await {
        result.expect("appended");
    }
    assert_eq!(place.text("in/a").len(), 64 * 16);
}

#[tokio::test]
async fn directories_are_listed_and_made() {
    let place = Place::new();
    place.mkdir("in/a/b/c").await.expect("made");
    place.mkdir("in/a/b/c").await.expect("is there");
    place.mkdir("in").await.expect("is there");
    place.put("in/a/file", "x");
    symlink("b", place.path("in/a/to-b")).expect("made");
    symlink("../../out", place.path("in/a/to-out")).expect("made");
    assert_eq!(code(place.mkdir("in/a/file").await), codes::ALREADY_EXISTS);
    assert_eq!(code(place.mkdir("in/a/file/x").await), rpc::INVALID_PARAMS);
    let listed = list(&place.roots, params(json!({ "uri": place.uri("in/a") })));
    let listed = listed.await.expect("listed").entries;
    let listed: Vec<(&str, &str)> = listed.iter().map(|e| (&*e.name, &*e.r#type)).collect();
    let wanted = [
        ("b", "directory"),
        ("file", "file"),
        ("to-b", "directory"),
        ("to-out", "file"),
    ];
    assert_eq!(listed, wanted);
    for (below, wanted) in [
        ("in/a/file", rpc::INVALID_PARAMS),
        ("in/none", codes::NOT_FOUND),
        ("out", codes::PERMISSION_DENIED),
        ("in/a/to-out", codes::PERMISSION_DENIED),
    ] {
        let listed = list(&place.roots, params(json!({ "uri": place.uri(below) }))).await;
        assert_eq!(code(listed), wanted, "{below}");
    }
    let root = list(&place.roots, params(json!({ "uri": place.uri("in") }))).await;
    assert_eq!(root.expect("listed").entries.len(), 1);
}

#[tokio::test]
async fn what_is_resolved_is_told_as_it_is() {
    let place = Place::new();
    place.put("in/a", "12345");
    symlink("a", place.path("in/link")).expect("made");
    let file = place.resolve("in/link", json!({})).await.expect("resolved");
    let real = of_path(&place.path("in/a").canonicalize().expect("real"));
    assert_eq!(
        (file.uri, file.r#type, file.size),
        (real, ResourceType::File, Some(5))
    );
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("after 1970")
        .as_secs();
    let year = 1970 + now / 31_556_952;
    assert!(file.mtime.expect("a time").starts_with(&year.to_string()));
    let link = place
        .resolve("in/link", json!({ "followSymlinks": false }))
        .await
        .expect("resolved");
    assert_eq!(
        (link.uri, link.r#type),
        (place.uri("in/link"), ResourceType::Symlink)
    );
    let root = place.resolve("in", json!({})).await.expect("resolved");
    assert_eq!((root.r#type, root.etag), (ResourceType::Directory, None));
    assert_eq!(
        code(place.resolve("in/none", json!({})).await),
        codes::NOT_FOUND
    );
}

#[tokio::test]
async fn things_are_copied_moved_and_deleted() {
    let place = Place::new();
    place.put("in/a", "a");
    std::fs::set_permissions(place.path("in/a"), PermissionsExt::from_mode(0o640)).expect("mode");
    place.copy("in/a", "in/b", true).await.expect("copied");
    assert_eq!(
        code(place.copy("in/a", "in/b", true).await),
        codes::ALREADY_EXISTS
    );
    place.put("in/b", "longer than a");
    place.copy("in/a", "in/b", false).await.expect("copied");
    assert_eq!(place.text("in/b"), "a");
    place.copy("in/a", "in/a", false).await.expect("nothing");
    assert_eq!(place.text("in/a"), "a");
    place.mkdir("in/d/e").await.expect("made");
    place.put("in/d/e/f", "f");
    symlink("e/f", place.path("in/d/link")).expect("made");
    place.copy("in/d", "in/d2", false).await.expect("copied");
    assert_eq!(place.text("in/d2/link"), "f");
    assert!(place.path("in/d2/link").is_symlink());
    // Into itself: once, and not for ever.
    place.copy("in/d", "in/d/e/g", false).await.expect("copied");
    assert_eq!(place.text("in/d/e/g/e/f"), "f");
    assert!(!place.path("in/d/e/g/e/g").exists());
    assert_eq!(
        code(place.copy("in/d", "in/d2", false).await),
        codes::ALREADY_EXISTS
    );
    assert_eq!(
        code(place.copy("in/none", "in/x", false).await),
        codes::NOT_FOUND
    );

    place.rename("in/d2", "in/d3", true).await.expect("moved");
    assert_eq!(place.text("in/d3/e/f"), "f");
    assert_eq!(
        code(place.rename("in/a", "in/b", true).await),
        codes::ALREADY_EXISTS
    );
    place.rename("in/a", "in/b", false).await.expect("moved");
    assert!(!place.path("in/a").exists());
    assert_eq!(
        code(place.rename("in/a", "in/b", false).await),
        codes::NOT_FOUND
    );
    assert_eq!(
        code(place.rename("in/b", "in/d3", false).await),
        codes::ALREADY_EXISTS
    );

    assert_eq!(
        code(place.delete("in/d3", false).await),
        rpc::INVALID_PARAMS
    );
    place.delete("in/d3", true).await.expect("deleted");
    place.delete("in/b", false).await.expect("deleted");
    assert_eq!(code(place.delete("in/b", false).await), codes::NOT_FOUND);
    place.mkdir("in/empty").await.expect("made");
    place.delete("in/empty", false).await.expect("deleted");
}

/// While a thread exchanges a directory for a link that leads out, and back.
fn exchanging<T>(place: &Place, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (dir, aside, link) = (
                place.path("in/dir"),
                place.path("in/aside"),
                place.path("in/swap"),
            );
            while !over.load(Ordering::Relaxed) {
                let _ = symlink("../out", &link);
                let _ = std::fs::rename(&dir, &aside);
                let _ = std::fs::rename(&link, &dir);
                let _ = std::fs::remove_file(&dir);
                let _ = std::fs::rename(&aside, &dir);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Ordering::Relaxed);
        result
    })
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn everything(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(dir)
        .expect("a directory")
        .map_while(Result::ok);
    let mut all: Vec<_> = entries
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).unwrap_or_default())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn an_exchanged_directory_leads_nowhere_else() {
    let place = Place::new();
    std::fs::create_dir(place.path("in/dir")).expect("made");
    place.put("in/dir/secret", "inside");
    place.put("out/victim", "victim");
    let before = everything(&place.path("out"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    exchanging(&place, || {
        let until = Instant::now() + Duration::from_secs(3);
        let mut done = [0_u32; 7];
        while Instant::now() < until {
            runtime.block_on(async {
                if let Ok(read) = place.read("in/dir/secret").await {
                    assert_ne!(read.data, "secret", "what is outside was read");
                    done[0] += 1;
                }
                done[1] += u32::from(
                    place
                        .write("in/dir/secret", "inside", json!({}))
                        .await
                        .is_ok(),
                );
                done[2] += u32::from(
                    place
                        .copy("in/dir/secret", "in/dir/copy", false)
                        .await
                        .is_ok(),
                );
                done[3] += u32::from(
                    place
                        .rename("in/dir/copy", "in/dir/victim", false)
                        .await
                        .is_ok(),
                );
                done[4] += u32::from(place.delete("in/dir/victim", false).await.is_ok());
                done[5] += u32::from(place.mkdir("in/dir/new").await.is_ok());
                done[6] += u32::from(place.delete("in/dir/new", true).await.is_ok());
            });
        }
        println!("done {done:?}");
        assert!(
            done.iter().all(|count| *count > 0),
            "some of each gets through: {done:?}"
        );
    });
    assert_eq!(everything(&place.path("out")), before);
}

/// What is deleted as a whole while directories in it are exchanged for links.
#[test]
fn a_deletion_follows_no_link_that_is_put_in_its_way() {
    let place = Place::new();
    place.put("out/victim", "victim");
    let before = everything(&place.path("out"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for _ in 0..40 {
        for number in 0..20 {
            let dir = place.path(&format!("in/tree/{number}/dir"));
            std::fs::create_dir_all(&dir).expect("made");
            std::fs::write(dir.join("file"), "x").expect("written");
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..20 {
                    let dir = place.path(&format!("in/tree/{number}/dir"));
                    let _ = std::fs::rename(&dir, place.path(&format!("in/tree/{number}/was")));
                    let _ = symlink("../../../out", &dir);
                }
            });
            runtime.block_on(async {
                // Something may be put in while it is emptied.
                while place.path("in/tree").exists() {
                    let _ = place.delete("in/tree", true).await;
                }
            });
        });
        let _ = std::fs::remove_dir_all(place.path("in/tree"));
        assert_eq!(everything(&place.path("out")), before);
    }
}

mod watches {
    use super::*;
    use crate::ahp::delivery::Outbox;
    use crate::ahp::hub::{Hub, Who};
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
        let snapshot = hub.follow(&who, &channel, Duration::ZERO, None, held)?;
        let snapshot: Value =
            serde_json::from_str(snapshot.expect("a snapshot").get()).expect("JSON");
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
                    let StateAction::ResourceWatchChanged(action) = action.expect("an action")
                    else {
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
}
