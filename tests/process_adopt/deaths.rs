//! Hosts, zygotes and keepers that are killed, alone and together, and at every step.

use std::time::{Duration, Instant};

use hostler_process::{Contain, EndReason, Error, ExitStatus, Signal, Tree};

use crate::hosts::{Host, Scene};
use crate::support::{Found, slack, until};
use crate::{GRACE, adopt, gone, is_no_keeper, kill, pid_of};

/// Children of its own, orphans of two kinds, and all of them stubborn.
const FAMILY: &str = "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 1000' & (setsid sleep 1000 &) ; (sleep 1000 &); sleep 1000";
const MEMBERS: usize = 6;

async fn family(scene: &Scene, host: &mut Host, how: &str) -> Found {
    let keeper = pid_of(&host.ok(&format!("tree t {how}")));
    host.ok(&format!("spawn t p {FAMILY}"));
    until("all of them", || scene.living().len() == MEMBERS).await;
    Found::read(keeper).expect("the keeper")
}

#[tokio::test]
async fn a_dead_hosts_zygote_ends_what_a_killed_keeper_leaves() {
    for way in ["", "tree", "pidns"] {
        let scene = Scene::new();
        let mut host = scene.host();
        if host.ask(&format!("tree other 30000 {way}")).is_err() {
            println!("skipped: {way}");
            continue;
        }
        let keeper = family(&scene, &mut host, &format!("30000 {way}")).await;
        let zygote = host.zygote();
        host.kill();
        assert_eq!(scene.living().len(), MEMBERS);
        kill(&keeper);
        until("zero survivors", || scene.living().is_empty()).await;
        until("its socket is gone", || !scene.socket("t").exists()).await;
        assert!(is_no_keeper(
            &Tree::adopt(&scene.socket("t")).await.unwrap_err()
        ));
        assert!(zygote.still_lives(), "it has one keeper yet");
        let other = adopt(&scene.socket("other")).await;
        assert_eq!(other.tree.end(GRACE).await.unwrap().remaining, 0);
        gone("the zygote", &zygote).await;
    }
}

#[tokio::test]
async fn the_adopter_of_a_killed_keeper_learns_that_nothing_is_left() {
    let scene = Scene::new();
    let mut host = scene.host();
    host.ok("tree other 30000");
    let keeper = family(&scene, &mut host, "30000 tree").await;
    host.kill();
    let adopted = adopt(&scene.socket("t")).await;
    let process = &adopted.processes[0].0;
    let began = Instant::now();
    kill(&keeper);
    let report = adopted.tree.ended().await.unwrap();
    println!("known after {:?}", began.elapsed());
    assert_eq!(
        (report.reason, report.remaining),
        (EndReason::KeeperLost, 0)
    );
    // Those that do not die with it.
    assert!(report.left.len() >= 2, "{report:?}");
    assert!(scene.living().is_empty(), "{:?}", scene.living());
    assert_eq!(process.wait().await.status, ExitStatus::Lost);
    assert_eq!(adopted.tree.end(GRACE).await.unwrap(), report);
    // The last keeper of that zygote, which says it with its last breath.
    let other = adopt(&scene.socket("other")).await;
    kill(&Found::read(other.tree.keeper().pid.cast_signed()).unwrap());
    let report = other.tree.end(GRACE).await.unwrap();
    assert_eq!(
        (report.reason, report.remaining),
        (EndReason::KeeperLost, 0)
    );
    gone("the zygote", &host.zygote()).await;
}

