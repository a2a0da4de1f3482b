//! In a terminal, under an interactive shell: stop, resume, resize, and shells within, as if `hostler` were not there.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use crate::support::{Cell, Contain, Found, Front, Pty, SOON, Scene, wait_until, wait_until_or};

const LIMIT: Duration = Duration::from_millis(1300);

/// An interactive bash in a terminal of its own, with `$run` for `hostler run --grace 300ms --contain …` and `$bad` for the
/// misbehaving program.
struct Shell<'a> {
    scene: &'a Scene,
    pty: Pty,
    front: Front<'a>,
}

const BASH: &str = "bash --norc --noprofile --noediting -i";

impl<'a> Shell<'a> {
    fn new(scene: &'a Scene) -> Self {
        let pty = Pty::new();
        let words = ["setsid", "-c"].into_iter().chain(BASH.split(' '));
        let mut command = scene.wrapped(words);
        let run = scene.run_words(&["--grace", "300ms"], [""; 0]);
        let run = run
            .into_iter()
            .map(|word: OsString| word.into_string().expect("text"))
            .collect::<Vec<_>>()
            .join(" ");
        command
            .env("run", run)
            .env("bad", scene.kit.misbehave())
            .env("MISBEHAVE_EXIT", "7");
        command
            .env("PS1", "prompt> ")
            .env("HISTFILE", "")
            .env("TERM", "dumb");
        let front = scene.start_as_is(
            pty.connect(&mut command),
            scene.path("none"),
            scene.path("none"),
        );
        pty.expect("prompt> ");
        Self { scene, pty, front }
    }

    /// Types a line, and forgets what it looks like on the screen.
    fn line(&self, line: &str) {
        self.pty.input(&format!("{line}\n"));
        self.pty.expect("\n");
    }

    /// What the last command ended with.
    fn assert_status(&self, status: i32) {
        // Written so that its echo does not look like its output.
        self.line("echo en\"\"ded: $?");
        let screen = self.pty.expect("ended: ");
        let rest = || self.pty.screen();
        wait_until("the status", SOON, || rest().contains('\n'));
        assert_eq!(
            rest().lines().next().map(str::trim),
            Some(status.to_string().as_str()),
            "{screen}"
        );
    }

    /// Waits for the main process of a shape, and gives back who it is.
    fn main(&self) -> Found {
        let main = || self.scene.ready.number("main");
        wait_until_or("it stands", SOON, || main().is_some(), || self.pty.screen());
        Found::read(main().expect("it stands")).expect("it lives")
    }

    /// Waits until a process is in that state.
    fn state(&self, who: &Found, state: char) {
        let now = || Found::read(who.pid).map(|found| found.state);
        wait_until_or(
            &format!("state {state}"),
            SOON,
            || now() == Some(state),
            || format!("{:?}: {}", now(), self.pty.screen()),
        );
    }

    /// Waits until none of the scene's processes called `name` is stopped.
    fn none_stopped(&self, name: &str) {
        let stopped = || {
            self.scene
                .living()
                .iter()
                .any(|found| found.name == name && found.state == 'T')
        };
        wait_until_or(
            &format!("{name} goes on"),
            SOON,
            || !stopped(),
            || self.pty.screen(),
        );
    }

    /// Ends the shell, and waits until nothing is left.
    fn end(mut self) {
        self.line("kill $(jobs -p) 2>/dev/null; exit 0");
        let since = Instant::now();
        // What is left in the background gets a second request.
        self.pty.input("exit 0\n");
        self.front.wait(SOON);
        self.scene.await_none("the shell", since, LIMIT);
    }
}

/// In a pid namespace, what a process knows its pid to be is not what is outside, so it's left to the other tests.
fn cells() -> impl Iterator<Item = Cell> {
    Cell::all()
        .into_iter()
        .filter(|cell| cell.contain != Contain::Pidns)
}

#[test]
fn ctrl_z_and_fg_and_bg() {
    for cell in cells() {
        let scene = Scene::new(cell);
        let shell = Shell::new(&scene);
        shell.line("$run $bad alone double-fork");
        let main = shell.main();
        for _ in 0..3 {
            shell.pty.input("\x1a");
            shell.pty.expect("Stopped");
            shell.pty.expect("prompt> ");
            shell.state(&main, 'T');
            shell.line("fg");
            shell.state(&main, 'S');
        }
        shell.pty.input("\x1a");
        shell.pty.expect("Stopped");
        shell.pty.expect("prompt> ");
        shell.line("bg");
        shell.state(&main, 'S');
        shell.line("jobs");
        shell.pty.expect("Running");
        shell.pty.expect("prompt> ");
        shell.line("fg");
        scene.go();
        shell.pty.expect("prompt> ");
        shell.assert_status(7);
        shell.end();
    }
}

#[test]
fn ctrl_z_and_fg_in_a_pid_namespace() {
    for cell in Cell::all()
        .into_iter()
        .filter(|cell| cell.contain == Contain::Pidns)
    {
        let scene = Scene::new(cell);
        let shell = Shell::new(&scene);
        shell.line("$run sh -c 'echo on 1; read x; echo got $x'");
        shell.pty.expect("on 1");
        shell.pty.input("\x1a");
        shell.pty.expect("Stopped");
        shell.pty.expect("prompt> ");
        shell.line("fg");
        shell.line("what is typed");
        shell.pty.expect("got what is typed");
        shell.pty.expect("prompt> ");
        shell.assert_status(0);
        shell.end();
    }
}

