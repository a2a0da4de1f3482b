//! A terminal, and someone who types into it.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, Mode, OFlags, fcntl_setfl, openat};
use rustix::io::{Errno, read, write};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{SOON, wait_until_or};

/// A pseudoterminal's master side.
pub(crate) struct Pty {
    master: OwnedFd,
    slave: File,
    text: RefCell<String>,
}

impl Pty {
    /// A new one of 24 lines by 80 columns.
    pub(crate) fn new() -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("openpt");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("ptsname");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = openat(CWD, name.as_c_str(), flags, Mode::empty()).expect("open the slave");
        fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK).expect("fcntl");
        let pty = Self {
            master,
            slave: slave.into(),
            text: RefCell::default(),
        };
        pty.resize(24, 80);
        pty
    }

    /// Gives its size; the foreground group gets SIGWINCH.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).expect("TIOCSWINSZ");
    }

    /// Connects the command's standard streams to it.
    pub(crate) fn connect<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let slave = || Stdio::from(self.slave.try_clone().expect("dup"));
        command.stdin(slave()).stdout(slave()).stderr(slave())
    }

    /// The side that programs have.
    #[allow(dead_code, reason = "not all suites look at it")]
    pub(crate) fn slave(&self) -> &File {
        &self.slave
    }

    /// Types `text`.
    pub(crate) fn input(&self, text: &str) {
        assert_eq!(
            write(&self.master, text.as_bytes()),
            Ok(text.len()),
            "typing"
        );
    }

    /// What has appeared since the last [`Pty::expect`] that found something.
    pub(crate) fn screen(&self) -> String {
        let mut block = [0; 4096];
        loop {
            match read(&self.master, &mut block) {
                Ok(0) | Err(Errno::AGAIN | Errno::IO) => return self.text.borrow().clone(),
                Ok(length) => self
                    .text
                    .borrow_mut()
                    .push_str(&String::from_utf8_lossy(&block[..length])),
                Err(Errno::INTR) => {}
                Err(error) => panic!("reading the terminal: {error}"),
            }
        }
    }

    /// Waits until `text` appears, and forgets all up to it.
    pub(crate) fn expect(&self, text: &str) -> String {
        wait_until_or(
            &format!("{text:?} on the terminal"),
            SOON,
            || self.screen().contains(text),
            || format!("on the terminal: {:?}", self.screen()),
        );
        let all = self.text.take();
        let end = all.find(text).expect("just seen") + text.len();
        self.text.replace(all[end..].to_owned());
        all[..end].to_owned()
    }
}
