//! Whoever exchanges what a path names while it is looked at leads nobody out of the roots.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hostler_agent::served::Served;

use crate::Asking;
use crate::support::Stage;

/// Exchanges two names as quickly as it can, until it is told to stop; how often.
fn exchange(one: &Path, other: &Path, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    let (one, other, stop) = (one.to_owned(), other.to_owned(), stop.clone());
    std::thread::spawn(move || {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            rustix::fs::renameat_with(
                rustix::fs::CWD,
                &one,
                rustix::fs::CWD,
                &other,
                rustix::fs::RenameFlags::EXCHANGE,
            )
            .expect("exchanged");
            count += 1;
        }
        count
    })
}

async fn race(below: &str, directory: bool) {
    let asking = Asking::new().await;
    let root = asking.root.path();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("file"), "secret").unwrap();
    std::fs::create_dir(root.join("dir")).unwrap();
    std::fs::write(root.join("dir/file"), "inside").unwrap();
    let (one, other) = if directory {
        symlink(outside.path(), root.join("out")).unwrap();
        (root.join("dir"), root.join("out"))
    } else {
        symlink(outside.path().join("file"), root.join("out")).unwrap();
        (root.join("dir/file"), root.join("out"))
    };
    let stop = Arc::new(AtomicBool::new(false));
    let exchanger = exchange(&one, &other, &stop);
    let path = root.join(below);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..1500 {
        match asking.read(&path).await {
            Ok(text) => {
                assert_eq!(text, "inside");
                read += 1;
            }
            Err(_) => refused += 1,
        }
    }
    // A file takes the place of a link, so that these come last.
    for turn in 0..1500 {
        let _ = asking.write(&path, &format!("written {turn}")).await;
    }
    stop.store(true, Ordering::Relaxed);
    let exchanged = exchanger.join().unwrap();
    println!("{read} read, {refused} refused, {exchanged} exchanged");
    assert!(exchanged > 0 && read > 0 && refused > 0);
    let secret = std::fs::read_to_string(outside.path().join("file")).unwrap();
    assert_eq!(secret, "secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    asking.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_exchanged_for_a_link() {
    race("dir/file", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_exchanged_for_a_link() {
    race("dir/file", false).await;
}

#[tokio::test]
async fn the_kernels_own_files_are_none_even_below_the_root_of_all() {
    let stage = Stage::new();
    let session = stage.open().await;
    let served = Served::new(&stage.sessions, session.clone(), vec!["/".into()]);
    for path in [
        "/proc/self/environ",
        "/proc/kmsg",
        "/proc/self/fd/0",
        "/sys/kernel/uevent_seqnum",
        "/dev/zero",
        "/proc/none",
    ] {
        let params = serde_json::json!({"sessionId": "s", "path": path});
        let read = crate::ask(&served, "fs/read_text_file", params).await;
        assert!(read.is_err(), "{path}: {read:?}");
        let params = serde_json::json!({"sessionId": "s", "path": path, "content": ""});
        let written = crate::ask(&served, "fs/write_text_file", params).await;
        assert!(written.is_err(), "{path}: {written:?}");
    }
    let params = serde_json::json!({"sessionId": "s", "path": "/etc/passwd"});
    let read = crate::ask(&served, "fs/read_text_file", params).await;
    assert!(read.is_ok(), "{read:?}");
}
