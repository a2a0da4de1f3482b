//! Every shape of leftover, alone, 50 deep, 500 wide and all at once: the command ends, and none of it is left, as root and
//! as an ordinary user, by each way to contain.

use std::time::{Duration, Instant};

use crate::support::{Cell, Contain, GRACE, Kit, Scene, Shape, heavy};

/// What the end of a tree may take: the grace and a second.
const LIMIT: Duration = Duration::from_millis(1300);
const _: () = assert!(LIMIT.as_millis() == GRACE.as_millis() + 1000);

/// Runs `misbehave ARGS` until its `shapes` stand, lets the main process end, and waits until nothing is left.
fn ends(cell: Cell, args: &[&str], shapes: &[&Shape]) {
    let scene = Scene::new(cell);
    let mut command = scene.misbehave(&["--grace", "300ms"], args);
    let mut front = scene.start(command.env("MISBEHAVE_EXIT", "7"));
    scene.await_shapes(shapes.iter().copied());
    // What stands must be seen, or that nothing is left would say nothing.
    let living = shapes.iter().map(|shape| shape.living).sum::<usize>();
    assert!(
        scene.living().len() > living,
        "{living} processes and more must live: {:?}",
        scene.living()
    );
    let since = Instant::now();
    scene.go();
    let status = front.wait(LIMIT);
    scene.await_none(&args.join(" "), since, LIMIT);
    assert_eq!(status.code(), Some(7), "{}", front.err());
    // In a plain tree the only groups are those of a nested hostler, which was killed before it could remove its own.
    if cell.contain != Contain::Tree {
        scene.await_no_groups();
    }
}

fn ends_alone(name: &str) {
    let shape = Kit::shape(name);
    let _turn = shape.heavy.then(heavy);
    for cell in Cell::all() {
        ends(cell, &["alone", name], &[shape]);
    }
}

macro_rules! alone {
    ($($test:ident $name:literal,)*) => {
        const ALONE: &[&str] = &[$($name),*];
        $(#[test] fn $test() { ends_alone($name); })*
    };
}

alone! {
    it_ignores_signals "ignores",
    it_blocks_signals "blocks",
    it_is_stopped "stopped",
    it_forked_twice "double-fork",
    it_has_its_own_session "setsid",
    it_closed_every_descriptor "closed",
    its_environment_is_scrubbed "scrubbed",
    it_calls_itself_a_keeper "renamed",
    it_forks_without_end "forks",
    it_holds_the_pipe_of_a_leader_gone "pipe-holder",
    its_wrapper_is_gone "wrapper",
    it_was_vforked "vfork",
    it_keeps_its_parent_in_vfork "vfork-held",
    it_was_started_by_threads "threads",
    it_was_started_by_a_brief_thread "brief-thread",
    it_has_lost_its_first_thread "headless",
    it_is_under_another_subreaper "subreaper",
    it_has_its_own_pid_namespace "pidns",
    it_is_traced "ptracer",
    it_never_waits_for_its_zombies "zombie",
    it_writes_to_a_full_pipe "full-pipe",
    it_is_under_a_nested_hostler "nested",
    it_executed_itself_again_detached "reexec",
    it_spins_on_end_of_file "eof-spin",
    it_is_a_new_process_at_each_look "chain",
    it_is_started_again_when_it_dies "respawner",
    it_holds_only_stderr "stderr-sleep",
    the_leader_of_its_group_is_gone "no-leader",
    it_is_as_old_as_its_parent "same-tick",
    it_is_a_job_in_a_terminal "terminal-jobs",
}

#[test]
fn each_shape_has_its_test() {
    let mut shapes: Vec<&str> = Kit::shapes()
        .iter()
        .map(|shape| shape.name.as_str())
        .collect();
    let mut alone = ALONE.to_vec();
    shapes.sort_unstable();
    alone.sort_unstable();
    assert_eq!(shapes, alone);
}

#[test]
fn all_shapes_at_once() {
    let _turn = heavy();
    let shapes: Vec<&Shape> = Kit::shapes().iter().collect();
    for cell in Cell::all() {
        ends(cell, &["mixed"], &shapes);
    }
}

/// The first `count` of the light shapes, over and over.
fn light(count: usize) -> Vec<&'static Shape> {
    Kit::shapes()
        .iter()
        .filter(|shape| !shape.heavy)
        .cycle()
        .take(count)
        .collect()
}

#[test]
fn fifty_deep() {
    let _turn = heavy();
    for cell in Cell::all() {
        ends(cell, &["deep", "50"], &light(50));
    }
}

#[test]
fn five_hundred_wide() {
    let _turn = heavy();
    for cell in Cell::all() {
        ends(cell, &["wide", "500"], &light(500));
    }
}

#[test]
fn the_command_itself_is_the_shape() {
    for cell in Cell::all() {
        for name in [
            "double-fork",
            "setsid",
            "wrapper",
            "reexec",
            "stderr-sleep",
            "pipe-holder",
            "scrubbed",
        ] {
            let scene = Scene::new(cell);
            let mut command = scene.misbehave(&["--grace", "300ms"], &["direct", name]);
            let since = Instant::now();
            let outcome = scene.outcome(&mut command);
            scene.await_none(name, since, LIMIT);
            assert_eq!(outcome.code, 0, "{name}: {}", outcome.err);
        }
    }
}
