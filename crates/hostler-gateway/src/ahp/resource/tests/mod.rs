//! Files below roots, in directories of their own.

mod races;
mod watches;

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