#[tokio::test]
async fn a_kept_tree_survives_host_and_zygote() {
    for way in ["", "tree", "pidns"] {
        let scene = Scene::new();
        let mut host = scene.host();
        if host.ask(&format!("tree other 30000 {way}")).is_err() {
            println!("skipped: {way}");
            continue;
        }
        let keeper = family(&scene, &mut host, &format!("30000 {way}")).await;
        // In either order.
        if way.is_empty() {
            kill(&host.zygote());
            gone("the zygote", &host.zygote()).await;
            host.kill();
        } else {
            host.kill();
            kill(&host.zygote());
            gone("the zygote", &host.zygote()).await;
        }
        assert!(keeper.still_lives());
        let adopted = adopt(&scene.socket("t")).await;
        assert_eq!(scene.living().len(), MEMBERS);
        let command = hostler_process::Command::new("/bin/true");
        let process = adopted.tree.spawn(command).await.unwrap();
        assert_eq!(process.wait().await.status, ExitStatus::Code(0));
        let report = adopted.tree.end(GRACE).await.unwrap();
        let init = |left: &&hostler_process::Left| left.command.as_bytes() == b"hostler-init";
        let members = report.left.len() - report.left.iter().filter(init).count();
        assert_eq!((report.remaining, members), (0, MEMBERS), "{report:#?}");
        assert!(scene.living().is_empty());
        gone("the keeper", &keeper).await;

        // With nobody above, its death takes what the kernel ties to it, and a cgroup the rest.
        let other = adopt(&scene.socket("other")).await;
        let direct = hostler_process::Command::new("/bin/sleep")
            .arg("1000")
            .env("HOSTLER_TEST_MARK", &scene.mark);
        let process = other.tree.spawn(direct).await.unwrap();
        let contain = other.tree.contain();
        let group = other.tree.cgroup().map(std::path::Path::to_owned);
        kill(&Found::read(other.tree.keeper().pid.cast_signed()).unwrap());
        match other.tree.end(GRACE).await {
            Ok(report) => assert!(report.remaining == 0 && group.is_some(), "{report:?}"),
            Err(error) => assert!(
                matches!(error, Error::Unproven) && group.is_none(),
                "{contain:?}: {error}"
            ),
        }
        assert_eq!(process.wait().await.status, ExitStatus::Lost);
        until("none", || scene.living().is_empty()).await;
        // Nobody was left to remove it; the next keeper, or a sweep, does.
        assert!(is_no_keeper(
            &Tree::adopt(&scene.socket("other")).await.unwrap_err()
        ));
    }
}

/// What survives when all three are killed is still named by its cgroup.
#[tokio::test]
async fn a_group_is_ended_when_all_are_dead() {
    let scene = Scene::new();
    let mut host = scene.host();
    let keeper = family(&scene, &mut host, "30000").await;
    let adopted = adopt(&scene.socket("t")).await;
    let Some(group) = adopted.tree.cgroup().map(std::path::Path::to_owned) else {
        assert_eq!(adopted.tree.contain(), Contain::Tree);
        println!("skipped: no cgroup here");
        return;
    };
    std::mem::forget(adopted.processes);
    adopted
        .tree
        .hand_over(Duration::from_secs(30))
        .await
        .unwrap();
    kill(&host.zygote());
    host.kill();
    kill(&keeper);
    gone("the keeper", &keeper).await;
    assert!(!scene.living().is_empty(), "the orphans of two kinds");
    let report = hostler_process::contain::end_group(&group).await.unwrap();
    assert_eq!(report.remaining, 0);
    assert!(scene.living().is_empty() && !group.exists());
    // Again, and of nothing.
    let report = hostler_process::contain::end_group(&group).await.unwrap();
    assert_eq!(report.remaining, 0);
}

