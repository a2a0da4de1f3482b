//! What is exchanged while files are found leads nowhere else.

use super::*;

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