#[test]
fn ctrl_c_and_ctrl_backslash() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let shell = Shell::new(&scene);
        for (key, status) in [("\x03", 130), ("\x1c", 131)] {
            shell.line("ulimit -c 0; $run sh -c 'echo is\" \"on; exec sleep 100'");
            shell.pty.expect("is on");
            shell.pty.input(key);
            shell.pty.expect("prompt> ");
            shell.assert_status(status);
        }
        shell.end();
    }
}

#[test]
fn the_command_reads_and_writes_the_terminal() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let shell = Shell::new(&scene);
        shell.line("$run sh -c 'test -t 0 -a -t 1 -a -t 2 && echo a\" \"terminal: $(tty); stty size; cat; exit 4'");
        shell.pty.expect("a terminal: /dev/pts/");
        shell.pty.expect("24 80");
        shell.line("typed once");
        shell.pty.expect("typed once");
        shell.pty.input("\x04");
        shell.pty.expect("prompt> ");
        shell.assert_status(4);
        shell.end();
    }
}

#[test]
fn the_terminals_size() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let shell = Shell::new(&scene);
        let log = scene.lines("log");
        shell.line(&format!("$run $bad sizes {}", log.path().display()));
        log.wait_for("the first size", SOON, |lines| lines.len() == 1);
        shell.pty.resize(50, 132);
        log.wait_for("the second size", SOON, |lines| lines.len() == 2);
        shell.pty.resize(10, 20);
        log.wait_for("the third size", SOON, |lines| lines.len() == 3);
        assert_eq!(log.all(), ["24 80", "50 132", "10 20"]);
        scene.go();
        shell.pty.expect("prompt> ");
        shell.assert_status(0);
        shell.end();
    }
}

#[test]
fn a_shell_within() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let shell = Shell::new(&scene);
        shell.line(&format!("PS1='inner> ' $run {BASH}"));
        let greeting = shell.pty.expect("inner> ");
        assert!(!greeting.contains("no job control"), "{greeting}");
        shell.line("sleep 100 &");
        shell.line("jobs");
        shell.pty.expect("Running");
        shell.pty.expect("inner> ");
        shell.line("sleep 99");
        let asleep = || {
            scene
                .living()
                .iter()
                .any(|found| found.name == "sleep" && found.command_line().contains("99"))
        };
        wait_until("it sleeps", SOON, asleep);
        shell.pty.input("\x1a");
        shell.pty.expect("Stopped");
        shell.pty.expect("inner> ");
        shell.line("fg %2");
        shell.none_stopped("sleep");
        shell.pty.input("\x03");
        shell.pty.expect("inner> ");
        shell.assert_status(130);
        shell.line("exit 5");
        shell.pty.expect("prompt> ");
        shell.assert_status(5);
        wait_until_or(
            "its job is gone",
            LIMIT,
            || !scene.living().iter().any(|found| found.name == "sleep"),
            || format!("{:?}", scene.living()),
        );
        // And the outer one still has the terminal.
        shell.line("sleep 98");
        wait_until("it sleeps", SOON, || {
            scene.living().iter().any(|found| found.name == "sleep")
        });
        shell.pty.input("\x1a");
        shell.pty.expect("Stopped");
        shell.line("kill -9 %1");
        shell.end();
    }
}

#[test]
fn in_the_background_it_may_not_read() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let shell = Shell::new(&scene);
        shell.line("$run sh -c 'read x; echo it\" \"got $x' &");
        // The job says so at the next prompt.
        wait_until_or(
            "it is stopped",
            SOON,
            || {
                shell.line("jobs");
                shell.pty.screen().contains("Stopped")
            },
            || shell.pty.screen(),
        );
        shell.line("fg");
        shell.line("a line");
        shell.pty.expect("it got a line");
        shell.end();
    }
}

#[test]
fn in_a_pipeline() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let shell = Shell::new(&scene);
        // `exec`: a shell that is between vfork and exec when its child is stopped does not stop itself, with or without
        // hostler.
        shell.line(
            "$bad tick 20 400 | $run sh -c 'read x; echo be\" \"gun; exec cat >/dev/null' | cat",
        );
        shell.pty.expect("be gun");
        shell.pty.input("\x1a");
        shell.pty.expect("Stopped");
        shell.pty.expect("prompt> ");
        shell.line("fg");
        shell.none_stopped("misbehave");
        shell.pty.input("\x03");
        shell.pty.expect("prompt> ");
        shell.line("jobs; echo no\" \"jobs");
        assert!(!shell.pty.expect("no jobs").contains("Stopped"));
        shell.end();
    }
}

#[test]
fn the_terminal_is_closed() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let mut shell = Shell::new(&scene);
        shell.line("$run $bad wide 20");
        scene.ready.wait_for("it stands", SOON, |lines| {
            lines.iter().any(|line| line.starts_with("main"))
        });
        let since = Instant::now();
        drop(shell.pty);
        shell.front.wait(SOON);
        scene.await_none("the terminal is closed", since, LIMIT * 2);
    }
}
