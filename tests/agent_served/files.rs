//! `fs/*`.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use hostler_agent::RpcError;
use serde_json::json;

use crate::Asking;

fn put(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("written");
}

#[tokio::test]
async fn lines_are_counted_from_one_and_come_as_they_are() {
    let asking = Asking::new().await;
    let path = asking.root.path().join("a");
    put(&path, "one\ntwo\r\nthree €\nfour".as_bytes());
    for (line, limit, text) in [
        (None, None, "one\ntwo\r\nthree €\nfour"),
        (Some(1), None, "one\ntwo\r\nthree €\nfour"),
        (Some(0), Some(1), "one\n"),
        (Some(2), Some(2), "two\r\nthree €\n"),
        (Some(4), Some(9), "four"),
        (Some(5), None, ""),
        (Some(u32::MAX), None, ""),
        (None, Some(0), ""),
        (None, Some(2), "one\ntwo\r\n"),
    ] {
        let params = json!({"sessionId": "s", "path": path, "line": line, "limit": limit});
        let read = asking.ask("fs/read_text_file", params).await.unwrap();
        assert_eq!(read["content"], text, "{line:?} {limit:?}");
    }
    put(&path, b"");
    assert_eq!(asking.read(&path).await.unwrap(), "");
    asking.close().await;
}

#[tokio::test]
async fn what_is_not_there_not_text_or_too_large_is_refused_by_its_reason() {
    let asking = Asking::new().await;
    let root = asking.root.path();
    let (params, missing) = (RpcError::INVALID_PARAMS, RpcError::NOT_FOUND);
    put(&root.join("binary"), b"abc\xFF");
    put(&root.join("file"), b"x");
    let huge = std::fs::File::create(root.join("huge")).unwrap();
    huge.set_len(1 << 40).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    for (path, code, part) in [
        (root.join("none"), missing, "no file"),
        (root.join("none/none"), missing, "no directory"),
        (root.join("binary"), params, "not UTF-8 text: byte 3"),
        (root.join("huge"), params, "ask for fewer lines"),
        (root.join("dangling"), params, "leads nowhere"),
        (root.join("loop"), params, "loop"),
        (root.join("fifo"), params, "a pipe"),
        (root.join("file/x"), params, "file"),
        (root.to_owned(), params, "not below"),
        ("file".into(), params, "not absolute"),
        (root.join("../x"), params, "`..`"),
        (root.join("none/../file"), params, "`..`"),
        ("/etc/passwd".into(), params, "not below"),
        ("/".into(), params, "not below"),
        ("/proc/self/environ".into(), params, "not below"),
    ] {
        let refused = asking.read(&path).await.expect_err(&path.to_string_lossy());
        assert_eq!(refused.code, code, "{refused}");
        assert!(refused.message.contains(part), "{part}: {refused}");
        if part != "no file" && !["binary", "huge"].iter().any(|name| path.ends_with(name)) {
            let refused = asking.write(&path, "x").await.expect_err(part);
            assert_eq!(refused.code, code, "{refused}");
        }
    }
    // The end of a line of a terabyte is not looked for for ever.
    let line = json!({"sessionId": "s", "path": root.join("huge"), "line": 2, "limit": 1});
    let refused = asking.ask("fs/read_text_file", line).await.unwrap_err();
    assert!(refused.message.contains("not within"), "{refused}");
    let first = json!({"sessionId": "s", "path": root.join("huge"), "limit": 1});
    let refused = asking.ask("fs/read_text_file", first).await.unwrap_err();
    assert!(refused.message.contains("fewer lines"), "{refused}");
    asking.close().await;
}

#[tokio::test]
async fn links_within_the_roots_are_followed_and_links_out_of_them_are_not() {
    let asking = Asking::new().await;
    let root = asking.root.path();
    let outside = tempfile::tempdir().unwrap();
    put(&outside.path().join("secret"), b"secret");
    std::fs::create_dir(root.join("dir")).unwrap();
    put(&root.join("dir/file"), b"inside");
    symlink("dir", root.join("relative")).unwrap();
    symlink(root.join("dir"), root.join("absolute")).unwrap();
    symlink(outside.path(), root.join("out")).unwrap();
    symlink(outside.path().join("secret"), root.join("leak")).unwrap();
    symlink(outside.path().join("new"), root.join("plant")).unwrap();
    for inside in ["relative/file", "absolute/file", "dir/./file"] {
        assert_eq!(asking.read(&root.join(inside)).await.unwrap(), "inside");
    }
    for out in ["out/secret", "leak", "plant", "out/new"] {
        let path = root.join(out);
        let refused = asking.read(&path).await.expect_err(out);
        assert_eq!(refused.code, RpcError::INVALID_PARAMS, "{out}: {refused}");
        let refused = asking.write(&path, "planted").await.expect_err(out);
        assert_eq!(refused.code, RpcError::INVALID_PARAMS, "{out}: {refused}");
    }
    let left: Vec<_> = std::fs::read_dir(outside.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(
        std::fs::read(outside.path().join("secret")).unwrap(),
        b"secret"
    );
    // By a link, what it leads to is written, and the link stays.
    symlink("dir/file", root.join("link")).unwrap();
    asking.write(&root.join("link"), "through").await.unwrap();
    assert_eq!(
        asking.read(&root.join("dir/file")).await.unwrap(),
        "through"
    );
    assert!(root.join("link").symlink_metadata().unwrap().is_symlink());
    asking.close().await;
}

#[tokio::test]
async fn a_write_creates_or_replaces_and_keeps_what_the_file_is() {
    let asking = Asking::new().await;
    let root = asking.root.path();
    let new = root.join("new");
    asking.write(&new, "text €").await.unwrap();
    assert_eq!(std::fs::read(&new).unwrap(), "text €".as_bytes());
    let script = root.join("script");
    put(&script, b"a longer text that was there before");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o751)).unwrap();
    let before = script.metadata().unwrap();
    asking.write(&script, "short").await.unwrap();
    let after = script.metadata().unwrap();
    assert_eq!(std::fs::read(&script).unwrap(), b"short");
    assert_eq!(after.mode() & 0o7777, 0o751);
    assert_ne!(after.ino(), before.ino(), "it was not replaced");
    // One with two names stays one.
    std::fs::hard_link(&script, root.join("other")).unwrap();
    asking.write(&script, "both").await.unwrap();
    assert_eq!(std::fs::read(root.join("other")).unwrap(), b"both");
    asking.write(&script, "").await.unwrap();
    assert_eq!(std::fs::read(root.join("other")).unwrap(), b"");
    let names = std::fs::read_dir(root).unwrap().count();
    assert_eq!(names, 3, "something was left");
    asking.close().await;
}

#[tokio::test]
async fn a_reader_finds_the_old_text_or_the_new_one() {
    let asking = Asking::new().await;
    let path = asking.root.path().join("a");
    let texts = ["a".repeat(100_000), "b".repeat(50_000)];
    put(&path, texts[0].as_bytes());
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (path, texts, stop) = (path.clone(), texts.clone(), stop.clone());
        move || {
            let mut reads = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(texts.contains(&text), "{} bytes of neither", text.len());
                reads += 1;
            }
            reads
        }
    });
    for turn in 0..200 {
        asking.write(&path, &texts[turn % 2]).await.unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(reader.join().unwrap() > 0);
    asking.close().await;
}