/// The tree of a host that was killed, if there is still one.
async fn find(scene: &Scene, host: &Host) -> Option<hostler_process::Adopted> {
    let began = Instant::now();
    loop {
        match Tree::adopt(&scene.socket("t")).await {
            Ok(adopted) => return Some(adopted),
            // It goes with its last keeper.
            Err(Error::NoKeeper(_)) if !host.zygote().still_lives() => return None,
            Err(Error::NoKeeper(_) | Error::KeeperGone) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(
            began.elapsed() < Duration::from_secs(20) * slack(),
            "neither found nor gone"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whatever the host was about to do when it was killed: either there is a tree which says all that is there, or nothing is.
#[cfg(debug_assertions)]
#[tokio::test]
async fn a_host_may_die_at_any_step() {
    let hooks = crate::hooks::Hooks::new();
    for name in [
        "zygote.fork",
        "keeper.bound",
        "spawn.before-clone",
        "spawn.after-exec",
        "keeper.reaped",
        "keeper.host-gone",
        "keeper.end",
        "ending.terminated",
        "ending.killed",
    ] {
        for way in ["", "tree"] {
            let scene = Scene::with_hooks(Some(&hooks.path()));
            let mut host = scene.host();
            hooks.hold(name);
            host.say(&format!("tree t 30000 {way}"));
            host.say("spawn t p exec sleep 1000");
            host.say("spawn t q exit 3");
            host.say("wait q");
            match name {
                "keeper.host-gone" => {
                    for _ in 0..4 {
                        host.answer().unwrap();
                    }
                    host.kill();
                }
                "keeper.end" => host.say("end t"),
                // Somebody must be left then.
                "ending.terminated" | "ending.killed" => {
                    host.say("spawn t r trap '' TERM; echo up; while :; do sleep 1; done");
                    host.say("read r 3");
                    host.say("end t");
                }
                _ => {}
            }
            let held = hooks.arrival();
            host.kill();
            drop(held);
            let Some(adopted) = find(&scene, &host).await else {
                println!("{name}: all gone");
                until("nothing is left", || scene.living().is_empty()).await;
                assert!(name.starts_with("ending") || name == "keeper.end", "{name}");
                continue;
            };
            println!(
                "{name}: {} processes, {:?}, {:?}",
                adopted.processes.len(),
                adopted.ending,
                adopted.ended
            );
            if adopted.ending.is_none() {
                let census = adopted.tree.census().await.unwrap();
                let listed: Vec<u32> = adopted
                    .processes
                    .iter()
                    .filter(|(process, _)| process.exit().is_none())
                    .map(|(process, _)| process.pid())
                    .collect();
                for info in &census {
                    // What waits to be reaped is counted as well.
                    assert!(
                        listed.contains(&info.id.pid),
                        "{name}: {census:?} {listed:?}"
                    );
                }
                for found in scene.living() {
                    assert!(
                        listed.contains(&found.pid.cast_unsigned()),
                        "{name}: {found:?}"
                    );
                }
            }
            let report = adopted.tree.end(GRACE).await.unwrap();
            assert_eq!(report.remaining, 0, "{name}");
            assert!(
                scene.living().is_empty() && !scene.socket("t").exists(),
                "{name}"
            );
            gone("the zygote", &host.zygote()).await;
        }
    }
}

/// The next host dies before it is the host, and just after.
#[cfg(debug_assertions)]
#[tokio::test]
async fn an_adopter_may_die_at_any_step() {
    let hooks = crate::hooks::Hooks::new();
    let scene = Scene::with_hooks(Some(&hooks.path()));
    let mut first = scene.host();
    first.ok("tree t 30000");
    first.ok("spawn t p exec sleep 1000");
    for name in ["keeper.hello", "keeper.welcomed"] {
        let mut next = scene.host();
        hooks.hold(name);
        next.say("adopt t");
        let held = hooks.arrival();
        next.kill();
        drop(held);
        if name == "keeper.hello" {
            assert_eq!(first.ok("census t"), "1", "it is as it was");
        } else {
            assert_eq!(
                first.ask("census t").unwrap_err(),
                Error::Superseded.to_string()
            );
        }
        until("it lives", || scene.living().len() == 1).await;
    }
    let adopted = adopt(&scene.socket("t")).await;
    assert_eq!(adopted.processes.len(), 1);
    assert_eq!(adopted.tree.end(GRACE).await.unwrap().remaining, 0);
}

/// It knocks in the moment in which the keeper gives up waiting.
#[cfg(debug_assertions)]
#[tokio::test]
async fn who_comes_when_the_wait_is_over_learns_how_it_ended() {
    let hooks = crate::hooks::Hooks::new();
    let scene = Scene::with_hooks(Some(&hooks.path()));
    let mut host = scene.host();
    host.ok("tree t 300 slow");
    host.ok("spawn t p trap '' TERM; echo up; while :; do sleep 1; done");
    host.ok("read p 3");
    hooks.hold("keeper.waited");
    host.kill();
    let held = hooks.arrival();
    let path = scene.socket("t");
    let adopting = tokio::spawn(async move { Tree::adopt(&path).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(held);
    let adopted = adopting.await.unwrap().unwrap();
    assert_eq!(adopted.ending, Some(EndReason::HostGone));
    // It need not take its time any more.
    let report = adopted.tree.end(Duration::ZERO).await.unwrap();
    assert_eq!((report.reason, report.remaining), (EndReason::HostGone, 0));
    assert!(scene.living().is_empty());
}

/// The wait is counted from the last host's end, not from the first's.
#[tokio::test]
async fn an_adopted_tree_waits_anew() {
    let scene = Scene::new();
    let mut host = scene.host();
    host.ok("tree t 2000");
    host.ok("spawn t p exec sleep 1000");
    host.kill();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(800)).await;
        let mut next = scene.host();
        assert_eq!(next.ok("adopt t"), "1");
        next.signal(Signal::KILL);
    }
    assert_eq!(scene.living().len(), 1);
    until("nobody came", || scene.living().is_empty()).await;
    until("its socket is gone", || !scene.socket("t").exists()).await;
}
